"""Double pendulum: swing two links up with motors too weak to lift them, and hold them upright."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mujepa.envs.task import ASSETS, Task, largest_distance
from mujepa.envs.types import Array, Dynamics, JointState, Model, Rng

Gains: TypeAlias = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class DoublePendulum(Task):
    """From hanging to upright, tip and elbow within 20 cm, through the last of 6 s.

    The elbow counts too: with a bent elbow, the tip of a leaning arm gets as near.
    """

    name: str = "double_pendulum"
    mjcf: Path = ASSETS / "double_pendulum.xml"
    goal_sensors: tuple[str, ...] = ("tip", "elbow")
    tolerance: float = 0.2
    antialias: bool = True
    substeps: int = 1
    frame_skip: int = 3
    budget_steps: int = 300
    hold_steps: int = 50
    episode_steps: int | None = 60
    extra_noise_dims: int = 1
    episodes: int = 2500
    # From angles and speeds of shoulder and elbow to the motors (A) in units of their bounds: the
    # linear-quadratic regulator of the model step.
    gains: Gains = ((-5.8, -1.4, -1.46, -0.43), (-4.25, -3.6, -1.23, -0.62))
    noise_share: float = 0.5  # of the noise that is added to the balance
    start_error: float = 0.25  # largest distance from balance, of starts that are balanced [rad]
    balanced: int = 1  # of `balanced + 3` episodes of experience, this many start balanced

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw angles within 6 degrees of hanging, at rest."""
        return HANGING + rng.uniform(-0.1, 0.1, 2), np.zeros(2)

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Return upright."""
        return np.zeros(2)

    def behave(self, world: Dynamics, states: Array, noise: Array) -> Array:
        """Balance links that the motors can still catch, or push at random, as in `Cartpole`."""
        lean = (states[:, 1:3] + np.pi) % (2 * np.pi) - np.pi
        balance = np.concatenate([lean, states[:, 3:5]], axis=1) @ np.array(self.gains).T
        near = (np.abs(lean).max(axis=1) < 1.3) & (np.abs(balance).max(axis=1) < 2)
        pushes, steady = noise[:, :-1], near & (noise[:, -1] > -1)
        return np.where(steady[:, None], balance + self.noise_share * pushes, pushes)

    def sample_anywhere(self, model: Model, rng: Rng) -> JointState:
        """Draw links that are balanced, swing up, hang, or have any angles; with speeds."""
        kind = rng.integers(3 + self.balanced)
        if kind == 0 or kind > 3:  # balanced: the shoulder leans against the elbow
            bend, speed = rng.uniform(-0.6, 0.6), rng.uniform(-3, 3)
            error = rng.uniform(-self.start_error, self.start_error, (2, 2))
            return bend * LEANING + error[0], rng.random() * (speed * LEANING + 5 * error[1])
        if kind == 1:  # stretched, at about the speed of a swing-up
            turn, bend = rng.uniform(-np.pi, np.pi), rng.uniform(-0.3, 0.3)
            speed = -7.5 * np.sin(turn / 2) * rng.uniform(0.8, 1.3)
            return np.array([turn, bend]), np.array([speed, rng.uniform(-2, 2)])
        speeds = rng.random() * rng.uniform(-1, 1, 2) * (10, 12)
        if kind == 2:
            return HANGING + rng.uniform(-0.3, 0.3, 2), speeds
        return rng.uniform(-np.pi, np.pi, 2), speeds

    def distance(self, achieved: Array, desired: Array) -> Array:
        """Return the larger of the distances of tip and elbow [m]."""
        return largest_distance(achieved, desired)


HANGING = np.array([np.pi, 0.0])
"""Angles of shoulder and elbow, at rest and without a motor [rad]."""
LEANING = np.array([-0.35, 1.0])
"""Angles of shoulder and elbow of bent links whose weight is above the pivot, to first order."""
