"""Regions of physical quantities, such as `x>0.1 & grip<0.02`, in the units of the sensors."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Region:
    """Where several quantities lie on the named side of a bound, all at once.

    Attributes:
        text: as it was written.
        indices: which quantities.
        signs: +1 for those above their bound, -1 for those below.
        bounds: in the quantity's own unit.
    """

    text: str
    indices: tuple[int, ...]
    signs: tuple[float, ...]
    bounds: tuple[float, ...]

    def depth(self, quantities: Tensor) -> Tensor:
        """Return how far inside quantities (..., G) lie, (...); negative outside."""
        bounds, signs = (quantities.new_tensor(values) for values in (self.bounds, self.signs))
        return (signs * (quantities[..., list(self.indices)] - bounds)).amin(dim=-1)


def read_region(text: str, names: Sequence[str]) -> Region:
    """Read conditions NAME>NUMBER or NAME<NUMBER joined by `&`.

    Args:
        text: the conditions.
        names: of the G quantities, such as `ball.x`; `x` alone is enough where it is the only one.

    Raises:
        ValueError: a condition cannot be read, or a name is not one, or more than one.
    """
    sides = []
    for part in text.replace(" ", "").split("&"):
        match = re.fullmatch(r"([A-Za-z_][\w.]*)([<>])(-?\d*\.?\d+(?:e-?\d+)?)", part)
        if not match:
            raise ValueError(f"cannot read condition {part!r}; write it as NAME>NUMBER")
        index = find_quantity(match[1], names)
        if not math.isfinite(float(match[3])):
            raise ValueError(f"bound {match[3]} is not finite")
        sides.append((index, 1.0 if match[2] == ">" else -1.0, float(match[3])))
    indices, signs, bounds = zip(*sides, strict=True)
    return Region(text.replace(" ", ""), indices, signs, bounds)


def find_quantity(text: str, names: Sequence[str]) -> int:
    """Return which quantity a name means: the whole name, or its end where that is enough.

    Raises:
        ValueError: none, or several.
    """
    found = [name for name in names if name == text]
    found = found or [name for name in names if name.rpartition(".")[2] == text]
    if len(found) != 1:
        raise ValueError(
            f"{text!r} is {'several' if found else 'none'} of the quantities that can be "
            f"read: {', '.join(names)}"
        )
    return names.index(found[0])


def find_quantities(text: str, names: Sequence[str]) -> list[int]:
    """Return which quantities `x, cube` means: single ones, or all that a sensor reads.

    Raises:
        ValueError: a name means none, or several that are not those of one sensor.
    """
    indices: list[int] = []
    for part in text.replace(" ", "").split(","):
        of_sensor = [i for i, name in enumerate(names) if name.rpartition(".")[0] == part]
        indices += of_sensor or [find_quantity(part, names)]
    return indices
