"""Pendulum: swing it up with a motor that is too weak to lift it, and hold it upright."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mujepa.envs.task import ASSETS, Task
from mujepa.envs.types import Array, JointState, Model, Rng


@dataclass(frozen=True)
class Pendulum(Task):
    """From hanging to upright, the tip within 10 cm, through the last of 6 seconds."""

    name: str = "pendulum"
    mjcf: Path = ASSETS / "pendulum.xml"
    goal_sensors: tuple[str, ...] = ("tip",)
    tolerance: float = 0.1
    frame_skip: int = 2
    budget_steps: int = 150
    hold_steps: int = 25
    episode_steps: int | None = 60

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw an angle within 6 degrees of hanging, at rest."""
        return np.array([np.pi + rng.uniform(-0.1, 0.1)]), np.zeros(1)

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Return upright."""
        return np.zeros(1)

    def sample_anywhere(self, model: Model, rng: Rng) -> JointState:
        """Draw any angle and speed."""
        return rng.uniform(-np.pi, np.pi, 1), rng.uniform(-10, 10, 1)
