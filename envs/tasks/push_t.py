"""Push-T: push a T-shaped block to where, and to how, a goal image shows it lying."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mujepa.envs.behaviour import RedNoise
from mujepa.envs.task import ASSETS, Task
from mujepa.envs.types import Array, Dynamics, JointState, Model, Rng

POSITION, ANGLE = 0.05, np.deg2rad(20)
"""What counts as reached: within 5 cm and 20 degrees."""
REACH = 0.1
"""How far the pusher gets in a model step [m]."""


@dataclass(frozen=True)
class PushT(Task):
    """Bring the block within 5 cm and 20 degrees of a place it can be pushed to in 25 steps.

    Start and goal are states of one episode of the behaviour policy, 25 environment steps (2.5 s)
    apart; the agent has 50. Where the goal image shows the pusher does not matter. The distance
    is the larger of the errors of position and angle, in units of what is tolerated.
    """

    name: str = "push_t"
    mjcf: Path = ASSETS / "push_t.xml"
    goal_sensors: tuple[str, ...] = ("block", "block_axis", "pusher")
    tolerance: float = 1.0
    antialias: bool = True
    unit: str = "x tolerance"
    per_unit: float = 1.0
    substeps: int = 5
    frame_skip: int = 2
    budget_steps: int = 50
    behaviour: RedNoise = field(default_factory=lambda: RedNoise((0.5, 1.5), (0.5, 0.95)))
    extra_noise_dims: int = 3
    episodes: int = 6000
    episode_steps: int | None = 50
    success_cost: str = "20*state(block).min + 2.9*state(block_axis).min"  # 5 cm and 20 degrees
    goal_steps: int = 25
    lead_steps: int = 20

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw where the block lies, and the pusher clear of it, at rest."""
        block = np.array([*rng.uniform(-0.3, 0.3, 2), rng.uniform(-np.pi, np.pi)])
        while True:
            pusher = rng.uniform(-0.44, 0.44, 2)
            if np.linalg.norm(pusher - block[:2]) > 0.25:
                return np.array([*block, *pusher]), np.zeros(5)

    def behave(self, world: Dynamics, states: Array, noise: Array) -> Array:
        """Push at a point of the block, or move to a point of the table, as the noise says."""
        block, turn, pusher = states[:, 1:3], states[:, 3], states[:, 4:6]
        aim, push = np.clip(noise[:, 2:4], -1, 1), noise[:, 4:5] > -0.3
        cosine, sine = np.cos(turn), np.sin(turn)
        x, y = 0.12 * aim[:, 0], 0.12 * aim[:, 1] - 0.02
        point = block + np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=1)
        target = np.where(push, point, 0.44 * aim)
        return np.clip((target - pusher) / REACH, -1, 1) + 0.5 * noise[:, :2]

    def distance(self, achieved: Array, desired: Array) -> Array:
        """Return the larger of the two errors, each over what is tolerated."""
        away = np.linalg.norm(achieved[..., :3] - desired[..., :3], axis=-1)
        cosine = (achieved[..., 3:6] * desired[..., 3:6]).sum(axis=-1)
        return np.maximum(away / POSITION, np.arccos(np.clip(cosine, -1, 1)) / ANGLE)

    def remaining(self, achieved: Array, desired: Array) -> Array:
        """Return both errors, and as a hint how far the pusher is from the block."""
        away = np.linalg.norm(achieved[..., :3] - desired[..., :3], axis=-1)
        cosine = (achieved[..., 3:6] * desired[..., 3:6]).sum(axis=-1)
        errors = away / POSITION + np.arccos(np.clip(cosine, -1, 1)) / ANGLE
        return errors + np.linalg.norm(achieved[..., 6:8] - achieved[..., :2], axis=-1)
