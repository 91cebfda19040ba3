"""The physics of a task as functions of batches of states, on MuJoCo's own threads."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mujoco
import numpy as np
from mujoco.rollout import Rollout
from numpy.typing import NDArray

from mujepa.envs.camera import camera_frame
from mujepa.envs.distractors import GOAL_TIME
from mujepa.envs.rendering import Renderer
from mujepa.envs.task import Task
from mujepa.envs.types import Array, Data, Model, Rng
from mujepa.envs.variation import Draw, Variant, Variants, Variation, make_variant, working_factors
from mujepa.runtime.errors import UserError

STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
MAX_DRAWS = 1000


@dataclass(frozen=True)
class Episode:
    """The simulator states (S,) of a start and of a goal."""

    start: Array
    goal: Array
    draw: Draw | None = None  # of the variation, where the world varies


class World:
    """One task's compiled model. States go in and come out; nothing is kept between calls.

    A state is MuJoCo's full physics state (time, positions, velocities, activations). Without the
    solver's warm start this is all of the state: stepping from a stored state continues bit for
    bit, and threads, batches and single steps agree.

    If episodes vary, `variant` makes a model for each; methods that step or draw take one variant
    per row. Starts, goals and achieved goals are positions, which no factor changes.

    Letters: B batch, T time, S state, O proprioception, A action, G goal, P image size [pixels].
    With 0 `threads`, simulations are stepped in the calling thread.

    Raises:
        UserError: the task's MuJoCo file cannot be compiled, or lacks a factor of the variation.
    """

    def __init__(
        self, task: Task, image_size: int = 64, threads: int = 0, variation: Variation | None = None
    ) -> None:
        self.task, self.image_size, self.variation = task, image_size, variation
        self.model = task.compile()
        if variation is not None:
            variation.check(task.name, self.factors)
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART.value
        self.state_size: int = mujoco.mj_stateSize(self.model, STATE)
        self.action_low, self.action_high = task.action_bounds(self.model)
        self._centre = (self.action_high + self.action_low) / 2
        self._half = (self.action_high - self.action_low) / 2
        hinge = self.model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
        self.free_hinges = self.model.jnt_qposadr[hinge & ~self.model.jnt_limited.astype(bool)]
        self._data = mujoco.MjData(self.model)
        self._rollout = Rollout(nthread=threads)
        self._thread_data = [mujoco.MjData(self.model) for _ in range(max(threads, 1))]
        self._goal, self.quantities = _goal_readings(self.model, task.goal_sensors)
        self.goal_size = self.achieved(self.state(self.model.qpos0)[None]).shape[1]

    def state(self, qpos: Array, qvel: Array | None = None) -> Array:
        """Return the state (S,) at time 0 with positions (nq,) and velocities (nv,), or at rest."""
        mujoco.mj_resetData(self.model, self._data)
        self._data.qpos[:] = qpos
        if qvel is not None:
            self._data.qvel[:] = qvel
        state = np.empty(self.state_size)
        mujoco.mj_getState(self.model, self._data, state, STATE)
        return state

    @property
    def step_seconds(self) -> float:
        """Duration of an environment step [s]."""
        return self.task.substeps * float(self.model.opt.timestep)

    def to_unit(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Scale actions (..., A) from the actuators' units to [-1, 1]."""
        return ((actions - self._centre) / self._half).astype(np.float32)

    def from_unit(self, actions: NDArray[Any]) -> Array:
        """Scale actions (..., A) from [-1, 1] to the actuators' units."""
        return self._centre + self._half * np.asarray(actions, np.float64)

    @property
    def factors(self) -> list[str]:
        """The factors of variation that change something in this world."""
        return working_factors(
            self.model,
            physics=not self.task.python_stepped,
            camera=isinstance(self.task.observation_camera, str),
        )

    def sample_episode(self, rng: Rng) -> Episode:
        """Draw a start and a goal that is not reached there.

        Raises:
            UserError: no such pair was found.
        """
        for _ in range(MAX_DRAWS):
            episode = Episode(*self.task.sample_ends(self, rng))
            start, goal = self.achieved(np.stack([episode.start, episode.goal]))
            if self.task.distance(start, goal) > self.task.tolerance:
                return replace(episode, draw=self.draw(rng)) if self.variation else episode
        raise UserError(
            f"task {self.task.name!r}: {MAX_DRAWS} starts in a row were already solved; "
            "lower the tolerance"
        )

    def draw(self, rng: Rng) -> Draw | None:
        """Draw the variation of an episode, or None; does not advance the random stream."""
        return self.variation.draw(rng) if self.variation else None

    def variant(self, draw: Draw | None) -> Variant | None:
        """Return the world of an episode with this draw, or None for the task's own."""
        return draw and make_variant(self.model, self.task.observation_camera, draw)

    def variants(self, draws: Iterable[Draw | None]) -> list[Variant | None] | None:
        """Return the worlds of episodes with these draws, or None if nothing varies."""
        return [self.variant(draw) for draw in draws] if self.variation else None

    def step(self, states: Array, actions: NDArray[Any], variants: Variants = None) -> Array:
        """Advance each state (B, S) by one environment step under its action (B, A) -> (B, S)."""
        return self.rollout(states, np.asarray(actions)[:, None], variants=variants)[0][:, -1]

    def rollout(
        self, states: Array, actions: NDArray[Any], hold: int = 1, variants: Variants = None
    ) -> tuple[Array, Array]:
        """Run action sequences (B, T, A) from states (B, S), each held for `hold` steps.

        Returns:
            The states (B, T, S) at the end of each action, and the goals achieved there (B, T, G),
            read from MuJoCo's sensors, which lag by one physics step; `achieved` is exact.
        """
        actions = np.asarray(actions, np.float64)
        if self.task.python_stepped:
            trajectory = self.task.advance(states, actions, hold)
            return trajectory, self.task.read_goals(self.model, self._data, trajectory)
        repeat = hold * self.task.substeps
        controls = np.repeat(actions, repeat, axis=1)
        batch, steps = controls.shape[:2]
        trajectory = np.empty((batch, steps, self.state_size))
        sensors = np.empty((batch, steps, self.model.nsensordata))
        self._rollout.rollout(
            self.model if variants is None else [self._model(variant) for variant in variants],
            self._thread_data,
            states,
            controls,
            nstep=steps,
            state=trajectory,
            sensordata=sensors,
        )
        trajectory = trajectory[:, repeat - 1 :: repeat]
        if not self.task.goal_sensors:
            return trajectory, self.task.read_goals(self.model, self._data, trajectory)
        return trajectory, sensors[:, repeat - 1 :: repeat, self._goal]

    def achieved(self, states: Array) -> Array:
        """Return the goals (B, G) that the states (B, S) achieve."""
        if not self.task.goal_sensors:
            return self.task.read_goals(self.model, self._data, states)
        return np.stack([self._at(state).sensordata[self._goal] for state in states])

    def separation(self, states: Array, others: Array) -> Array:
        """Return the task's `distance_metric` between states, (B, S) and (B, S) -> (B,)."""
        if self.task.distance_metric == "joints":
            return self.joint_distance(states, others)
        return self.task.remaining(self.achieved(states), self.achieved(others))

    def joint_distance(self, one: Array, other: Array) -> Array:
        """Return the distance between joint positions, (..., S) and (..., S) -> (...) [rad, m].

        Hinges without limits are compared on the circle.
        """
        difference = one[..., 1 : 1 + self.model.nq] - other[..., 1 : 1 + self.model.nq]
        turns = difference[..., self.free_hinges]
        difference[..., self.free_hinges] = (turns + np.pi) % (2 * np.pi) - np.pi
        return np.linalg.norm(difference, axis=-1)

    def proprioception(self, states: Array) -> Array:
        """Return joint positions and velocities, (..., S) -> (..., O).

        Hinges without limits are given as cosine and sine: a full turn changes nothing.
        """
        joints = states[..., 1 : 1 + self.model.nq + self.model.nv]
        positions, velocities = np.split(joints, [self.model.nq], axis=-1)
        free = positions[..., self.free_hinges]
        bounded = np.delete(positions, self.free_hinges, axis=-1)
        return np.concatenate([np.cos(free), np.sin(free), bounded, velocities], axis=-1)

    def observe(self, states: Array, part: str, variants: Variants = None) -> NDArray[Any]:
        """Return an encoder's input for states (B, S): `pixels` or `observation` (float32)."""
        if part == "pixels":
            return self.render(states, variants)
        return self.proprioception(states).astype(np.float32)

    def observe_goals(self, goals: Array, part: str, variants: Variants = None) -> NDArray[Any]:
        """Return an encoder's input for goals (B, S), with moving distractors elsewhere."""
        later = np.concatenate([np.full((len(goals), 1), GOAL_TIME), goals[:, 1:]], axis=1)
        return self.observe(later, part, variants)

    def render(self, states: Array, variants: Variants = None) -> NDArray[np.uint8]:
        """Return the observation camera's images of states (B, S), (B, P, P, 3) uint8."""
        rows = zip(states, variants or [None] * len(states), strict=True)
        return np.stack([self._observer.render(self._at(*row), variant=row[1]) for row in rows])

    def enlarge(self, state: Array) -> NDArray[np.uint8]:
        """Return the observation camera's image of a state (S,) for people, (360, 360, 3)."""
        return self._magnifier.render(self._at(state))

    def render_pretty(
        self, state: Array, goal: Array | None = None, variant: Variant | None = None
    ) -> NDArray[np.uint8]:
        """Return the pretty camera's image of a state (S,) for people, (480, 480, 3) uint8.

        The position that the state `goal` (S,) achieves is drawn as a ball.
        """
        marker = None if goal is None or self.goal_size < 3 else self.achieved(goal[None])[0, :3]
        return self._beauty.render(self._at(state, variant), marker, variant)

    def project(self, points: Array, variant: Variant | None = None) -> Array:
        """Return the image positions (..., 2) of world positions (..., 3).

        They are shares of the observation camera's image: x from the left, y from the top.
        """
        data = self._at(self.state(self.model.qpos0), variant)
        camera = camera_frame(self.model, data, self.task.observation_camera)
        seen = (points - camera.position) @ camera.axes
        half = -seen[..., 2] * camera.half
        return np.stack([0.5 + seen[..., 0] / half / 2, 0.5 - seen[..., 1] / half / 2], axis=-1)

    def _model(self, variant: Variant | None) -> Model:
        return self.model if variant is None else variant.model

    def _at(self, state: Array, variant: Variant | None = None) -> Data:
        """Return simulation data at a state; the next call overwrites it."""
        model = self._model(variant)
        mujoco.mj_setState(model, self._data, state, STATE)
        mujoco.mj_forward(model, self._data)
        return self._data

    @functools.cached_property
    def _observer(self) -> Renderer:
        camera, antialias = self.task.observation_camera, self.task.antialias
        return Renderer(self.model, camera, self.image_size, antialias=antialias)

    @functools.cached_property
    def _magnifier(self) -> Renderer:
        return Renderer(self.model, self.task.observation_camera, 360, antialias=True)

    @functools.cached_property
    def _beauty(self) -> Renderer:
        return Renderer(self.model, self.task.pretty_camera, 480, pretty=True)


def _goal_readings(
    model: Model, sensors: Sequence[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the indices of the goal's numbers in `sensordata`, and names such as `tip.x`."""
    indices, names = [], []
    for sensor in sensors:
        first, size = int(model.sensor(sensor).adr[0]), int(model.sensor(sensor).dim[0])
        indices += range(first, first + size)
        axes = "xyz" if size == 3 else range(size)
        names += [sensor] if size == 1 else [f"{sensor}.{axis}" for axis in axes]
    return np.array(indices, int), tuple(names)
