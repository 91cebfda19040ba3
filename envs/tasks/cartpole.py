"""Cartpole: drive a cart so that the pole on it swings up, and hold it upright in the middle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mujepa.envs.task import ASSETS, Task
from mujepa.envs.types import Array, Dynamics, JointState, Model, Rng


@dataclass(frozen=True)
class Cartpole(Task):
    """From hanging to upright, the tip within 15 cm of the middle, through the last of 6 s."""

    name: str = "cartpole"
    mjcf: Path = ASSETS / "cartpole.xml"
    goal_sensors: tuple[str, ...] = ("tip",)
    tolerance: float = 0.15
    antialias: bool = True
    frame_skip: int = 2
    budget_steps: int = 150
    hold_steps: int = 25
    episode_steps: int | None = 60
    extra_noise_dims: int = 2
    episodes: int = 2500

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw a place near the middle and an angle within 6 degrees of hanging, at rest."""
        return np.array([rng.uniform(-0.2, 0.2), np.pi + rng.uniform(-0.1, 0.1)]), np.zeros(2)

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Return upright in the middle."""
        return np.zeros(2)

    def behave(self, world: Dynamics, states: Array, noise: Array) -> Array:
        """Balance a pole that is near upright above a moving place, or push at random.

        Random actions never stabilise the pole, so the data would contain no balancing.
        """
        cart, pole, cart_speed, pole_speed = states[:, 1:5].T
        lean = (pole + np.pi) % (2 * np.pi) - np.pi
        away = cart - 0.3 * noise[:, 2].clip(-1.5, 1.5)
        balance = 1.6 * away + 1.4 * cart_speed + 8.5 * lean + 1.9 * pole_speed
        steady = (np.abs(lean) < 0.7) & (noise[:, 1] > -1.2)
        push = noise[:, 0] - 0.5 * cart
        return np.where(steady, balance + 0.3 * noise[:, 0], push)[:, None]

    def sample_anywhere(self, model: Model, rng: Rng) -> JointState:
        """Draw a pole that hangs, stands or leans, from rest to fast; random pushes seldom rest."""
        around, spread, power = ((np.pi, 0.3, 1), (0.0, 0.3, 3), (0.0, np.pi, 1))[rng.integers(3)]
        position = np.array([rng.uniform(-0.7, 0.7), around + rng.uniform(-spread, spread)])
        speed = np.array([rng.uniform(-1.5, 1.5), rng.uniform(-12, 12)])
        return position, speed * rng.random() ** power
