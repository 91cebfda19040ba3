"""Tasks of other suites: `gymnasium:ID`, `dm_control:DOMAIN-TASK`, `ogbench:ID`, `robotics:ID`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium
import numpy as np

from mujepa.envs.task import Task
from mujepa.runtime.errors import UserError, suggestion

SUITES = {
    "gymnasium": ("gymnasium.envs.mujoco",),
    "dm_control": ("dm_control.suite",),
    "ogbench": ("ogbench.locomaze", "ogbench.manipspace"),
    "robotics": ("gymnasium_robotics",),
}
"""The modules of each suite."""
UNMOVED = "random actions never move the object that its goal is about"
REFUSED = {
    "ogbench:": {
        "scene": "the states of its buttons and locks are outside of MuJoCo",
        "puzzle": "the states of its buttons are outside of MuJoCo",
        "teleport": "its teleports are drawn at random, so that a state does not say what follows",
        "powderworld": "it is no MuJoCo world",
        "soccer": UNMOVED,
    },
    "robotics:": {
        "FetchPush": UNMOVED,
        "FetchSlide": UNMOVED,
        "FetchPickAndPlace": UNMOVED,
        "FrankaKitchen": "what its controller aims at, and the noise it adds, is outside of MuJoCo",
    },
}
"""Why environments are not supported, by suite and a part of the name."""


def is_suite_task(name: str) -> bool:
    """Return whether a name has the form of another suite's environment's."""
    return name.partition(":")[0] in SUITES and ":" in name


@functools.cache
def load_suite_task(name: str) -> Task:
    """Return the task of another suite's environment; it is made once per process.

    Raises:
        UserError: the suite is not installed, the name is unknown, or it is not supported.
    """
    suite, _, identifier = name.partition(":")
    for prefix, reasons in REFUSED.items():
        for part, reason in reasons.items():
            if name.startswith(prefix) and part in identifier:
                raise UserError(f"{name} is not supported: {reason}")
    with _silent():
        modules = [_import(module, suite) for module in SUITES[suite]]
        # Not at the top: they load MuJoCo.
        from mujepa.envs.suites.simulator import ControlSimulator, GymSimulator
        from mujepa.envs.suites.suite_task import make_task

        if suite == "dm_control":
            control = modules[0]
            _check(name, identifier, [f"{domain}-{task}" for domain, task in control.ALL_TASKS])
            domain, task = identifier.split("-", 1)
            env = control.load(domain, task)
            own = type(env.task).before_step is not control.base.Task.before_step
            simulator = ControlSimulator(name, env, plain=not own)
        else:
            if suite == "robotics":
                gymnasium.register_envs(modules[0])
            _check(name, identifier, _gymnasium_names(suite))
            simulator = GymSimulator(name, _make(name, identifier), plain=_plain(name))
        simulator.prepare()
        return make_task(name, simulator)


def _import(module: str, suite: str) -> Any:  # noqa: ANN401
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # announcements
            return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).split(".")[0]
        raise UserError(
            f"tasks of {suite} need {package}; install it with: pip install 'mujepa[suites]'"
        ) from error


def _gymnasium_names(suite: str) -> list[str]:
    owners = {"gymnasium": "gymnasium.envs.mujoco", "robotics": "gymnasium_robotics"}
    owner = owners.get(suite, suite)
    specs = gymnasium.registry.items()
    return [name for name, spec in specs if str(spec.entry_point).startswith(owner)]


def _check(name: str, identifier: str, known: Iterable[str]) -> None:
    known = list(known)
    if identifier not in known:
        suite = name.partition(":")[0]
        names = [f"{suite}:{each}" for each in known]
        hint = f"for example {', '.join(names[:3])}"
        raise UserError(f"unknown task {name!r}; {suggestion(name, names, hint)}")


def _make(name: str, identifier: str) -> Any:  # noqa: ANN401
    options: dict[str, Any] = {"disable_env_checker": True}
    if "cube" in identifier and name.startswith("ogbench"):
        # Cubes then lie anywhere.
        options |= {"mode": "data_collection", "visualize_info": False}
    try:
        return gymnasium.make(identifier, **options)
    except Exception as error:  # suites raise anything
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"{name} cannot be made: {reason}") from error


def _plain(name: str) -> bool:
    """Return whether an environment's actions are its controls, by the suites' code."""
    suite, _, identifier = name.partition(":")
    return suite == "gymnasium" or identifier.startswith(("antmaze", "humanoidmaze"))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence the warnings of other packages, about old versions and missing displays."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        level, gymnasium.logger.min_level = gymnasium.logger.min_level, gymnasium.logger.ERROR
        try:
            yield
        finally:
            gymnasium.logger.min_level = level
