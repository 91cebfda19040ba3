"""A situation: all that a person made on the page, in memory and as JSON.

Letters: H horizon in model steps, K history, S state, A action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FORMAT = 1
"""Of a situation as JSON."""


@dataclass(frozen=True)
class Situation:
    """What a person chose, and where the world stands.

    Attributes:
        start: the state (S,) in which it began.
        goal: the state (S,) to bring about.
        states: those that the agent remembers, (1 to K, S), the present last.
        taken: the actions between them, (one less, A), in units of the bounds.
        sequence: what is to be done next, (H, A), in units of the bounds.
        before: the sequence that the latest plan replaced, if any.
        cost: what the planner minimises.
        step: model steps since the start.
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
    def present(self) -> NDArray[np.float64]:
        """The state (S,) in which the world is."""
        return self.states[-1]


def write_situation(situation: Situation, task: str) -> dict[str, Any]:
    """Return a situation of a task as JSON can hold it."""
    before = situation.before
    return {
        "format": FORMAT,
        "task": task,
        "step": situation.step,
        "cost": situation.cost,
        "start": situation.start.tolist(),
        "goal": situation.goal.tolist(),
        "states": situation.states.tolist(),
        "taken": situation.taken.tolist(),
        "sequence": situation.sequence.tolist(),
        "before": None if before is None else before.tolist(),
    }


def read_situation(
    raw: object, task: str, history: int, state_size: int, shape: tuple[int, int]
) -> Situation:
    """Return the situation that `write_situation` described; its cost may be nonsense.

    Args:
        raw: what was described.
        task: name of the task.
        history: K.
        state_size: S.
        shape: of a sequence, (H, A).

    Raises:
        UserError: it is damaged, or of another task or another model.
    """
    if not isinstance(raw, dict) or raw.get("format") != FORMAT or raw.get("task") != task:
        raise UserError(f"this is no what-if situation of task {task!r}; save one on the page")
    states = _numbers(raw, "states", (None, state_size))
    if not 1 <= len(states) <= history:
        raise UserError(f"states: {len(states)}, the model remembers {history}")
    step, cost, before = raw.get("step"), raw.get("cost"), raw.get("before")
    if type(step) is not int or step < 0 or not isinstance(cost, str):
        raise UserError(f"step {step!r} is no number of steps, or cost {cost!r} no text")
    return Situation(
        _numbers(raw, "start", (state_size,)),
        _numbers(raw, "goal", (state_size,)),
        states,
        _actions(raw, "taken", (len(states) - 1, shape[1])),
        _actions(raw, "sequence", shape),
        cost,
        step,
        None if before is None else _actions(raw, "before", shape),
    )


def _numbers(raw: dict[str, Any], name: str, shape: Sequence[int | None]) -> NDArray[np.float64]:
    """Return an array of JSON numbers; a None in the shape leaves that size open.

    Raises:
        UserError: it is of another shape, or holds something else.
    """
    try:
        array = np.array(raw.get(name), np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} are not numbers of shape {tuple(shape)}") from error
    array = array.reshape(0, *shape[1:]) if array.size == 0 and shape[0] == 0 else array
    fits = array.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
    )
    if not fits or not np.isfinite(array).all():
        raise UserError(f"{name} are not finite numbers of shape {tuple(shape)}")
    return array


def _actions(raw: dict[str, Any], name: str, shape: Sequence[int | None]) -> NDArray[np.float32]:
    """Return actions in units of the bounds.

    Raises:
        UserError: they are none.
    """
    actions = _numbers(raw, name, shape)
    if (np.abs(actions) > 1).any():
        raise UserError(f"{name} lie outside of the bounds, which are -1 and 1")
    return actions.astype(np.float32)
