"""Other people's environments as functions of MuJoCo states: reset, step, nothing in between."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from mujepa.envs.types import Array, Data, Model
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
UNSEEN_GROUP = 5
"""Geoms and sites of this group are not drawn."""
MARKERS = ("target", "goal")
"""What the names of things contain that show a suite's own goal; `reached` states are the goal
here, so that these must not be seen."""


class Simulator(ABC):
    """One environment of a suite: its model, its way from actions to controls, its resets.

    Attributes:
        name: the environment's name.
        model: its own compiled model.
        data: its own simulation data.
        substeps: physics steps per environment step.
        action_low: lower bounds of actions, (A,).
        action_high: upper bounds.
        plain: actions are the controls, so that MuJoCo alone can step it.
    """

    name: str
    model: Model
    data: Data
    substeps: int
    action_low: Array
    action_high: Array
    plain: bool

    @abstractmethod
    def reset(self, seed: int) -> None:
        """Go to the start of an episode, which depends on the seed alone."""

    @abstractmethod
    def act(self, action: Array) -> None:
        """Take one environment step from where `data` is."""

    @property
    def seconds(self) -> float:
        """Seconds that an environment step simulates."""
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
        """Hide the suite's goal, and check that a state is all that an episode is made of.

        Raises:
            UserError: resets change the model, seeds do not decide, or a step depends on more than
                the state.
        """
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_WARMSTART.value
        self.reset(0)
        hidden = hide_markers(self.model)
        before, starts = _numbers(self.model, hidden), []
        for seed in (1, 2, 1):
            self.reset(seed)
            starts.append(self.state())
        if (starts[0] != starts[2]).any():
            raise UserError(f"{self.name} is not supported: its seed does not decide how it starts")
        rng = np.random.default_rng(0)
        actions = rng.uniform(self.action_low, self.action_high, (2, 4, len(self.action_low)))
        first = self.advance(np.stack(starts[:2]), actions, 1)
        second = self.advance(first[::-1, 1], actions[::-1, 2:], 1)[::-1]
        if (first[:, 2:] != second).any():
            raise UserError(
                f"{self.name} is not supported: it keeps something beside MuJoCo's state, so that "
                "it cannot be continued from one"
            )
        after = _numbers(self.model, hidden)
        changed = [name for name, value in before.items() if (after[name] != value).any()]
        if changed:
            raise UserError(
                f"{self.name} is not supported: its episodes change the model itself "
                f"({', '.join(changed)}), which a state does not hold"
            )


class GymSimulator(Simulator):
    """An environment on Gymnasium's interface that holds a MuJoCo `model` and `data`."""

    def __init__(self, name: str, env: Any, *, plain: bool) -> None:  # noqa: ANN401
        self.name, self.plain = name, plain
        self._env, self._space = env.unwrapped, env.action_space
        if hasattr(self._env, "compute_observation"):  # OGBench would draw at every step
            self._env.compute_observation = lambda: np.zeros(0)
        self.reset(0)
        model = getattr(self._env, "model", None)
        if not isinstance(model, mujoco.MjModel):
            raise UserError(f"{name} is not supported: it is no MuJoCo world")
        self.model, self.data = model, self._env.data
        self.action_low = np.asarray(self._space.low, np.float64)
        self.action_high = np.asarray(self._space.high, np.float64)
        if not np.isfinite(self.action_low).all() or not np.isfinite(self.action_high).all():
            raise UserError(f"{name} is not supported: its actions have no bounds")
        inner = getattr(self._env, "point_env", getattr(self._env, "ant_env", self._env))
        steps = [getattr(inner, each, None) for each in ("frame_skip", "n_substeps", "_n_steps")]
        self.substeps = next(int(count) for count in steps if count)
        self.camera: dict[str, Any] = (
            getattr(getattr(inner, "mujoco_renderer", None), "default_cam_config", None) or {}
        )

    def reset(self, seed: int) -> None:
        """Reset with a seed; some suites also draw from their action space and from numpy's own."""
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
        """Begin an episode as the suite does."""
        self._env.task.random.seed(seed)
        with _global_seed(seed):
            self._env.reset()

    def act(self, action: Array) -> None:
        """Take one step of the suite's own, without its observations and its clock."""
        self._env.task.before_step(action, self._env.physics)
        self._env.physics.step(self.substeps)
        self._env.task.after_step(self._env.physics)


def hide_markers(model: Model) -> dict[str, NDArray[np.int64]]:
    """Let geoms and sites that show the suite's goal not be drawn; return their indices by kind."""

    def marks(name: str) -> bool:
        return any(word in name.lower() for word in MARKERS)

    geoms = [
        index
        for index in range(model.ngeom)
        if marks(model.geom(index).name) or marks(model.body(model.geom_bodyid[index]).name)
    ]
    sites = [index for index in range(model.nsite) if marks(model.site(index).name)]
    model.geom_group[geoms] = UNSEEN_GROUP
    model.site_group[sites] = UNSEEN_GROUP
    bodies = [index for index in range(model.nbody) if marks(model.body(index).name)]
    return {"geom": np.array(geoms, int), "site": np.array(sites, int), "body": np.array(bodies)}


def _numbers(model: Model, hidden: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """Copy every array of a model, without the rows of what is hidden."""
    copies = {}
    for name in dir(model):
        value = getattr(model, name) if not name.startswith("_") else None
        if isinstance(value, np.ndarray) and value.size:
            rows = hidden.get(name.split("_")[0], np.empty(0, int))
            copies[name] = np.delete(value, rows, axis=0) if len(rows) else value.copy()
    return copies


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which some suites draw from, and put it back afterwards."""
    kept = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(kept)  # noqa: NPY002
