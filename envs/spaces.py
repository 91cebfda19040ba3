"""What single and vector environments share: world, spaces, and the meaning of success."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium
import numpy as np

from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mujepa.envs.task import Task
    from mujepa.envs.variation import Vary


class GoalSpaces:
    """What single and vector environments share: world, spaces, and the meaning of success."""

    def _build(self, task: str | Task, image_size: int, threads: int, vary: Vary) -> None:
        self.task = find_task(task) if isinstance(task, str) else task
        self.world = World(self.task, image_size, threads, read_variation(vary))
        goal = gymnasium.spaces.Box(-np.inf, np.inf, (self.world.goal_size,), np.float64)
        resting = self.world.proprioception(self.world.state(self.world.model.qpos0))
        self._observation_space = gymnasium.spaces.Dict(
            pixels=gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
            observation=gymnasium.spaces.Box(-np.inf, np.inf, resting.shape, np.float64),
            achieved_goal=goal,
            desired_goal=goal,
        )
        low, high = (
            bound.astype(np.float32) for bound in (self.world.action_low, self.world.action_high)
        )
        self._action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def compute_reward(
        self, achieved_goal: NDArray[np.float64], desired_goal: NDArray[np.float64], info: object
    ) -> NDArray[np.float64]:
        """Return 0 where the goal is reached and -1 elsewhere, (..., G) and (..., G) -> (...)."""
        return -(self.task.distance(achieved_goal, desired_goal) > self.task.tolerance).astype(
            np.float64
        )

    def compute_terminated(self, achieved_goal: object, desired_goal: object, info: object) -> bool:
        """Return False: reaching the goal does not end the episode, it has to be held."""
        return False

    def compute_truncated(self, achieved_goal: object, desired_goal: object, info: object) -> bool:
        """Return False: the time limit is Gymnasium's `TimeLimit` wrapper's to keep."""
        return False


def checked_action(
    action: NDArray[np.float32], shape: tuple[int, ...] | None
) -> NDArray[np.float64]:
    """Return an action as float64.

    Raises:
        ValueError: it has another shape, or is not finite.
    """
    checked = np.asarray(action, np.float64)
    if checked.shape != shape:
        raise ValueError(f"action of shape {checked.shape}, the environment takes {shape}")
    if not np.isfinite(checked).all():
        raise ValueError(f"action {checked} is not finite")
    return checked
