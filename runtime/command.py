"""Run a function as a command: settings from the command line, errors as exit codes.

Fields marked as `Advanced`, such as `betas: Advanced[float] = 0.9`, have flags that only
`--help-all` lists. Fields marked as `NoFlag` are set in Python alone, and of a group marked
`Flags("horizon")` only the fields named there have a flag. All of them need a default.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

from mujepa.runtime import console
from mujepa.runtime.errors import UserError, explanation

T = TypeVar("T")
Config = TypeVar("Config")

ADVANCED = "advanced"
Advanced = Annotated[T, ADVANCED]
NO_FLAG = "no flag"
NoFlag = Annotated[T, NO_FLAG]


class Flags:
    """Marks a group of settings of which only some have flags, such as `encoder.dim`."""

    def __init__(self, *names: str) -> None:
        self.names = names


def make_callable(module: str, function: Callable[..., Any]) -> None:
    """Let `mujepa.train(...)` work after `import mujepa.train`, which hides the function."""
    kind = type("CallableModule", (types.ModuleType,), {"__call__": staticmethod(function)})
    sys.modules[module].__class__ = kind


def run(
    function: Callable[[Config], Any],
    config: type[Config],
    arguments: list[str] | None = None,
    name: str | None = None,
) -> int:
    """Read a configuration, call the function, and return the exit code.

    It is 0 on success, 2 after bad input (one line on stderr), 130 after an interruption.
    """
    try:
        function(read(config, sys.argv[1:] if arguments is None else arguments, name))
    except (UserError, OSError) as error:
        console.error(explanation(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def read(config: type[Config], arguments: Sequence[str], name: str | None = None) -> Config:
    """Return a configuration from the command line.

    Raises:
        UserError: a flag is unknown, or a value is not allowed.
        SystemExit: help was asked for, or the command line cannot be parsed.
    """
    try:
        if "--help-all" in arguments:
            return _parse(_basic(config, (NO_FLAG,)), ["--help"], name)
        if {"-h", "--help"} & set(arguments):
            basic = _basic(config, (NO_FLAG, ADVANCED))
            note = "" if basic is config else "\n\n--help-all shows all settings."
            return _parse(basic, ["--help"], name, note)
        _check_flags(config, arguments, name)
        settings = _parse(config, arguments, name)
        if defaults := getattr(settings, "defaults", None):  # they depend on the task
            settings = _parse(config, arguments, name, default=defaults())
        return settings
    except UserError as error:
        if console.is_main_process():  # every process of a training reads the same line
            raise UserError(_full_flag(str(error), arguments)) from None
        raise SystemExit(2) from None


def flag_names(
    config: type, prefix: str = "", only: tuple[str, ...] | None = None
) -> Iterator[str]:
    """Yield the flags of a configuration without dashes, such as `jepa.encoder.width`."""
    hints = get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        metadata = getattr(hints[field.name], "__metadata__", ())
        if NO_FLAG in metadata or not _named(field.name, only):
            continue
        name = next((it.name for it in metadata if getattr(it, "name", None)), field.name)
        flag, hint = prefix + name.replace("_", "-"), hints[field.name]
        kind = hint.__origin__ if metadata else hint
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from flag_names(kind, f"{flag}.", _only(field.name, metadata, only))
        else:
            yield flag


def _named(field: str, only: tuple[str, ...] | None) -> bool:
    return only is None or any(name.partition(".")[0] == field for name in only)


def _only(
    field: str, metadata: tuple[object, ...], only: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """Return which fields of a group have flags: those that are named, or all (None)."""
    inner = [name.partition(".")[2] for name in only or () if name.startswith(f"{field}.")]
    return tuple(inner) or next((it.names for it in metadata if isinstance(it, Flags)), None)


def _parse(
    config: type[Config],
    arguments: Sequence[str],
    name: str | None,
    note: str = "",
    default: Config | None = None,
) -> Config:
    import tyro

    return tyro.cli(
        config, args=arguments, prog=name,
        default=tyro.MISSING_NONPROP if default is None else default,
        description=inspect.cleandoc(config.__doc__ or "") + note,
        console_outputs=console.is_main_process(),
    )  # fmt: skip


@functools.cache
def _basic(config: type, hidden: tuple[str, ...], only: tuple[str, ...] | None = None) -> type:
    """Return a configuration whose hidden fields have no flags, to show its help."""
    import tyro

    hints: dict[str, Any] = {}
    fields = dict(config.__dataclass_fields__)  # type: ignore[attr-defined]
    for name, hint in get_type_hints(config, include_extras=True).items():
        metadata = getattr(hint, "__metadata__", ())
        kind = hint.__origin__ if metadata else hint
        if not _named(name, only) or any(mark in metadata for mark in hidden):
            hints[name] = tyro.conf.Suppress[hint]
        elif dataclasses.is_dataclass(kind):
            if (basic := _basic(kind, hidden, _only(name, metadata, only))) is kind:
                continue
            hints[name] = basic
            fields[name] = field = copy.copy(fields[name])
            if field.default_factory is not dataclasses.MISSING:
                field.default = field.default_factory()
                field.default_factory = dataclasses.MISSING
            field.default = _as_basic(field.default, basic)
    names = {"__annotations__": hints, "__dataclass_fields__": fields, "__doc__": config.__doc__}
    return type(config.__name__, (config,), names) if hints else config


def _as_basic(settings: Any, basic: type) -> Any:  # noqa: ANN401
    made = copy.copy(settings)
    for name, kind in basic.__annotations__.items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            object.__setattr__(made, name, _as_basic(getattr(settings, name), kind))
    object.__setattr__(made, "__class__", basic)
    return made


def _check_flags(config: type, arguments: Sequence[str], name: str | None) -> None:
    known = list(flag_names(config))
    for word in arguments:
        flag = word.partition("=")[0].removeprefix("--").replace("_", "-")
        if not re.match(r"--[a-zA-Z]", word) or flag in known or flag.removeprefix("no-") in known:
            continue
        near = [it for it in known if flag in (it.rpartition(".")[2], _initials(it))]
        near = near or difflib.get_close_matches(flag, known, n=1)
        hint = f"did you mean {' or '.join(f'--{it}' for it in near[:4])}?"
        raise UserError(
            f"unknown flag --{flag}; {hint if near else f'{name or sys.argv[0]} --help lists them'}"
        )


def _initials(flag: str) -> str:
    return "".join(part[0] for part in re.split(r"[-.]", flag))


def _full_flag(message: str, arguments: Sequence[str]) -> str:
    """Name a nested setting as it was given: a group of settings does not know its own name."""
    found = re.match(r"--([\w-]+) ", message)
    if not found:
        return message
    given = {word.partition("=")[0].replace("_", "-") for word in arguments if word[:2] == "--"}
    nested = [flag for flag in given if flag.endswith(f".{found[1]}")]
    if len(nested) != 1 or f"--{found[1]}" in given:
        return message
    return message.replace(f"--{found[1]}", nested[0], 1)
