"""Run a function as a command: settings from the command line, errors as exit codes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from mujepa.runtime import console
from mujepa.runtime.errors import UserError, explanation

Config = TypeVar("Config")


@runtime_checkable
class HasFlags(Protocol):
    """A configuration that knows better defaults than its own, once it was read."""

    def flags(self) -> Sequence[str]:
        """Return flags to put before those of the user, who has the last word."""
        ...


def read(config: type[Config], arguments: Sequence[str], name: str | None = None) -> Config:
    """Read a configuration from the command line; flags that it asks for itself come first."""
    import tyro

    def parse(arguments: Sequence[str]) -> Config:
        return tyro.cli(
            config, args=arguments, prog=name, description=inspect.cleandoc(config.__doc__ or ""),
            console_outputs=console.is_main_process(),
        )  # fmt: skip

    try:
        settings = parse(arguments)
        return (
            parse([*settings.flags(), *arguments]) if isinstance(settings, HasFlags) else settings
        )
    except UserError:
        if console.is_main_process():  # several processes read the same line
            raise
        raise SystemExit(2) from None


def run(
    function: Callable[[Config], None],
    config: type[Config],
    arguments: list[str] | None = None,
    name: str | None = None,
) -> int:
    """Read a configuration from the command line, call the function, turn errors into exit codes.

    Returns:
        0 done, 2 bad input (one line on stderr says what and how to mend it), 130 interrupted.
    """
    try:
        function(read(config, sys.argv[1:] if arguments is None else arguments, name))
    except (UserError, OSError) as error:
        return _print_error(explanation(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _print_error(message: str) -> int:
    console.error(message)
    return 2
