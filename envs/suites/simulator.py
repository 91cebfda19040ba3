"""Environments of other suites as functions of MuJoCo states."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from mujepa.envs.types import Array, Data, Model
from mujepa.runtime.errors import UserError

STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
UNSEEN_GROUP = 5
"""Geoms and sites of this group are not drawn."""
MARKERS = ("target", "goal")
"""Parts of the names of what shows a suite's own goal, which is not ours and must not be seen."""


class Simulator(ABC):
    """One environment of a suite: its model, its resets and its steps."""

    name: str
    model: Model
    data: Data
    substeps: int  # physics steps per environment step
    action_low: Array  # (A,)
    action_high: Array  # (A,)
    plain: bool  # whether actions are the controls, so that MuJoCo alone can step it

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Start an episode, which depends on the seed alone."""

    @abstractmethod
    def act(self, action: Array) -> None:
        """Take one environment step from where `data` is."""

    @property
    def seconds(self) -> float:
        """Duration of an environment step [s]."""
        return self.substeps * self.model.opt.timestep

    def state(self) -> Array:
        """Return the state (S,) at which `data` is."""
        state = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, state, STATE)
        return state

    def advance(self, states: Array, actions: Array, hold: int) -> Array:
        """Step from states (B, S) under actions (B, T, A), held for `hold` steps -> (B, T, S)."""
        trajectory = np.empty((*actions.shape[:2], states.shape[-1]))
        actions = np.clip(actions, self.action_low, self.action_high)
        for row, state in enumerate(states):
            now = state
            for step, action in enumerate(actions[row]):
                for _ in range(hold):
                    mujoco.mj_setState(self.model, self.data, now, STATE)
                    mujoco.mj_forward(self.model, self.data)
                    self.act(action)
                    now = self.state()
                trajectory[row, step] = now
        return trajectory

    def prepare(self) -> None:
        """Hide the suite's goal, and check that MuJoCo's state determines an episode.

        Raises:
            UserError: it does not: episodes change the model, do not depend on the seed, or depend
                on more than the state.
        """
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART.value
        self.reset(0)
        hidden = _hide_markers(self.model)
        before, starts = _copy_arrays(self.model, hidden), []
        for seed in (1, 2, 1):
            self.reset(seed)
            starts.append(self.state())
        if (starts[0] != starts[2]).any():
            raise unsupported(self.name, "its seed does not decide how it starts")
        rng = np.random.default_rng(0)
        actions = rng.uniform(self.action_low, self.action_high, (2, 4, len(self.action_low)))
        first = self.advance(np.stack(starts[:2]), actions, 1)
        second = self.advance(first[::-1, 1], actions[::-1, 2:], 1)[::-1]
        if (first[:, 2:] != second).any():
            raise unsupported(self.name, "a step depends on more than MuJoCo's state")
        after = _copy_arrays(self.model, hidden)
        changed = [name for name, value in before.items() if (after[name] != value).any()]
        if changed:
            reason = f"its episodes change the model itself ({', '.join(changed)})"
            raise unsupported(self.name, f"{reason}, which a state does not hold")


class GymSimulator(Simulator):
    """A Gymnasium environment with a MuJoCo `model` and `data`."""

    def __init__(self, name: str, env: Any, *, plain: bool) -> None:  # noqa: ANN401
        self.name, self.plain = name, plain
        self._env, self._space = env.unwrapped, env.action_space
        if hasattr(self._env, "compute_observation"):  # OGBench would draw at every step
            self._env.compute_observation = lambda: np.zeros(0)
        self.reset(0)
        model = getattr(self._env, "model", None)
        if not isinstance(model, mujoco.MjModel):
            raise unsupported(name, "it is no MuJoCo world")
        self.model, self.data = model, self._env.data
        self.action_low = np.asarray(self._space.low, np.float64)
        self.action_high = np.asarray(self._space.high, np.float64)
        if not np.isfinite(self.action_low).all() or not np.isfinite(self.action_high).all():
            raise unsupported(name, "its actions have no bounds")
        inner = getattr(self._env, "point_env", getattr(self._env, "ant_env", self._env))
        steps = [getattr(inner, each, None) for each in ("frame_skip", "n_substeps", "_n_steps")]
        self.substeps = next(int(count) for count in steps if count)
        self.camera: dict[str, Any] = (
            getattr(getattr(inner, "mujoco_renderer", None), "default_cam_config", None) or {}
        )

    def reset(self, seed: int) -> None:
        """Reset with a seed; some suites also draw from their action space and from numpy."""
        with _global_seed(seed):
            self._space.seed(seed)
            self._env.reset(seed=seed)

    def act(self, action: Array) -> None:
        """Take one step of the suite's own."""
        self._env.step(action.astype(np.float32))


class ControlSimulator(Simulator):
    """An environment of dm_control's suite."""

    def __init__(self, name: str, env: Any, *, plain: bool) -> None:  # noqa: ANN401
        self.name, self.plain, self._env = name, plain, env
        self.model, self.data = env.physics.model.ptr, env.physics.data.ptr
        low, high = env.action_spec().minimum, env.action_spec().maximum
        self.action_low, self.action_high = np.array(low, float), np.array(high, float)
        self.substeps = round(env.control_timestep() / self.model.opt.timestep)

    def reset(self, seed: int) -> None:
        """Start an episode as the suite does."""
        self._env.task.random.seed(seed)
        with _global_seed(seed):
            self._env.reset()

    def act(self, action: Array) -> None:
        """Take one step of the suite's own, without its observations and its clock."""
        self._env.task.before_step(action, self._env.physics)
        self._env.physics.step(self.substeps)
        self._env.task.after_step(self._env.physics)


def unsupported(name: str, reason: str) -> UserError:
    """Return the error for an environment that cannot be a task."""
    return UserError(f"{name} is not supported: {reason}")


def _hide_markers(model: Model) -> dict[str, list[int]]:
    """Hide geoms and sites that show the suite's goal; return the indices of markers by kind."""

    def marked(elements: Callable[[int], Any], count: int) -> list[int]:
        names = [elements(index).name.lower() for index in range(count)]
        return [i for i, name in enumerate(names) if any(word in name for word in MARKERS)]

    bodies, sites = marked(model.body, model.nbody), marked(model.site, model.nsite)
    inside = np.flatnonzero(np.isin(model.geom_bodyid, bodies)).tolist()
    geoms = sorted({*marked(model.geom, model.ngeom), *inside})
    model.geom_group[geoms] = UNSEEN_GROUP
    model.site_group[sites] = UNSEEN_GROUP
    return {"geom": geoms, "site": sites, "body": bodies}


def _copy_arrays(model: Model, hidden: dict[str, list[int]]) -> dict[str, NDArray[Any]]:
    arrays = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {
        name: np.delete(value, hidden.get(name.split("_")[0], []), axis=0)
        for name, value in arrays.items()
        if isinstance(value, np.ndarray) and value.size
    }


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which some suites draw from, and restore it afterwards."""
    kept = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(kept)  # noqa: NPY002
