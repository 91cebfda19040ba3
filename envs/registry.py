"""The tasks by name."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import replace
from pathlib import Path

from mujepa.envs.names import FileName, digest, is_file_name, parse
from mujepa.envs.suites import is_suite_task, load_suite_task
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

REACHING = (Reacher(), TwoRoom(), PointMaze())
SWING_UPS = (Pendulum(), Cartpole(), Acrobot(), DoublePendulum(), Cup())
TASKS: dict[str, Task] = {task.name: task for task in (*REACHING, *SWING_UPS, PushT(), Cube())}


def find_task(
    name: str,
    goal_site: str | None = None,
    camera: str | None = None,
    tolerance: float | None = None,
) -> Task:
    """Return a task by name: one of `TASKS`, `SUITE:ID`, `PATH.xml?SETTINGS` or `PATH.py:TASK`.

    For a MuJoCo file, `goal_site` is brought to the goal, within `tolerance` [m].

    Raises:
        UserError: there is no such task, or it has no such settings.
    """
    settings = {"goal_site": goal_site, "camera": camera, "tolerance": tolerance}
    settings = {key: str(value) for key, value in settings.items() if value is not None}
    file = parse(name) if is_file_name(name) else None
    if file and file.path.suffix.lower() != ".py":
        from mujepa.envs.robot import robot_task  # loads the simulator

        return robot_task(replace(file, settings=file.settings | settings))
    if settings:
        raise UserError(
            f"--{next(iter(settings)).replace('_', '-')} is for a MuJoCo file of your own; "
            f"task {name!r} has its own"
        )
    if file:
        return _python_task(file)
    if is_suite_task(name):
        return load_suite_task(name)
    if name not in TASKS:
        hint = suggestion(name, TASKS, f"tasks: {', '.join(TASKS)}")
        raise UserError(f"unknown task {name!r}; {hint}")
    return TASKS[name]


def _python_task(file: FileName) -> Task:
    file.check("code", file.path)
    spec = importlib.util.spec_from_file_location(f"mujepa_own_{file.path.stem}", file.path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up annotations there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's own code raises anything
        raise UserError(f"{file.path} fails: {type(error).__name__}: {error}") from error
    found = getattr(module, file.item, None)
    task = found() if isinstance(found, type) else found
    if not isinstance(task, Task):
        held = [key for key, value in vars(module).items() if _is_task(value)]
        raise UserError(
            f"{file.path.name} holds no task {file.item!r}; it holds {', '.join(held) or 'none'}"
        )
    model = Path(task.mjcf)  # a user's class may hold a string
    file.check("digest", model)
    checksums = {"code": digest(file.path), "digest": digest(model)}
    return replace(task, name=replace(file, settings=checksums).text)


def _is_task(value: object) -> bool:
    if isinstance(value, type):
        return issubclass(value, Task) and not inspect.isabstract(value)
    return isinstance(value, Task)
