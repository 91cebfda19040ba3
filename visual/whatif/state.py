"""The state of the what-if page: what a person chose and where the simulator is.

Letters: H horizon in model steps, K history, S state, A action.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mujepa.runtime.errors import UserError
from mujepa.runtime.settings import Finite, read_settings, settings

FORMAT = 1
"""Version of the JSON format."""
REMEDY = "save one on the page"
Unit = Annotated[float, Field(ge=-1, le=1)]
"""An action in units of its bounds."""


@dataclass(frozen=True)
class WhatIfState:
    """What a person chose on the page, and where the simulator is.

    Attributes:
        start: initial state, (S,).
        goal: goal state, (S,).
        states: the states that the agent remembers, (1 to K, S), the current one last.
        taken: the actions between them, (one fewer, A), in units of the bounds.
        sequence: the next actions, (H, A), in units of the bounds.
        cost: expression of the cost that the planner minimises.
        step: model steps since the start.
        before: the sequence that the latest plan replaced, if any.
    """

    start: NDArray[np.float64]
    goal: NDArray[np.float64]
    states: NDArray[np.float64]
    taken: NDArray[np.float32]
    sequence: NDArray[np.float32]
    cost: str
    step: int = 0
    before: NDArray[np.float32] | None = None

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
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    lists = {key: it.tolist() if isinstance(it, np.ndarray) else it for key, it in values.items()}
    return {"format": FORMAT, "task": task} | lists


def read_state(
    raw: object, task: str, history: int, state_size: int, shape: tuple[int, int]
) -> WhatIfState:
    """Return the state that `write_state` wrote; its cost is not checked.

    Args:
        raw: the values that JSON held.
        task: name of the task.
        history: K.
        state_size: S.
        shape: of a sequence, (H, A).

    Raises:
        UserError: the values are damaged, or belong to another task or model.
    """
    if not isinstance(raw, dict) or raw.get("format") != FORMAT or raw.get("task") != task:
        raise UserError(f"this is no what-if state of task {task!r}; {REMEDY}")
    saved = read_settings(_Saved, raw, "the what-if state", REMEDY)
    if not 1 <= len(saved.states) <= history:
        raise UserError(f"there are {len(saved.states)} states, the model remembers {history}")

    def actions(name: str, count: int) -> NDArray[np.float32]:
        return _array(saved, name, (count, shape[1])).astype(np.float32)

    return WhatIfState(
        start=_array(saved, "start", (state_size,)),
        goal=_array(saved, "goal", (state_size,)),
        states=_array(saved, "states", (len(saved.states), state_size)),
        taken=actions("taken", len(saved.states) - 1),
        sequence=actions("sequence", shape[0]),
        cost=saved.cost,
        step=saved.step,
        before=None if saved.before is None else actions("before", shape[0]),
    )


def _array(saved: _Saved, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        array = np.array(getattr(saved, name) or np.empty((0, *shape[1:])), np.float64)
    except ValueError as error:  # rows of different lengths
        raise UserError(f"{name} must be an array of shape {shape}; {REMEDY}") from error
    if array.shape != shape:
        raise UserError(f"{name} must be an array of shape {shape}, got {array.shape}; {REMEDY}")
    return array
