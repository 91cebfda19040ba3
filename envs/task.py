"""What a task is: a MuJoCo model, where episodes start and end, and when a goal is reached."""

# MuJoCo's compiled names have no stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco
    from numpy.typing import NDArray

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Task(ABC):
    """A goal-conditioned world. Subclasses say how starts and goals are drawn.

    Attributes:
        name: the name used on the command line and in files.
        mjcf: path of the MuJoCo model.
        goal_sensor: sensor of the model whose reading is the achieved goal, (G,).
        tolerance: largest distance at which the goal counts as reached [m].
        substeps: physics steps per environment step.
        frame_skip: environment steps per model step; the action is held in between.
        budget_steps: environment steps per episode.
        hold_steps: environment steps at the end of an episode through which the goal must be held.
        observation_camera: camera of the images that the agent sees.
        pretty_camera: camera of the images that people see.
    """

    name: str
    mjcf: Path
    goal_sensor: str
    tolerance: float
    substeps: int = 2
    frame_skip: int = 4
    budget_steps: int = 100
    hold_steps: int = 5
    observation_camera: str = "observation"
    pretty_camera: str = "pretty"

    @abstractmethod
    def sample_start(
        self, model: mujoco.MjModel, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw the joint positions (nq,) and velocities (nv,) in which an episode starts."""

    @abstractmethod
    def sample_goal(self, model: mujoco.MjModel, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the joint positions (nq,) of a goal; its velocities are zero."""

    def distance(
        self, achieved: NDArray[np.float64], desired: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the distance [m] between goals, (..., G) and (..., G) -> (...)."""
        return np.linalg.norm(np.asarray(achieved) - np.asarray(desired), axis=-1)
