"""The state of the what-if page: what a person chose and where the simulator is.

Letters: H horizon in model steps, K history, S state, A action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mujepa.runtime.errors import UserError
from mujepa.runtime.settings import Finite, read_settings, settings

FORMAT = 1  # version of the JSON format
REMEDY = "save one on the page"
Unit = Annotated[float, Field(ge=-1, le=1)]  # an action in units of its bounds


@dataclass(frozen=True)
class WhatIfState:
    """What a person chose on the page, and where the simulator is."""

    start: NDArray[np.float64]  # initial state, (S,)
    goal: NDArray[np.float64]  # goal state, (S,)
    states: NDArray[np.float64]  # remembered by the agent, (1 to K, S), the current one last
    taken: NDArray[np.float32]  # the actions between them, (one fewer, A), in units of the bounds
    sequence: NDArray[np.float32]  # the next actions, (H, A), in units of the bounds
    cost: str  # expression of the cost that the planner minimises
    step: int = 0  # model steps since the start
    before: NDArray[np.float32] | None = None  # the sequence that the latest plan replaced, if any

    @property
    def current(self) -> NDArray[np.float64]:
        """The current state of the simulator, (S,)."""
        return self.states[-1]


@settings
class _Saved:
    """A state of the page as JSON holds it."""

    format: Literal[1]
    task: str
    step: Annotated[int, Field(ge=0, strict=True)]
    cost: str
    start: list[Finite]
    goal: list[Finite]
    states: list[list[Finite]]
    taken: list[list[Unit]]
    sequence: list[list[Unit]]
    before: list[list[Unit]] | None


def write_state(state: WhatIfState, task: str) -> dict[str, Any]:
    """Return a state of a task's page as values that JSON can hold."""
    values = vars(state).items()
    lists = {name: it.tolist() if isinstance(it, np.ndarray) else it for name, it in values}
    return {"format": FORMAT, "task": task} | lists


def read_state(
    raw: object, task: str, history: int, state_size: int, shape: tuple[int, int]
) -> WhatIfState:
    """Return the state that `write_state` wrote, with sequences of shape (H, A); checks no cost.

    Raises:
        UserError: the values are damaged, or belong to another task or model.
    """
    if not isinstance(raw, dict) or raw.get("format") != FORMAT or raw.get("task") != task:
        raise UserError(f"this is no what-if state of task {task!r}; {REMEDY}")
    saved = read_settings(_Saved, raw, "the what-if state", REMEDY)
    count = len(saved.states)
    if not 1 <= count <= history:
        raise UserError(f"there are {count} states, the model remembers {history}")
    shapes = {
        "start": (state_size,), "goal": (state_size,), "states": (count, state_size),
        "taken": (count - 1, shape[1]), "sequence": shape,
    }  # fmt: skip
    if saved.before is not None:
        shapes["before"] = shape
    arrays = {name: _array(saved, name, shape) for name, shape in shapes.items()}
    return WhatIfState(cost=saved.cost, step=saved.step, **arrays)


def _array(saved: _Saved, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    kind = np.float32 if name in ("taken", "sequence", "before") else np.float64
    try:
        array = np.array(getattr(saved, name) or np.empty((0, *shape[1:])), kind)
    except ValueError as error:  # rows of different lengths
        raise UserError(f"{name} must be an array of shape {shape}; {REMEDY}") from error
    if array.shape != shape:
        raise UserError(f"{name} must be an array of shape {shape}, got {array.shape}; {REMEDY}")
    return array
