"""Regions of physical quantities, such as `x>0.1 & grip<0.02`, in the units of the sensors."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Region:
    """The intersection of conditions on quantities."""

    text: str  # the conditions as written
    indices: tuple[int, ...]  # of the quantities
    signs: tuple[float, ...]  # +1 for a quantity above its bound, -1 for one below
    bounds: tuple[float, ...]  # in the unit of the quantity

    def depth(self, quantities: Tensor) -> Tensor:
        """Return the distance of quantities (..., G) to the boundary, (...); negative outside."""
        bounds, signs = (quantities.new_tensor(values) for values in (self.bounds, self.signs))
        return (signs * (quantities[..., list(self.indices)] - bounds)).amin(dim=-1)


def read_region(text: str, names: Sequence[str]) -> Region:
    """Read conditions NAME>NUMBER or NAME<NUMBER joined by `&`; see `find_quantity`.

    Raises:
        ValueError: a condition cannot be read, or a name matches no quantity or several.
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
    """Return the index of a quantity by its name, or by the end of its name if that is unique."""
    found = [name for name in names if name == text]
    found = found or [name for name in names if name.rpartition(".")[2] == text]
    if len(found) != 1:
        raise ValueError(
            f"{text!r} is {'several' if found else 'none'} of the quantities that can be "
            f"read: {', '.join(names)}"
        )
    return names.index(found[0])


def find_quantities(text: str, names: Sequence[str]) -> list[int]:
    """Return the indices of quantities, such as `x, cube`: by name, or all of one sensor."""
    indices: list[int] = []
    for part in text.replace(" ", "").split(","):
        of_sensor = [i for i, name in enumerate(names) if name.rpartition(".")[0] == part]
        indices += of_sensor or [find_quantity(part, names)]
    return indices
