"""Where the numbers of a sensor stand, and what they are called."""

# MuJoCo's compiled names have no stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco
    from numpy.typing import NDArray


def readings(model: mujoco.MjModel, sensor: str) -> NDArray[np.int64]:
    """Return where a sensor's numbers stand among all sensors' numbers."""
    first = int(model.sensor(sensor).adr[0])
    return np.arange(first, first + int(model.sensor(sensor).dim[0]))


def quantities(model: mujoco.MjModel, sensor: str) -> list[str]:
    """Return the names of a sensor's numbers: its own, or with an axis or an index."""
    size = len(readings(model, sensor))
    axes = "xyz" if size == 3 else map(str, range(size))
    return [sensor] if size == 1 else [f"{sensor}.{axis}" for axis in axes]
