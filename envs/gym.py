"""The tasks as Gymnasium environments, one and many, with gymnasium-robotics' goal convention.

Observations are dictionaries: `pixels` (P, P, 3) uint8 from the observation camera, `observation`
(joint positions and velocities), `achieved_goal` and `desired_goal` (G,). The reward is 0 where the
goal is reached and -1 elsewhere; episodes end by truncation alone. `reset` puts the goal's image
into `info["goal_pixels"]`, and what `observation` would be there into `info["goal_observation"]`;
where the world varies, `info["variation"]` holds what the episode has drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mujepa.envs.spaces import GoalSpaces, checked_action
from mujepa.envs.variation import Draw, Variant, stack_values
from mujepa.envs.world import Episode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mujepa.envs.task import Task
    from mujepa.envs.variation import Vary
    from mujepa.envs.world import Variants

Observation = dict[str, Any]


class GoalEnv(GoalSpaces, gymnasium.Env):
    """One environment.

    Args:
        task: a task, or the name of one.
        image_size: width and height of `pixels`.
        render_mode: `rgb_array` lets `render` return a picture for people, with the goal as a ball.
        vary: ranges of factors of variation, such as `{"mass": (0.5, 2)}` or `["mass=0.5:2"]`.

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
        self._build(task, image_size, 0, vary)
        self.observation_space = self._observation_space
        self.action_space = self._action_space
        self.render_mode = render_mode
        self._state = self._goal = np.empty(0)
        self._desired = np.empty(0)
        self._variant: Variant | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode: a random one, or the `Episode` in `options["episode"]`."""
        super().reset(seed=seed)
        episode = (options or {}).get("episode") or self.world.sample_episode(self.np_random)
        self._state, self._goal = episode.start.copy(), episode.goal.copy()
        self._desired = self.world.achieved(self._goal[None])[0]
        self._variant = self.world.variant(episode.draw)
        observation, info = self._observe()
        variants = [self._variant] if self._variant else None
        goal_pixels = self.world.observe_goals(self._goal[None], "pixels", variants)[0]
        info |= {"goal_pixels": goal_pixels}
        info |= {"goal_observation": self.world.proprioception(self._goal[None])[0]}
        return observation, info | (
            {"variation": dict(episode.draw.values)} if episode.draw else {}
        )

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hold an action for one environment step.

        Raises:
            ValueError: the action has another shape, or is not finite.
        """
        control = checked_action(action, self.action_space.shape)[None]
        variants = [self._variant] if self._variant else None
        self._state = self.world.step(self._state[None], control, variants)[0]
        observation, info = self._observe()
        reward = self.compute_reward(
            observation["achieved_goal"], observation["desired_goal"], info
        )
        return observation, float(reward), False, False, info

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a picture for people, (480, 480, 3) uint8, if `render_mode` asks for it."""
        if not self.render_mode:
            return None
        return self.world.render_pretty(self._state, self._goal, self._variant)

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
            "pixels": self._look(self._state),
            "observation": self.world.proprioception(batch)[0],
            "achieved_goal": self.world.achieved(batch)[0],
            "desired_goal": self._desired.copy(),
        }
        distance = float(self.task.distance(observation["achieved_goal"], self._desired))
        return observation, {"distance": distance, "is_success": distance <= self.task.tolerance}

    def _look(self, state: NDArray[np.float64]) -> NDArray[np.uint8]:
        return self.world.render(state[None], [self._variant] if self._variant else None)[0]


class GoalVectorEnv(GoalSpaces, VectorEnv):
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
        vary: ranges of factors of variation, as `GoalEnv` takes them.
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
        vary: Vary = None,
        *,
        autoreset: bool = True,
    ) -> None:
        self._build(task, image_size, threads, vary)
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
        self._draws: list[Draw | None] = [None] * num_envs
        self._variants: list[Variant | None] = [None] * num_envs

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
        info |= {"goal_pixels": goal_pixels, "goal_observation": resting}
        return observation, info | self._variation()

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
        controls = checked_action(actions, self.action_space.shape)
        again = np.flatnonzero(self._over)
        if len(again) and not self.autoreset:
            raise ValueError(f"{len(again)} episodes are over; call reset")
        self._states = self.world.step(self._states, controls, self._worlds())
        self._elapsed += 1
        extra = {}
        if len(again):
            goal_pixels = np.zeros_like(self._pixels)
            extra = {"goal_pixels": goal_pixels, "_goal_pixels": self._over.copy()}
            goal_pixels[again] = self._start(again, [None] * len(again))
            if variation := self._variation():
                extra |= variation | {"_variation": extra["_goal_pixels"].copy()}
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
        self._pixels = self.world.render(self._states, self._worlds())
        return self._observe()[0]

    def _start(
        self, indices: NDArray[np.int64], episodes: Sequence[Episode | None]
    ) -> NDArray[np.uint8]:
        for index, given in zip(indices, episodes, strict=True):
            episode = given or self.world.sample_episode(self._generators[index])
            self._states[index], self._goals[index] = episode.start, episode.goal
            self._draws[index] = episode.draw
            self._variants[index] = self.world.variant(episode.draw)
        self._desired[indices] = self.world.achieved(self._goals[indices])
        self._elapsed[indices] = 0
        self._over[indices] = False
        return self.world.observe_goals(self._goals[indices], "pixels", self._worlds(indices))

    def _worlds(self, indices: Sequence[int] | NDArray[np.int64] = ()) -> Variants:
        """Return the worlds of some environments, of all by default; None if none varies."""
        if not any(self._variants):
            return None
        return [self._variants[i] for i in indices] if len(indices) else self._variants

    def _variation(self) -> dict[str, Any]:
        """Return what the episodes have drawn as an entry of `info`, if anything."""
        return {"variation": stack_values(self._draws)} if any(self._draws) else {}

    def _observe(self) -> tuple[Observation, dict[str, Any]]:
        due = np.flatnonzero(self._elapsed % self.pixels_every == 0)
        if len(due):
            self._pixels[due] = self.world.render(self._states[due], self._worlds(due))
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
