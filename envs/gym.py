"""The tasks as Gymnasium environments, one and many, with gymnasium-robotics' goal convention.

Observations are dictionaries: `pixels` (P, P, 3) uint8 from the observation camera, `observation`
(joint positions and velocities), `achieved_goal` and `desired_goal` (G,). The reward is 0 where the
goal is reached and -1 elsewhere; episodes end by truncation alone. `reset` puts the goal's image
into `info["goal_pixels"]`, and what `observation` would be there into `info["goal_observation"]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mujepa.envs.registry import find_task
from mujepa.envs.world import Episode, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mujepa.envs.task import Task

Observation = dict[str, Any]


class _GoalSpaces:
    """What single and vector environments share: world, spaces, and the meaning of success."""

    def _build(self, task: str | Task, image_size: int, threads: int) -> None:
        self.task = find_task(task) if isinstance(task, str) else task
        self.world = World(self.task, image_size, threads)
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


class GoalEnv(_GoalSpaces, gymnasium.Env):
    """One environment.

    Args:
        task: a task, or the name of one.
        image_size: width and height of `pixels`.
        render_mode: `rgb_array` lets `render` return a picture for people, with the goal as a ball.

    Raises:
        UserError: the task is unknown, or there is no OpenGL library.
    """

    # Gymnasium declares it as a plain attribute of the class.
    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(
        self, task: str | Task, image_size: int = 64, render_mode: str | None = None
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r} is not 'rgb_array' or None")
        self._build(task, image_size, threads=0)
        self.observation_space = self._observation_space
        self.action_space = self._action_space
        self.render_mode = render_mode
        self._state = self._goal = np.empty(0)
        self._desired = np.empty(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode: a random one, or the `Episode` in `options["episode"]`."""
        super().reset(seed=seed)
        episode = (options or {}).get("episode") or self.world.sample_episode(self.np_random)
        self._state, self._goal = episode.start.copy(), episode.goal.copy()
        self._desired = self.world.achieved(self._goal[None])[0]
        observation, info = self._observe()
        goal = self._goal[None]
        pixels, resting = self.world.render(goal)[0], self.world.proprioception(goal)[0]
        return observation, info | {"goal_pixels": pixels, "goal_observation": resting}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hold an action for one environment step.

        Raises:
            ValueError: the action has another shape, or is not finite.
        """
        self._state = self.world.step(
            self._state[None], _checked(action, self.action_space.shape)[None]
        )[0]
        observation, info = self._observe()
        reward = self.compute_reward(
            observation["achieved_goal"], observation["desired_goal"], info
        )
        return observation, float(reward), False, False, info

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a picture for people, (480, 480, 3) uint8, if `render_mode` asks for it."""
        return self.world.render_pretty(self._state, self._goal) if self.render_mode else None

    def get_state(self) -> NDArray[np.float64]:
        """Return a copy of the simulator's state, (S,)."""
        return self._state.copy()

    def set_state(self, state: NDArray[np.float64]) -> Observation:
        """Go to a state from `get_state` and return what is seen there; the goal stays."""
        self._state = np.array(state, np.float64)
        return self._observe()[0]

    def _observe(self) -> tuple[Observation, dict[str, Any]]:
        batch = self._state[None]
        observation = {
            "pixels": self.world.render(batch)[0],
            "observation": self.world.proprioception(batch)[0],
            "achieved_goal": self.world.achieved(batch)[0],
            "desired_goal": self._desired.copy(),
        }
        distance = float(self.task.distance(observation["achieved_goal"], self._desired))
        return observation, {"distance": distance, "is_success": distance <= self.task.tolerance}


class GoalVectorEnv(_GoalSpaces, VectorEnv):
    """Many simulations of one task, stepped together on MuJoCo's own threads.

    Environment i, seeded with s, runs as a `GoalEnv` seeded with s + i does, bit for bit.

    Args:
        num_envs: N.
        task: a task, or the name of one.
        image_size: width and height of `pixels`.
        max_episode_steps: steps after which an episode is truncated; None for never.
        threads: MuJoCo's threads.
        pixels_every: draw `pixels` at every k-th step of an episode only and repeat the last image
            in between; an agent that acts every k-th step misses nothing and drawing costs a k-th.
        autoreset: whether a truncated environment starts anew at the next step, or stops.
    """

    def __init__(
        self,
        num_envs: int,
        task: str | Task,
        image_size: int = 64,
        max_episode_steps: int | None = None,
        threads: int = 2,
        pixels_every: int = 1,
        *,
        autoreset: bool = True,
    ) -> None:
        self._build(task, image_size, threads)
        self.num_envs = num_envs
        self.single_observation_space = self._observation_space
        self.single_action_space = self._action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset = autoreset
        mode = AutoresetMode.NEXT_STEP if autoreset else AutoresetMode.DISABLED
        self.metadata = {"autoreset_mode": mode, "render_fps": 25}
        self.max_episode_steps = max_episode_steps
        self.pixels_every = pixels_every
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._states = self._goals = np.zeros((num_envs, self.world.state_size))
        self._desired = np.zeros((num_envs, self.world.goal_size))
        self._pixels = np.zeros((num_envs, image_size, image_size, 3), np.uint8)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._over = np.zeros(num_envs, bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start all episodes: random ones, or the N `Episode`s in `options["episodes"]`.

        Raises:
            ValueError: there are not N seeds or episodes.
        """
        seeds = (
            [seed + i for i in range(self.num_envs)]
            if isinstance(seed, int)
            else seed or [None] * self.num_envs
        )
        episodes: Sequence[Episode | None] = (options or {}).get("episodes") or [
            None
        ] * self.num_envs
        if len(seeds) != self.num_envs or len(episodes) != self.num_envs:
            raise ValueError(
                f"{len(seeds)} seeds and {len(episodes)} episodes for {self.num_envs} environments"
            )
        for index, one in enumerate(seeds):
            if one is not None:
                self._generators[index] = seeding.np_random(one)[0]
        self._states, self._goals = self._states.copy(), self._goals.copy()
        goal_pixels = self._start(np.arange(self.num_envs), episodes)
        observation, info = self._observe()
        resting = self.world.proprioception(self._goals)
        return observation, info | {"goal_pixels": goal_pixels, "goal_observation": resting}

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[
        Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Hold actions (N, A) for one environment step; those that are over start anew instead.

        Raises:
            ValueError: the actions have another shape or are not finite, or an environment is over
                and `autoreset` is off.
        """
        controls = _checked(actions, self.action_space.shape)
        again = np.flatnonzero(self._over)
        if len(again) and not self.autoreset:
            raise ValueError(f"{len(again)} episodes are over; call reset")
        self._states = self.world.step(self._states, controls)
        self._elapsed += 1
        extra = {}
        if len(again):
            goal_pixels = np.zeros_like(self._pixels)
            extra = {"goal_pixels": goal_pixels, "_goal_pixels": self._over.copy()}
            goal_pixels[again] = self._start(again, [None] * len(again))
        observation, info = self._observe()
        rewards = self.compute_reward(
            observation["achieved_goal"], observation["desired_goal"], info
        )
        rewards[again] = 0.0
        truncated = np.zeros(self.num_envs, bool)
        if self.max_episode_steps is not None:
            truncated = self._elapsed >= self.max_episode_steps
        self._over = truncated.copy()
        return observation, rewards, np.zeros(self.num_envs, bool), truncated, info | extra

    def get_state(self) -> NDArray[np.float64]:
        """Return a copy of the simulators' states, (N, S)."""
        return self._states.copy()

    def set_state(self, states: NDArray[np.float64]) -> Observation:
        """Go to states from `get_state` and return what is seen there; goals and clocks stay."""
        self._states = np.array(states, np.float64)
        self._pixels = self.world.render(self._states)
        return self._observe()[0]

    def _start(
        self, indices: NDArray[np.int64], episodes: Sequence[Episode | None]
    ) -> NDArray[np.uint8]:
        for index, given in zip(indices, episodes, strict=True):
            episode = given or self.world.sample_episode(self._generators[index])
            self._states[index], self._goals[index] = episode.start, episode.goal
        self._desired[indices] = self.world.achieved(self._goals[indices])
        self._elapsed[indices] = 0
        self._over[indices] = False
        return self.world.render(self._goals[indices])

    def _observe(self) -> tuple[Observation, dict[str, Any]]:
        due = np.flatnonzero(self._elapsed % self.pixels_every == 0)
        if len(due):
            self._pixels[due] = self.world.render(self._states[due])
        achieved = self.world.achieved(self._states)
        observation = {
            "pixels": self._pixels.copy(),
            "observation": self.world.proprioception(self._states),
            "achieved_goal": achieved,
            "desired_goal": self._desired.copy(),
        }
        distance = self.task.distance(achieved, self._desired)
        everyone = np.ones(self.num_envs, bool)
        success = distance <= self.task.tolerance
        return observation, {
            "distance": distance, "_distance": everyone,
            "is_success": success, "_is_success": everyone,
        }  # fmt: skip


def _checked(action: NDArray[np.float32], shape: tuple[int, ...] | None) -> NDArray[np.float64]:
    checked = np.asarray(action, np.float64)
    if checked.shape != shape:
        raise ValueError(f"action of shape {checked.shape}, the environment takes {shape}")
    if not np.isfinite(checked).all():
        raise ValueError(f"action {checked} is not finite")
    return checked
