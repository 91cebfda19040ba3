"""Cup: swing a ball that hangs from a cup on a string up into the cup, and hold it there."""

# MuJoCo's compiled names have no stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mujepa.envs.task import ASSETS, Task

if TYPE_CHECKING:
    from pathlib import Path

    import mujoco
    from numpy.typing import NDArray

    from mujepa.envs.task import Pose


@dataclass(frozen=True)
class Cup(Task):
    """From hanging to lying in the cup, the ball within 6 cm of the middle, for the last second."""

    name: str = "cup"
    mjcf: Path = ASSETS / "cup.xml"
    goal_sensors: tuple[str, ...] = ("ball",)
    tolerance: float = 0.06
    frame_skip: int = 4
    budget_steps: int = 250
    hold_steps: int = 50
    episode_steps: int | None = 60
    recipe: tuple[str, ...] = ("--critic.history", "2", "--planner.horizon", "10")

    def sample_start(self, model: mujoco.MjModel, rng: np.random.Generator) -> Pose:
        """Draw a place of the cup; the ball hangs below it, at rest."""
        cup = rng.uniform(-0.15, 0.15, 2)
        return np.array([*cup, cup[0], cup[1] + HANGING]), np.zeros(4)

    def sample_goal(self, model: mujoco.MjModel, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the ball lying in the cup, in the middle."""
        return np.array([0.0, 0.0, 0.0, LYING])

    def sample_anywhere(self, model: mujoco.MjModel, rng: np.random.Generator) -> Pose:
        """Draw a place of the cup; the ball is within the string's reach, or in the cup."""
        cup, speed = rng.uniform(-0.2, 0.2, 2), rng.uniform(-1, 1, 4)
        if rng.random() < 0.5:
            return np.array([*cup, cup[0], cup[1] + LYING]), 0.3 * speed[[0, 1, 0, 1]]
        angle, length = rng.uniform(-np.pi, np.pi), rng.uniform(0.2, 0.3)
        ball = cup + np.array([length * np.sin(angle), LYING - 0.025 - length * np.cos(angle)])
        return np.array([*cup, *ball]), speed


HANGING, LYING = -0.325, 0.01
"""Height of the ball over its place in the model's file, hanging and lying in the cup [m]."""
