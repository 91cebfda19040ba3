"""Cup: swing a ball that hangs from a cup on a string up into the cup, and hold it there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mujepa.envs.task import ASSETS, Task, largest_distance
from mujepa.envs.types import Array, JointState, Model, Rng


@dataclass(frozen=True)
class Cup(Task):
    """From hanging to lying in the cup in the middle, both within 8 cm, for the last 1 s.

    The cup counts too: a ball that dangles below a raised cup is in the middle as well.
    """

    name: str = "cup"
    mjcf: Path = ASSETS / "cup.xml"
    goal_sensors: tuple[str, ...] = ("ball", "cup")
    tolerance: float = 0.08
    frame_skip: int = 4
    budget_steps: int = 250
    hold_steps: int = 50
    episode_steps: int | None = 60

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw a place of the cup; the ball hangs below it, at rest."""
        cup = rng.uniform(-0.15, 0.15, 2)
        return np.array([*cup, cup[0], cup[1] + HANGING]), np.zeros(4)

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Return the ball lying in the cup, in the middle."""
        return np.array([0.0, 0.0, 0.0, LYING])

    def sample_anywhere(self, model: Model, rng: Rng) -> JointState:
        """Draw a place of the cup; the ball hangs, is within the string's reach, or in the cup."""
        cup, speed = rng.uniform(-0.2, 0.2, 2), rng.uniform(-1, 1, 4)
        kind = rng.random()
        if kind < 0.2:
            return np.array([*cup, cup[0], cup[1] + HANGING]), 0.3 * speed[[0, 1, 0, 1]]
        if kind < 0.6:
            return np.array([*cup, cup[0], cup[1] + LYING]), 0.3 * speed[[0, 1, 0, 1]]
        angle, length = rng.uniform(-np.pi, np.pi), rng.uniform(0.2, 0.3)
        ball = cup + np.array([length * np.sin(angle), LYING - 0.025 - length * np.cos(angle)])
        return np.array([*cup, *ball]), speed

    def distance(self, achieved: Array, desired: Array) -> Array:
        """Return the larger of the distances of ball and cup [m]."""
        return largest_distance(achieved, desired)

    def remaining(self, achieved: Array, desired: Array) -> Array:
        """Return the distance of the ball from the cup, and half of the cup's from its goal."""
        ball, cup = achieved[..., :3] - desired[..., :3], achieved[..., 3:] - desired[..., 3:]
        return np.linalg.norm(ball - cup, axis=-1) + 0.5 * np.linalg.norm(cup, axis=-1)


HANGING, LYING = -0.325, 0.01
"""Height of the ball over its place in the model's file, hanging and lying in the cup [m]."""
