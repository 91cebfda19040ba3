"""The tasks by name."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import replace
from pathlib import Path

from mujepa.envs.names import digest, is_file_name, parse
from mujepa.envs.suites import is_suite_task, suite_task
from mujepa.envs.task import Task
from mujepa.envs.tasks.acrobot import Acrobot
from mujepa.envs.tasks.cartpole import Cartpole
from mujepa.envs.tasks.cube import Cube
from mujepa.envs.tasks.cup import Cup
from mujepa.envs.tasks.double_pendulum import DoublePendulum
from mujepa.envs.tasks.pendulum import Pendulum
from mujepa.envs.tasks.point_maze import PointMaze
from mujepa.envs.tasks.push_t import PushT
from mujepa.envs.tasks.reacher import Reacher
from mujepa.envs.tasks.two_room import TwoRoom
from mujepa.runtime.errors import UserError, suggestion

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(Reacher(), TwoRoom(), PointMaze()),
        *(Pendulum(), Cartpole(), Acrobot(), DoublePendulum()),
        *(Cup(), PushT(), Cube()),
    )
}


def find_task(name: str) -> Task:
    """Return the task of a name: one of ours, `SUITE:ID`, `PATH.xml?SETTINGS` or `PATH.py:TASK`.

    Raises:
        UserError: there is none; the message suggests the nearest name.
    """
    if name in TASKS:
        return TASKS[name]
    if is_file_name(name):
        return _file_task(name)
    if is_suite_task(name):
        return suite_task(name)
    hint = suggestion(name, TASKS, f"tasks: {', '.join(TASKS)}")
    raise UserError(f"unknown task {name!r}; {hint}")


def named_task(
    task: str,
    goal_site: str | None = None,
    camera: str | None = None,
    tolerance: float | None = None,
) -> str:
    """Return the whole name of a task on the command line, with its settings.

    Raises:
        UserError: the task has no such settings.
    """
    given = {"goal_site": goal_site, "camera": camera, "tolerance": tolerance}
    given = {key: str(value) for key, value in given.items() if value is not None}
    if is_file_name(task) and ".py:" not in task:
        file = parse(task)
        return find_task(replace(file, settings=file.settings | given).text).name
    if given:
        raise UserError(
            f"--{next(iter(given)).replace('_', '-')} is for a MuJoCo file of your own; "
            f"task {task!r} has its own"
        )
    return find_task(task).name


def _file_task(name: str) -> Task:
    """Return the task of a MuJoCo file, or one that a Python file holds."""
    file = parse(name)
    if file.path.suffix.lower() != ".py":
        from mujepa.envs.robot import robot_task  # loads the simulator

        return robot_task(name)
    file.check("code", file.path)
    spec = importlib.util.spec_from_file_location(f"mujepa_own_{file.path.stem}", file.path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for what annotations mean
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a person's own code raises what it likes
        raise UserError(f"{file.path} fails: {type(error).__name__}: {error}") from error
    found = getattr(module, file.item, None)
    task = found() if isinstance(found, type) else found
    if not isinstance(task, Task):
        held = [key for key, value in vars(module).items() if _is_task(value)]
        raise UserError(
            f"{file.path.name} holds no task {file.item!r}; it holds {', '.join(held) or 'none'}"
        )
    model = Path(task.mjcf)  # a person's class may hold a string
    file.check("digest", model)
    checksums = {"code": digest(file.path), "digest": digest(model)}
    named = replace(file, settings=checksums)
    return replace(task, name=named.text)


def _is_task(value: object) -> bool:
    if isinstance(value, type):
        return issubclass(value, Task) and not inspect.isabstract(value)
    return isinstance(value, Task)
