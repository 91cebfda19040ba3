"""Reacher: a two-link arm, seen from above, brings its fingertip to where a goal image shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mujepa.envs.task import ASSETS, Task
from mujepa.envs.types import Array, JointState, Model, Rng


@dataclass(frozen=True)
class Reacher(Task):
    """Reach any point of the workspace, within 5 cm of the fingertip, in 4 s.

    Starts are uniform in the joint angles, at rest. Goals are uniform over the area that the
    fingertip can reach, with the elbow bent to either side; the image shows the whole arm there, at
    rest.
    """

    name: str = "reacher"
    mjcf: Path = ASSETS / "reacher.xml"
    goal_sensors: tuple[str, ...] = ("fingertip",)
    tolerance: float = 0.05

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw a shoulder angle on the full circle and an elbow angle within its limits."""
        return np.array([rng.uniform(-np.pi, np.pi), rng.uniform(*model.jnt_range[1])]), np.zeros(2)

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Draw a fingertip position uniform over the reachable ring, and solve for the joints."""
        upper, fore = model.body("forearm").pos[0], model.site("fingertip").pos[0]
        nearest = np.sqrt(upper**2 + fore**2 + 2 * upper * fore * np.cos(model.jnt_range[1, 1]))
        radius = np.sqrt(rng.uniform(nearest**2, (upper + fore) ** 2))
        cosine = (radius**2 - upper**2 - fore**2) / (2 * upper * fore)
        elbow = rng.choice([-1.0, 1.0]) * np.arccos(np.clip(cosine, -1.0, 1.0))
        return np.array([rng.uniform(-np.pi, np.pi), elbow])
