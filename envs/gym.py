"""The tasks as Gymnasium environments, with the goal convention of gymnasium-robotics.

Observations are dictionaries: `pixels` (P, P, 3) uint8 from the observation camera, `observation`
(joint positions and velocities), `achieved_goal` and `desired_goal` (G,). The reward is 0 where the
goal is reached and -1 elsewhere; episodes are truncated, never terminated. `reset` returns the
goal's image as `info["goal_pixels"]` and its joints as `info["goal_observation"]`; where the world
varies, `info["variation"]` holds the values that the episode has drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mujepa.envs.registry import find_task
from mujepa.envs.task import Task
from mujepa.envs.types import Array
from mujepa.envs.variation import Draw, Variant, Variants, Vary, read_variation, stack_values
from mujepa.envs.world import Episode, World

Observation: TypeAlias = dict[str, Any]
Info: TypeAlias = dict[str, Any]


class GoalRewards:
    """The reward and the end of episodes, as gymnasium-robotics computes them."""

    task: Task

    def compute_reward(self, achieved_goal: Array, desired_goal: Array, info: object) -> Array:
        """Return 0 where the goal is reached and -1 elsewhere, (..., G) and (..., G) -> (...)."""
        missed = self.task.distance(achieved_goal, desired_goal) > self.task.tolerance
        return np.where(missed, -1.0, 0.0)

    def compute_terminated(self, achieved_goal: object, desired_goal: object, info: object) -> bool:
        """Return False: the goal has to be held, so that reaching it does not end the episode."""
        return False

    def compute_truncated(self, achieved_goal: object, desired_goal: object, info: object) -> bool:
        """Return False: Gymnasium's `TimeLimit` wrapper keeps the time limit."""
        return False


class GoalVectorEnv(GoalRewards, VectorEnv):
    """N simulations of one task, stepped together on MuJoCo's own threads.

    Environment i, seeded with s, equals a `GoalEnv` seeded with s + i, bit for bit.

    `pixels_every` k draws `pixels` at every k-th step of an episode only, for agents that act then,
    and repeats the last image in between. `vary` gives ranges of factors of variation, such as
    `{"mass": (0.5, 2)}` or `["mass=0.5:2"]`. With `autoreset`, a truncated environment restarts at
    the next step.

    Raises:
        UserError: the task or a factor is unknown, or there is no OpenGL library.
    """

    def __init__(
        self,
        num_envs: int,
        task: str | Task,
        image_size: int = 64,
        max_episode_steps: int | None = None,
        threads: int = 2,
        pixels_every: int = 1,
        vary: Vary = None,
        *,
        autoreset: bool = True,
    ) -> None:
        self.task = find_task(task) if isinstance(task, str) else task
        self.world = World(self.task, image_size, threads, read_variation(vary))
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = _spaces(self.world)
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
        self._draws: list[Draw | None] = [None] * num_envs
        self._variants: list[Variant | None] = [None] * num_envs

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Info]:
        """Start all episodes: random ones, or the N `Episode`s in `options["episodes"]`."""
        size, none = self.num_envs, [None] * self.num_envs
        seeds = [seed + i for i in range(size)] if isinstance(seed, int) else seed or none
        episodes = (options or {}).get("episodes") or none
        if len(seeds) != size or len(episodes) != size:
            raise ValueError(
                f"{len(seeds)} seeds and {len(episodes)} episodes for {size} environments"
            )
        for index, one in enumerate(seeds):
            if one is not None:
                self._generators[index] = seeding.np_random(one)[0]
        self._states, self._goals = self._states.copy(), self._goals.copy()
        goal_pixels = self._start(np.arange(size), episodes)
        observation, info = self._observe()
        goal_observation = self.world.proprioception(self._goals)
        info |= {"goal_pixels": goal_pixels, "goal_observation": goal_observation}
        return observation, info | self._variation()

    def step(
        self, actions: NDArray[np.floating]
    ) -> tuple[Observation, Array, NDArray[np.bool_], NDArray[np.bool_], Info]:
        """Hold actions (N, A) for one environment step; truncated episodes restart instead."""
        controls = _check_action(actions, self.action_space.shape)
        over = np.flatnonzero(self._over)
        if len(over) and not self.autoreset:
            raise ValueError(f"{len(over)} episodes are over; call reset")
        self._states = self.world.step(self._states, controls, self._worlds())
        self._elapsed += 1
        extra: Info = {}
        if len(over):
            restarted, goal_pixels = self._over.copy(), np.zeros_like(self._pixels)
            goal_pixels[over] = self._start(over, [None] * len(over))
            extra = {"goal_pixels": goal_pixels, "_goal_pixels": restarted}
            if variation := self._variation():
                extra |= variation | {"_variation": restarted.copy()}
        observation, info = self._observe()
        rewards = self.compute_reward(observation["achieved_goal"], self._desired, info)
        rewards[over] = 0.0
        limit = np.inf if self.max_episode_steps is None else self.max_episode_steps
        truncated = self._elapsed >= limit
        self._over = truncated.copy()
        return observation, rewards, np.zeros(self.num_envs, bool), truncated, info | extra

    def get_state(self) -> Array:
        """Return a copy of the simulators' states, (N, S)."""
        return self._states.copy()

    def set_state(self, states: Array) -> Observation:
        """Set the states (N, S) and return the observations there; goals and time limits stay."""
        self._states = np.array(states, np.float64)
        self._pixels = self.world.render(self._states, self._worlds())
        return self._observe(np.empty(0, int))[0]

    def render_pretty(self, index: int) -> NDArray[np.uint8]:
        """Return an image of one environment for people, (480, 480, 3), with the goal as a ball."""
        ends = self._states[index], self._goals[index]
        return self.world.render_pretty(*ends, self._variants[index])

    def _start(
        self, indices: NDArray[np.int64], episodes: Sequence[Episode | None]
    ) -> NDArray[np.uint8]:
        for index, given in zip(indices, episodes, strict=True):
            episode = given or self.world.sample_episode(self._generators[index])
            self._states[index], self._goals[index] = episode.start, episode.goal
            self._draws[index] = episode.draw
            self._variants[index] = self.world.variant(episode.draw)
        self._desired[indices] = self.world.achieved(self._goals[indices])
        self._elapsed[indices], self._over[indices] = 0, False
        return self.world.observe_goals(self._goals[indices], "pixels", self._worlds(indices))

    def _worlds(self, indices: Sequence[int] | NDArray[np.int64] = ()) -> Variants:
        """Return the worlds of some environments, of all by default; None if none varies."""
        if not any(self._variants):
            return None
        return [self._variants[i] for i in indices] if len(indices) else self._variants

    def _variation(self) -> Info:
        return {"variation": stack_values(self._draws)} if any(self._draws) else {}

    def _observe(self, due: NDArray[np.int64] | None = None) -> tuple[Observation, Info]:
        if due is None:
            due = np.flatnonzero(self._elapsed % self.pixels_every == 0)
        if len(due):
            self._pixels[due] = self.world.render(self._states[due], self._worlds(due))
        achieved = self.world.achieved(self._states)
        distance = self.task.distance(achieved, self._desired)
        observation = {
            "pixels": self._pixels.copy(),
            "observation": self.world.proprioception(self._states),
            "achieved_goal": achieved,
            "desired_goal": self._desired.copy(),
        }
        info = {"distance": distance, "is_success": distance <= self.task.tolerance}
        return observation, info | {f"_{key}": np.ones(self.num_envs, bool) for key in info}


class GoalEnv(GoalRewards, gymnasium.Env):
    """One environment: a `GoalVectorEnv` of size 1 that is never truncated.

    With the `render_mode` `rgb_array`, `render` returns an image for people.

    Raises:
        UserError: the task or a factor is unknown, or there is no OpenGL library.
    """

    # Gymnasium declares it as a plain attribute of the class.
    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(
        self,
        task: str | Task,
        image_size: int = 64,
        render_mode: str | None = None,
        vary: Vary = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r} is not 'rgb_array' or None")
        self._envs = GoalVectorEnv(1, task, image_size, threads=0, vary=vary)
        self.task, self.world = self._envs.task, self._envs.world
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Start an episode: a random one, or the `Episode` in `options["episode"]`."""
        super().reset(seed=seed)
        self._envs._generators = [self.np_random]
        episode = (options or {}).get("episode")
        observation, info = self._envs.reset(options={"episodes": [episode]})
        return _row(observation), _row(info)

    def step(self, action: NDArray[np.floating]) -> tuple[Observation, float, bool, bool, Info]:
        """Hold an action (A,) for one environment step."""
        control = _check_action(action, self.action_space.shape)[None]
        observation, rewards, _, _, info = self._envs.step(control)
        return _row(observation), float(rewards[0]), False, False, _row(info)

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return an image for people, (480, 480, 3) uint8, if `render_mode` asks for it."""
        return self._envs.render_pretty(0) if self.render_mode else None

    def get_state(self) -> Array:
        """Return a copy of the simulator's state, (S,)."""
        return self._envs.get_state()[0]

    def set_state(self, state: Array) -> Observation:
        """Set the state (S,) and return the observation there; the goal stays."""
        return _row(self._envs.set_state(state[None]))


def _spaces(world: World) -> tuple[gymnasium.spaces.Dict, Box]:
    goal = Box(-np.inf, np.inf, (world.goal_size,), np.float64)
    joints = world.proprioception(world.state(world.model.qpos0))
    observation = gymnasium.spaces.Dict(
        pixels=Box(0, 255, (world.image_size, world.image_size, 3), np.uint8),
        observation=Box(-np.inf, np.inf, joints.shape, np.float64),
        achieved_goal=goal,
        desired_goal=goal,
    )
    low, high = (bound.astype(np.float32) for bound in (world.action_low, world.action_high))
    return observation, Box(low, high, dtype=np.float32)


def _check_action(action: NDArray[np.floating], shape: tuple[int, ...] | None) -> Array:
    checked = np.asarray(action, np.float64)
    if checked.shape != shape:
        raise ValueError(f"action of shape {checked.shape}, the environment takes {shape}")
    if not np.isfinite(checked).all():
        raise ValueError(f"action {checked} is not finite")
    return checked


def _row(batch: dict[str, Any]) -> dict[str, Any]:
    """Return row 0 of a batch, without the masks of Gymnasium's vector environments."""

    def first(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return _row(value)
        return value[0].item() if value.ndim == 1 else value[0]

    return {key: first(value) for key, value in batch.items() if not key.startswith("_")}
