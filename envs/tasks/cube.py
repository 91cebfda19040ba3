"""Cube: an arm with a gripper picks a cube up and brings it to where a goal image shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mujepa.envs.behaviour import RedNoise
from mujepa.envs.task import ASSETS, Task
from mujepa.envs.types import Array, Dynamics, JointState, Model, Rng

ABOVE, REACH = 0.13, 0.08
"""Height from which the gripper comes down on the cube; how far it gets in a model step [m]."""


@dataclass(frozen=True)
class Cube(Task):
    """Bring the cube within 4 cm of its position 80 steps later in a scripted pick-and-place.

    Start and goal are states of one episode of the behaviour policy, 80 environment steps (3.2 s)
    apart; the agent has 150. Many goals are in the air, where the cube has to be held.
    """

    name: str = "cube"
    mjcf: Path = ASSETS / "cube.xml"
    goal_sensors: tuple[str, ...] = ("cube", "grasp", "grip")
    tolerance: float = 0.04
    antialias: bool = True
    substeps: int = 4
    budget_steps: int = 150
    behaviour: RedNoise = field(default_factory=lambda: RedNoise((0.4, 1.2), (0.6, 0.97)))
    extra_noise_dims: int = 3
    episodes: int = 5000
    episode_steps: int | None = 60
    success_cost: str = "state(cube).min"
    goal_steps: int = 80

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw where the cube lies, and the gripper somewhere above it, open, at rest."""
        hand = rng.uniform([-0.3, -0.1], [0.3, 0.08])
        return np.array([*hand, 0.0, 0.0, rng.uniform(-0.3, 0.3), 0.0, 0.0]), np.zeros(7)

    def behave(self, world: Dynamics, states: Array, noise: Array) -> Array:
        """Pick the cube up and carry it, or move with the gripper open, as the noise says."""
        achieved = world.achieved(states)
        cube, grasp, grip = achieved[:, [0, 2]], achieved[:, [3, 5]], achieved[:, 6:7]
        elsewhere = np.clip(noise[:, 3:5], -1, 1) * (0.3, 0.13) + (0, 0.17)
        busy = noise[:, 5:6] > -0.5
        over = np.abs(grasp[:, :1] - cube[:, :1]) < 0.025
        around = over & (np.abs(grasp[:, 1:] - cube[:, 1:]) < 0.03)
        held = around & (grip > 0.03)
        target = np.where(over, cube, cube + np.array([0, ABOVE]))
        target = np.where(held | ~busy, elsewhere, target)
        move = np.clip((target - grasp) / REACH, -1, 1) + 0.3 * noise[:, :2]
        move = np.where(around & ~held & busy, 0.3 * move, move)
        close = np.where(around & busy, 1.0, -1.0) + 0.3 * noise[:, 2:3]
        return np.concatenate([move, close], axis=1)

    def distance(self, achieved: Array, desired: Array) -> Array:
        """Return the distance of the cube [m]."""
        return np.linalg.norm(achieved[..., :3] - desired[..., :3], axis=-1)

    def remaining(self, achieved: Array, desired: Array) -> Array:
        """Return the distance, the gripper's way over the cube, and whether it is closed there."""
        away = achieved[..., 3:6] - achieved[..., :3]
        aside = np.abs(away[..., 0])
        way = aside + np.abs(away[..., 2] - np.clip(2 * (aside - 0.01), 0, ABOVE))
        closed = (np.linalg.norm(away, axis=-1) < 0.03) * achieved[..., 6]
        return 3 * self.distance(achieved, desired) + way - closed
