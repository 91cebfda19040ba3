"""The tasks by name."""

from __future__ import annotations

import difflib

from mujepa.envs.cartpole import Cartpole
from mujepa.envs.cube import Cube
from mujepa.envs.cup import Cup
from mujepa.envs.pendulum import Pendulum
from mujepa.envs.point_maze import PointMaze
from mujepa.envs.push_t import PushT
from mujepa.envs.reacher import Reacher
from mujepa.envs.task import Task
from mujepa.envs.two_room import TwoRoom
from mujepa.errors import UserError

TASKS: dict[str, Task] = {
    task.name: task
    for task in (Reacher(), TwoRoom(), PointMaze(), Pendulum(), Cartpole(), Cup(), PushT(), Cube())
}


def find_task(name: str) -> Task:
    """Return the task of a name.

    Raises:
        UserError: there is none; the message suggests the nearest name.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"tasks: {', '.join(TASKS)}"
    raise UserError(f"unknown task {name!r}; {hint}")
