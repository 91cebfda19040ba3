"""Types that worlds and tasks share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # MuJoCo takes a third of a second to load, and task tables do without
    import mujoco

Model: TypeAlias = "mujoco.MjModel"
Data: TypeAlias = "mujoco.MjData"
Rng: TypeAlias = np.random.Generator
Array: TypeAlias = NDArray[np.float64]
JointState: TypeAlias = tuple[Array, Array]
"""Joint positions (nq,) and velocities (nv,)."""
DistanceMetric: TypeAlias = Literal["joints", "remaining"]


class Dynamics(Protocol):
    """The part of a `World` that tasks use."""

    model: Any
    action_low: Array
    action_high: Array

    def state(self, qpos: Array, qvel: Array | None = None) -> Array:
        """Return the state (S,) of joint positions and velocities."""
        ...

    def achieved(self, states: Array) -> Array:
        """Return the goals (B, G) that states (B, S) achieve."""
        ...

    def step(self, states: Array, actions: NDArray[Any]) -> Array:
        """Return the states (B, S) one environment step later."""
        ...
