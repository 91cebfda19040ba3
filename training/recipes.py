"""Settings that a task needs to differ from the defaults of `mujepa train`, by the task's name.

The command line and `mujepa.train` apply them to settings that were not given. A task of your own
(`PATH.py:Task`) can hold such a mapping in an attribute `recipe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from mujepa.envs.task import Task
from mujepa.runtime.errors import UserError, suggestion

Settings = TypeVar("Settings")
Recipe = Mapping[str, Any]
"""Values by the name of the setting; those of a group of settings in a mapping of their own."""

BALANCE = {
    "updates": 10000, "critic_updates": 3000, "mode": "planner",
    "jepa": {"predictor": {"history": 3}},
    "critic": {"history": 2}, "critic_loss": {"apart": 0.5},
    "planner": {"horizon": 15, "samples": 128, "elites": 16},
}  # fmt: skip
"""Of tasks in which something is balanced: velocities count, and few actions are right."""
WIDE = {"encoder": {"dim": 64}, "predictor": {"width": 512, "depth": 3}}
"""A larger world model, for contacts."""

RECIPES: dict[str, Recipe] = {
    "point_maze": {"planner": {"horizon": 10}},
    "pendulum": {"critic": {"history": 2}, "planner": {"horizon": 15}},
    "cup": {"critic": {"history": 2}, "planner": {"horizon": 10}, "mode": "planner"},
    "cartpole": BALANCE,
    "double_pendulum": BALANCE | {
        "cost": "critic + 5*goal", "planner": {"horizon": 15, "samples": 96, "elites": 16},
    },
    "acrobot": BALANCE | {
        "cost": "critic", "planner": {"horizon": 15, "samples": 96, "elites": 12},
        "jepa": {"predictor": {"history": 3, "past_actions": False}},
    },
    "push_t": {
        "updates": 10000, "critic_updates": 1500, "jepa": WIDE, "planner": {"horizon": 8},
        "cost": "goal.min + 0.02*effort", "mode": "planner",
    },
    "cube": {
        "updates": 12000, "critic_updates": 1500, "actor_updates": 9000, "jepa": WIDE,
        "cost": "goal.min + 5*state(cube).min", "planner": {"horizon": 8, "initial_std": 0.4},
    },
}  # fmt: skip


def recipe_of(task: Task) -> Recipe:
    """Return the recipe of a task; empty if the defaults suit it."""
    return RECIPES.get(task.name) or getattr(task, "recipe", {})


def apply_recipe(settings: Settings, recipe: Recipe) -> Settings:
    """Return settings in which a recipe replaces the values that equal their default."""
    return override(settings, recipe, only_defaults=True)


def override(
    settings: Settings, given: Mapping[str, Any], *, only_defaults: bool = False
) -> Settings:
    """Return settings with some values replaced; a mapping replaces values of a group."""
    defaults = {field.name: field.default for field in fields(settings)}  # type: ignore[arg-type]
    changes = {}
    for name, value in given.items():
        if name not in defaults:
            hint = suggestion(name, defaults, "see TrainConfig")
            raise UserError(f"{name} is no setting; {hint}")
        now = getattr(settings, name)
        if isinstance(value, Mapping):
            changes[name] = override(now, value, only_defaults=only_defaults)
        elif not only_defaults or now == defaults[name]:
            changes[name] = value
    return replace(settings, **changes)  # type: ignore[type-var]
