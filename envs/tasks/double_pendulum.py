"""Double pendulum: swing two links up with motors too weak to lift them, and hold them upright."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mujepa.envs.task import ASSETS, Task, largest_distance
from mujepa.envs.tasks.cartpole import Cartpole
from mujepa.envs.types import Array, Dynamics, JointState, Model, Rng

if TYPE_CHECKING:
    pass

    Gains = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class DoublePendulum(Task):
    """From hanging to upright, tip and elbow within 20 cm, through the last of 6 s.

    The elbow counts too: with a bent elbow, the tip of a leaning arm gets as near.

    Attributes:
        gains: of the balance, from angles and speeds of shoulder and elbow to the motors (A) in
            units of their bounds: the linear-quadratic regulator of the model step.
        shake: share of the noise that moves links that are balanced.
        wobble: how far from balance the links start that are to be balanced [rad].
        balanced: of so many and three more episodes, how many start about balanced.
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
    recipe: tuple[str, ...] = (
        *(*Cartpole.recipe, "--planner.samples", "96"),
        *("--cost", "critic + 5*goal"),
    )
    gains: Gains = ((-5.8, -1.4, -1.46, -0.43), (-4.25, -3.6, -1.23, -0.62))
    shake: float = 0.5
    wobble: float = 0.25
    balanced: int = 1

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw angles within 6 degrees of hanging, at rest."""
        return HANGING + rng.uniform(-0.1, 0.1, 2), np.zeros(2)

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Return upright."""
        return np.zeros(2)

    def behaviour_action(self, world: Dynamics, states: Array, noise: Array) -> Array:
        """Balance what is near upright, or push at random, as the noise has it; see `Cartpole`.

        Near is what the motors can still catch; the elbow bends far while it does.
        """
        lean = (states[:, 1:3] + np.pi) % (2 * np.pi) - np.pi
        balance = np.concatenate([lean, states[:, 3:5]], axis=1) @ np.array(self.gains).T
        near = (np.abs(lean).max(axis=1) < 1.3) & (np.abs(balance).max(axis=1) < 2)
        pushes, steady = noise[:, :-1], near & (noise[:, -1] > -1)
        return np.where(steady[:, None], balance + self.shake * pushes, pushes)

    def sample_anywhere(self, model: Model, rng: Rng) -> JointState:
        """Draw one of four: hanging, about balanced, swinging up, or any angles; with speeds.

        As with `Cartpole`, random torques bring the links to few of these by themselves.
        """
        kind = rng.integers(3 + self.balanced)
        if kind == 0 or kind > 3:  # balanced: what the elbow bends, the shoulder leans against
            bend, speed = rng.uniform(-0.6, 0.6), rng.uniform(-3, 3)
            wobble = rng.uniform(-self.wobble, self.wobble, (2, 2))
            return bend * LEANING + wobble[0], rng.random() * (speed * LEANING + 5 * wobble[1])
        if kind == 1:  # stretched, at about the speed that takes it up
            turn, bend = rng.uniform(-np.pi, np.pi), rng.uniform(-0.3, 0.3)
            speed = -7.5 * np.sin(turn / 2) * rng.uniform(0.8, 1.3)
            return np.array([turn, bend]), np.array([speed, rng.uniform(-2, 2)])
        speeds = rng.random() * rng.uniform(-1, 1, 2) * (10, 12)
        if kind == 2:
            return HANGING + rng.uniform(-0.3, 0.3, 2), speeds
        return rng.uniform(-np.pi, np.pi, 2), speeds

    def distance(self, achieved: Array, desired: Array) -> Array:
        """Return how far tip or elbow are from where they should be, whichever is more [m]."""
        return largest_distance(achieved, desired)


HANGING = np.array([np.pi, 0.0])
"""Angles of shoulder and elbow, at rest and without a motor [rad]."""
LEANING = np.array([-0.35, 1.0])
"""Angles of shoulder and elbow of bent links whose weight is above the pivot, to first order."""
