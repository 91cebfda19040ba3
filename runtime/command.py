"""Run a function as a command: settings from the command line, errors as exit codes.

`--help` leaves out the fields that are marked as `Advanced`, single ones or whole groups:

    @settings
    class TrainConfig:
        updates: Count = 2000
        betas: Advanced[tuple[float, float]] = (0.9, 0.95)
        loss: Advanced[LossConfig] = LossConfig()

They can be given like all others; `--help-all` lists them too.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Protocol, TypeVar, get_type_hints, runtime_checkable

from mujepa.runtime import console
from mujepa.runtime.errors import UserError, explanation

T = TypeVar("T")
Config = TypeVar("Config")

ADVANCED = "advanced"
Advanced = Annotated[T, ADVANCED]
"""The type of a field that only `--help-all` shows; it needs a default."""


@runtime_checkable
class HasFlags(Protocol):
    """A configuration that knows better defaults than its own, once it was read."""

    def flags(self) -> Sequence[str]:
        """Return flags to put before those of the user, who has the last word."""
        ...


def run(
    function: Callable[[Config], Any],
    config: type[Config],
    arguments: list[str] | None = None,
    name: str | None = None,
) -> int:
    """Read a configuration from the command line, call the function, turn errors into exit codes.

    Returns:
        0 on success, 2 after bad input (one line on stderr), 130 after an interruption.
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
    """Return a configuration from the command line; flags that it asks for itself come first.

    Raises:
        UserError: a flag is unknown, or a value is not allowed.
        SystemExit: help was asked for, or the command line cannot be parsed.
    """
    try:
        if "--help-all" in arguments:
            return _parse(config, ["--help"], name)
        if {"-h", "--help"} & set(arguments):
            basic = _basic(config)
            note = "" if basic is config else "\n\n--help-all shows all settings."
            return _parse(basic, ["--help"], name, note)
        _check_flags(config, arguments, name)
        settings = _parse(config, arguments, name)
        if isinstance(settings, HasFlags):
            settings = _parse(config, [*settings.flags(), *arguments], name)
        return settings
    except UserError as error:
        if console.is_main_process():  # every process of a training reads the same line
            raise UserError(_full_flag(str(error), arguments)) from None
        raise SystemExit(2) from None


def flag_names(config: type, prefix: str = "") -> Iterator[str]:
    """Yield the flags of a configuration without dashes, such as `jepa.encoder.width`."""
    hints = get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        metadata = getattr(hints[field.name], "__metadata__", ())
        name = next((it.name for it in metadata if getattr(it, "name", None)), field.name)
        flag, hint = prefix + name.replace("_", "-"), hints[field.name]
        kind = hint.__origin__ if metadata else hint
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from flag_names(kind, f"{flag}.")
        else:
            yield flag


def _parse(
    config: type[Config], arguments: Sequence[str], name: str | None, note: str = ""
) -> Config:
    import tyro

    return tyro.cli(
        config, args=arguments, prog=name,
        description=inspect.cleandoc(config.__doc__ or "") + note,
        console_outputs=console.is_main_process(),
    )  # fmt: skip


@functools.cache
def _basic(config: type) -> type:
    """Return a configuration whose advanced fields have no flags, to show its help."""
    import tyro

    hints: dict[str, Any] = {}
    fields = dict(config.__dataclass_fields__)  # type: ignore[attr-defined]
    for name, hint in get_type_hints(config, include_extras=True).items():
        if ADVANCED in getattr(hint, "__metadata__", ()):
            hints[name] = tyro.conf.Suppress[hint]
        elif dataclasses.is_dataclass(hint) and (basic := _basic(hint)) is not hint:
            hints[name] = basic
            fields[name] = field = copy.copy(fields[name])
            if field.default_factory is not dataclasses.MISSING:
                field.default = field.default_factory()
                field.default_factory = dataclasses.MISSING
            field.default = _as_basic(field.default, basic)
    names = {"__annotations__": hints, "__dataclass_fields__": fields, "__doc__": config.__doc__}
    return type(config.__name__, (config,), names) if hints else config


def _as_basic(settings: Any, basic: type) -> Any:  # noqa: ANN401
    """Return settings as an instance of their class without advanced fields."""
    made = copy.copy(settings)
    for name, kind in basic.__annotations__.items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            object.__setattr__(made, name, _as_basic(getattr(settings, name), kind))
    object.__setattr__(made, "__class__", basic)
    return made


def _check_flags(config: type, arguments: Sequence[str], name: str | None) -> None:
    """Refuse flags that do not exist, with the nearest that do."""
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
