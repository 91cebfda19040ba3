"""Two rooms: a point mass goes through the door to where a goal image shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mujepa.envs.task import ASSETS, Task
from mujepa.envs.types import Array, DistanceMetric, Dynamics, JointState, Model, Rng

ROOM, DOOR = 0.45, 0.05
"""How far the agent's centre gets from the middle: to the walls, and sideways in the door [m]."""
DIVIDER = 0.08
"""Half the strip around the dividing wall in which neither starts nor goals lie [m]."""


@dataclass(frozen=True)
class TwoRoom(Task):
    """From anywhere in one room to anywhere in the other, within 5 cm, in 4 s."""

    name: str = "two_room"
    mjcf: Path = ASSETS / "two_room.xml"
    goal_sensors: tuple[str, ...] = ("agent",)
    tolerance: float = 0.05
    distance_metric: DistanceMetric = "remaining"

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw a place in the west room, at rest; `sample_ends` may swap it with the goal."""
        return _place(rng, side=-1), np.zeros(2)

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Draw a place in the east room."""
        return _place(rng, side=1)

    def sample_ends(self, world: Dynamics, rng: Rng) -> tuple[Array, Array]:
        """Draw a place in either room; either may be the start."""
        ends = super().sample_ends(world, rng)
        return ends if rng.random() < 0.5 else (ends[1], ends[0])

    def sample_anywhere(self, model: Model, rng: Rng) -> JointState:
        """Draw a place in either room, at rest."""
        return _place(rng, side=rng.choice([-1, 1])), np.zeros(2)

    def remaining(self, achieved: Array, desired: Array) -> Array:
        """Return the length of the way through the door [m]."""
        across = (achieved[..., 0] < 0) != (desired[..., 0] < 0)
        share = achieved[..., 0] / np.where(across, achieved[..., 0] - desired[..., 0], 1.0)
        crossing = achieved[..., 1] + share * (desired[..., 1] - achieved[..., 1])
        door = np.zeros((*crossing.shape, 3))
        door[..., 1] = np.clip(crossing, -DOOR, DOOR)
        detour = self.distance(achieved, door) + self.distance(door, desired)
        return np.where(across, detour, self.distance(achieved, desired))


def _place(rng: Rng, side: int) -> Array:
    return np.array([side * rng.uniform(DIVIDER, ROOM), rng.uniform(-ROOM, ROOM)])
