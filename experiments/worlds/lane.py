"""Lane: strike a puck so that it comes to rest where a goal image shows it, out of reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mujepa.envs.behaviour import RedNoise
from mujepa.envs.task import Task
from mujepa.envs.types import Array, DistanceMetric, Dynamics, JointState, Model, Rng

TOUCHING = 0.12
"""Distance of the middles of puck and pusher where they touch [m]."""


@dataclass(frozen=True)
class Lane(Task):
    """Bring the puck to rest within 8 cm of a place where the pusher cannot follow, in 3.2 s.

    A motor moves the pusher with at most 12 N in the near part of the lane, against a drag of 6 N
    at 1 m/s; the puck slides on.
    """

    name: str = "lane"
    mjcf: Path = Path(__file__).parent / "lane.xml"
    goal_sensors: tuple[str, ...] = ("puck",)
    tolerance: float = 0.08
    substeps: int = 4
    frame_skip: int = 5
    budget_steps: int = 80
    behaviour: RedNoise = field(default_factory=lambda: RedNoise((0.3, 0.9), (0.3, 0.9)))
    extra_noise_dims: int = 1
    episodes: int = 1000
    episode_steps: int | None = 16
    distance_metric: DistanceMetric = "remaining"
    antialias: bool = True

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw where the puck lies in reach, and the pusher behind it, at rest."""
        puck = rng.uniform(-0.5, -0.3)
        pusher = puck - TOUCHING - rng.uniform(0.01, 0.12)
        return np.array([puck, 0.0, pusher]), np.zeros(3)

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Draw where the puck is to rest, and where the pusher happens to be."""
        return np.array([rng.uniform(0.1, 0.65), 0.0, rng.uniform(-0.7, -0.25)])

    def sample_anywhere(self, model: Model, rng: Rng) -> JointState:
        """Draw a start as judged episodes have it, or, of one in four, a puck anywhere in front."""
        pose, velocities = self.sample_start(model, rng)
        if rng.random() < 0.25:
            pose[0] = rng.uniform(pose[0], model.joint("puck").range[1])
        return pose, velocities

    def behave(self, world: Dynamics, states: Array, noise: Array) -> Array:
        """Push and pull, gently more often than hard, and now and then not at all."""
        push, rest = noise[:, :1], noise[:, 1:] > 0.8
        return np.where(rest, 0.0, push * np.abs(push) + 0.1)
