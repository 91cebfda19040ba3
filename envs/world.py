"""The physics of a task as functions of batches of states, on MuJoCo's own threads."""

# MuJoCo's compiled names have no stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from mujepa.envs.distractors import GOAL_TIME
from mujepa.envs.rendering import Renderer, camera_frame
from mujepa.envs.sensors import quantities, readings
from mujepa.envs.variation import Draw, Variant, Variation, make_variant
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from mujepa.envs.task import Task

    Variants = Sequence[Variant | None] | None
    """The worlds of the rows of a batch; None for the task's own."""

STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
MAX_DRAWS = 1000


@dataclass(frozen=True)
class Episode:
    """Where an episode starts and what its goal is: two simulator states, (S,) each.

    Where the world varies, `draw` says what the episode has drawn.
    """

    start: NDArray[np.float64]
    goal: NDArray[np.float64]
    draw: Draw | None = None


class World:
    """One task's compiled model. States go in and come out; nothing is remembered between calls.

    A state is MuJoCo's full physics state (time, positions, velocities, activations). The solver's
    warm start is switched off, so that this is *all* of the state: stepping from a stored state
    continues bit for bit, and threads, batches and single steps agree.

    Where episodes vary, `variant` turns what one has drawn into a model of its own; what moves or
    draws takes one of them for each row of the batch. Starts, goals and what they achieve are those
    of the task's own model: goals say where things are, which no factor changes.

    Letters: B batch, T time, S state, O proprioception, A action, G goal, P image size.

    Args:
        task: the task.
        image_size: width and height of observations [pixels].
        threads: threads that step simulations; 0 steps them in the calling thread.
        variation: what differs from one sampled episode to the next, if anything.

    Raises:
        UserError: the task's MuJoCo file cannot be compiled, or lacks a factor of the variation.
    """

    def __init__(
        self,
        task: Task,
        image_size: int = 64,
        threads: int = 0,
        variation: Variation | None = None,
    ) -> None:
        self.model = task.compile()
        if variation is not None:
            variation.check(task, self.model)
        self.variation = variation
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART.value
        self.task = task
        self.image_size = image_size
        self.state_size: int = mujoco.mj_stateSize(self.model, STATE)
        self.action_low, self.action_high = task.action_bounds(self.model)
        self._centre = (self.action_high + self.action_low) / 2
        self._half = (self.action_high - self.action_low) / 2
        hinge = self.model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
        self.free_hinges = self.model.jnt_qposadr[hinge & ~self.model.jnt_limited.astype(bool)]
        self._data = mujoco.MjData(self.model)
        self._rollout = Rollout(nthread=threads)
        self._thread_data = [mujoco.MjData(self.model) for _ in range(max(threads, 1))]
        self._goal = np.array(
            [index for name in task.goal_sensors for index in readings(self.model, name)], int
        )
        self.goal_size = self.achieved(self.state(self.model.qpos0)[None]).shape[1]
        self.quantities = tuple(
            name for sensor in task.goal_sensors for name in quantities(self.model, sensor)
        )

    def state(
        self, qpos: NDArray[np.float64], qvel: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
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
        """How long an environment step is [s]."""
        return self.task.substeps * float(self.model.opt.timestep)

    def to_unit(self, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Return actions (..., A) in units of the bounds, [-1, 1]."""
        return ((actions - self._centre) / self._half).astype(np.float32)

    def from_unit(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """Return actions (..., A) given in units of the bounds, in the actuators' own."""
        return self._centre + self._half * np.asarray(actions, np.float64)

    def sample_episode(self, rng: np.random.Generator) -> Episode:
        """Draw a start and a goal; those that are already solved are drawn again.

        Raises:
            UserError: no unsolved start was found.
        """
        for _ in range(MAX_DRAWS):
            episode = Episode(*self.task.sample_ends(self, rng))
            ends = self.achieved(np.stack([episode.start, episode.goal]))
            if self.task.distance(ends[0], ends[1]) > self.task.tolerance:
                return replace(episode, draw=self.draw(rng)) if self.variation else episode
        raise UserError(
            f"task {self.task.name!r}: {MAX_DRAWS} starts in a row were already solved; "
            "lower the tolerance"
        )

    def draw(self, rng: np.random.Generator) -> Draw | None:
        """Draw what varies in an episode, or None; the random stream itself stays as it is."""
        return self.variation.draw(rng) if self.variation else None

    def variant(self, draw: Draw | None) -> Variant | None:
        """Return the world of an episode that has drawn this, or None for the task's own."""
        if draw is None:
            return None
        return make_variant(self.model, self.task.observation_camera, draw)

    def step(
        self,
        states: NDArray[np.float64],
        actions: NDArray[Any],
        variants: Variants = None,
    ) -> NDArray[np.float64]:
        """Advance each state (B, S) by one environment step under its action (B, A) -> (B, S)."""
        return self.rollout(states, np.asarray(actions)[:, None], variants=variants)[0][:, -1]

    def variants(self, draws: Iterable[Draw | None]) -> list[Variant | None] | None:
        """Return the worlds of episodes that have drawn these, or None if nothing varies."""
        return [self.variant(draw) for draw in draws] if self.variation else None

    def rollout(
        self,
        states: NDArray[np.float64],
        actions: NDArray[Any],
        hold: int = 1,
        variants: Variants = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Run open-loop action sequences from states.

        Args:
            states: (B, S).
            actions: (B, T, A), clipped to the actuators' limits by MuJoCo.
            hold: environment steps through which each action is held.
            variants: the worlds of the rows, if not the task's own.

        Returns:
            The states (B, T, S) at the end of each action, and the goals achieved there (B, T, G),
            read from MuJoCo's sensors, which lag by one physics step; `achieved` is exact.
        """
        if self.task.python_stepped:
            trajectory = self.task.advance(states, np.asarray(actions, np.float64), hold)
            return trajectory, self.task.read_goals(self.model, self._data, trajectory)
        repeat = hold * self.task.substeps
        controls = np.repeat(np.asarray(actions, np.float64), repeat, axis=1)
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

    def achieved(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the goals (B, G) that the states (B, S) achieve."""
        if not self.task.goal_sensors:
            return self.task.read_goals(self.model, self._data, states)
        return np.stack([self._at(state).sensordata[self._goal] for state in states])

    def separation(
        self, states: NDArray[np.float64], others: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return how far states are apart by `distance_metric`, (B, S) and (B, S) -> (B,)."""
        if self.task.distance_metric == "joints":
            return self.joint_distance(states, others)
        return self.task.remaining(self.achieved(states), self.achieved(others))

    def joint_distance(
        self, one: NDArray[np.float64], other: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return how far joints are apart, (..., S) and (..., S) -> (...) [rad, m].

        Hinges without limits turn freely.
        """
        difference = one[..., 1 : 1 + self.model.nq] - other[..., 1 : 1 + self.model.nq]
        turns = difference[..., self.free_hinges]
        difference[..., self.free_hinges] = (turns + np.pi) % (2 * np.pi) - np.pi
        return np.linalg.norm(difference, axis=-1)

    def proprioception(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return joint positions and velocities as numbers, (..., S) -> (..., O).

        Hinges that turn freely are given as cosine and sine, so that a full turn changes nothing.
        """
        positions, velocities = np.split(
            states[..., 1 : 1 + self.model.nq + self.model.nv], [self.model.nq], axis=-1
        )
        free = positions[..., self.free_hinges]
        bounded = np.delete(positions, self.free_hinges, axis=-1)
        return np.concatenate([np.cos(free), np.sin(free), bounded, velocities], axis=-1)

    def observe(
        self, states: NDArray[np.float64], part: str, variants: Variants = None
    ) -> NDArray[Any]:
        """Return what an encoder reads of states (B, S): `pixels` or `observation` (float32)."""
        if part == "pixels":
            return self.render(states, variants)
        return self.proprioception(states).astype(np.float32)

    def observe_goals(
        self, goals: NDArray[np.float64], part: str, variants: Variants = None
    ) -> NDArray[Any]:
        """Return what an encoder reads of goals (B, S): `pixels` or `observation` (float32).

        Their pictures are taken at another time than those of an episode, so that what moves by
        itself is elsewhere.
        """
        later = np.concatenate([np.full((len(goals), 1), GOAL_TIME), goals[:, 1:]], axis=1)
        return self.observe(later, part, variants)

    def render(self, states: NDArray[np.float64], variants: Variants = None) -> NDArray[np.uint8]:
        """Return what the observation camera sees in each state, (B, S) -> (B, P, P, 3) uint8."""
        if variants is None:
            return np.stack([self._observer.render(self._at(state)) for state in states])
        return np.stack(
            [
                self._observer.render(self._at(state, variant), variant=variant)
                for state, variant in zip(states, variants, strict=True)
            ]
        )

    def enlarge(self, state: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return what the observation camera sees, large and smooth for people, (360, 360, 3)."""
        return self._magnifier.render(self._at(state))

    def project(
        self, points: NDArray[np.float64], variant: Variant | None = None
    ) -> NDArray[np.float64]:
        """Return where world positions (..., 3) appear to the observation camera.

        Shares of the image, (..., 2): x from the left, y from the top, inside it from 0 to 1.
        """
        data = self._at(self.state(self.model.qpos0), variant)
        position, axes, field = camera_frame(self.model, data, self.task.observation_camera)
        seen = (points - position) @ axes
        half = -seen[..., 2] * np.tan(np.deg2rad(field) / 2)
        return np.stack([0.5 + seen[..., 0] / half / 2, 0.5 - seen[..., 1] / half / 2], axis=-1)

    def render_pretty(
        self,
        state: NDArray[np.float64],
        goal: NDArray[np.float64] | None = None,
        variant: Variant | None = None,
    ) -> NDArray[np.uint8]:
        """Return a picture for people, (480, 480, 3) uint8.

        The position that the state `goal` achieves is drawn as a ball.
        """
        markers = [self.achieved(goal[None])[0, :3]] if goal is not None else []
        balls = [marker for marker in markers if marker.shape == (3,)]
        return self._beauty.render(self._at(state, variant), balls, variant)

    def _model(self, variant: Variant | None) -> mujoco.MjModel:
        return self.model if variant is None else variant.model

    def _at(self, state: NDArray[np.float64], variant: Variant | None = None) -> mujoco.MjData:
        model = self._model(variant)
        mujoco.mj_setState(model, self._data, state, STATE)
        mujoco.mj_forward(model, self._data)
        return self._data

    @functools.cached_property
    def _observer(self) -> Renderer:
        task = self.task
        return Renderer(
            self.model, task.observation_camera, self.image_size, antialias=task.antialias
        )

    @functools.cached_property
    def _magnifier(self) -> Renderer:
        return Renderer(self.model, self.task.observation_camera, 360, antialias=True)

    @functools.cached_property
    def _beauty(self) -> Renderer:
        return Renderer(self.model, self.task.pretty_camera, 480, pretty=True)
