"""Settings: frozen dataclasses whose fields are checked, with one-line errors.

`CollectConfig(episodes=0)` raises `UserError("--episodes must be at least 1, got 0")`. The command
line (tyro), JSON files and Python callers all go through the same checks. A field that holds other
settings takes an instance or a dictionary. Checks across fields belong in `__post_init__`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar, cast, dataclass_transform

import pydantic
from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from mujepa.runtime.errors import UserError

Made = TypeVar("Made")
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]

PHRASES = {  # by pydantic's name of the error
    "greater_than_equal": "must be at least {ge:.10g}",
    "greater_than": "must be above {gt:.10g}",
    "less_than_equal": "must be at most {le:.10g}",
    "less_than": "must be below {lt:.10g}",
    "finite_number": "must be finite",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "unexpected_keyword_argument": "is not a setting",
}


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, Field))
def settings(cls: type[Made]) -> type[Made]:
    """Make a class a frozen dataclass that checks its fields and raises `UserError`."""
    made = dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))(cls)
    checked: Callable[..., None] = made.__init__

    @functools.wraps(checked)
    def init(self: object, *arguments: object, **named: object) -> None:
        try:
            checked(self, *arguments, **named)
        except ValidationError as error:
            raise UserError(explain(error)) from None

    made.__init__ = init
    return cast("type[Made]", made)


def explain(error: ValidationError, prefix: str = "--") -> str:
    """Return the first problem as one line: the name of the field, what it must be, what it is."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]).replace("_", "-")
    if first["type"] in PHRASES:
        said = PHRASES[first["type"]].format(**first.get("ctx", {}))
    else:
        said = f"is invalid: {first['msg'][:1].lower()}{first['msg'][1:]}"
    got = "" if first["type"] == "missing" else f", got {shown(first['input'])}"
    return f"{prefix}{name} {said}{got}"


def shown(value: object) -> str:
    """Return a value as an error message shows it, cut where it is long."""
    text = str(value) if isinstance(value, str | Path) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_settings(cls: type[Made], raw: object, source: str, remedy: str) -> Made:
    """Return settings from what a JSON file (`source`) holds; errors end with the remedy."""
    try:
        return pydantic.TypeAdapter(cls).validate_python(raw)
    except ValidationError as error:
        raise UserError(f"{source} is damaged ({explain(error, prefix='')}); {remedy}") from None
    except (ValueError, UserError) as error:
        raise UserError(f"{source} is damaged ({error}); {remedy}") from error
