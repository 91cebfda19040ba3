"""Success under one change at a time: goal distance, replanning, factors of variation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mujepa.envs.factors import FACTORS
from mujepa.envs.task import Task
from mujepa.envs.variation import Variation
from mujepa.envs.world import World
from mujepa.evaluation.config import EvaluateConfig
from mujepa.evaluation.loop import Outcome, join, split
from mujepa.evaluation.manifest import Manifest, make_manifest
from mujepa.evaluation.runner import Setup, build, run_parallel, run_shard
from mujepa.evaluation.statistics import paired, rate_of
from mujepa.evaluation.summaries import remaining_at_start
from mujepa.runtime.parallel import Pool

LEVELS: dict[str, tuple[float, ...]] = {
    "colour": (0.5, 1.0), "light": (0.4, 2.0), "camera": (0.5, 1.0), "texture": (0.5, 1.0),
    "distractors": (3, 10), "mass": (0.5, 2.0), "friction": (0.5, 2.0), "damping": (0.5, 2.0),
    "gravity": (0.8, 1.2), "gain": (0.7, 1.3), "flicker": (0.5, 1.0), "drift": (3, 10),
    "intruder": (1, 3), "jitter": (0.5, 1.0),
}  # fmt: skip
"""Values of each factor of variation that are tried: mild and strong, or below and above 1."""
DISTANCES = (1, 2, 3)
"""Multiples of the task's `goal_steps`."""
PERIODS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Model steps between plans, up to the horizon."""


@dataclass(frozen=True)
class Condition:
    """Episodes with one thing changed, and the settings and task with this change."""

    about: dict[str, Any]  # the change, as fields of the result
    config: EvaluateConfig
    task: Task
    manifest: Manifest


def far_goals(setup: Setup, episodes: int) -> list[Condition]:
    """Return conditions with goals farther ahead, for tasks whose goals are some steps ahead."""
    conditions, usual = [], setup.world.task.goal_steps
    for goal_steps in [times * usual for times in DISTANCES if usual]:
        config = replace(setup.config, full=False, protocol=f"ahead={goal_steps}")
        world = build(config, threads=1).world
        manifest = make_manifest(world, episodes, config.seed)
        conditions.append(Condition({"goal_steps": goal_steps}, config, world.task, manifest))
    return conditions


def replanning_periods(setup: Setup, manifest: Manifest) -> list[Condition]:
    """Return conditions in which the agent plans less often; none for a reactive agent."""
    conditions, task = [], setup.world.task
    for every in PERIODS:
        if every <= setup.planner.horizon and not setup.agent.reactive:
            words = filter(None, (setup.config.planner, f"replan_every={every}"))
            config = replace(setup.config, planner=",".join(words))
            conditions.append(Condition({"replan_every": every}, config, task, manifest))
    return conditions


def varied_factors(setup: Setup, episodes: int) -> list[Condition]:
    """Return conditions in which one factor of variation has another value than in training."""
    conditions, world, config = [], setup.world, setup.config
    for name in world.factors:
        for value in LEVELS[name]:
            variation = Variation({name: (value, value)})
            varied = World(world.task, world.image_size, variation=variation)
            manifest = make_manifest(varied, episodes, config.seed)
            about = {"factor": name, "value": value, "kind": FACTORS[name].kind}
            conditions.append(Condition(about, config, world.task, manifest))
    return conditions


def run_conditions(conditions: Sequence[Condition], device: str) -> list[Outcome]:
    """Run the agent under each condition; the number of processes does not affect the outcomes."""
    pieces = [(c.config, "agent", part) for c in conditions for part in split(c.manifest)]
    if device == "cpu":
        steps = [c.task.budget_steps for c in conditions for _ in split(c.manifest)]
        outcomes = iter(run_parallel(Pool(), run_shard, pieces, steps, "sweeps"))
    else:  # one process on the accelerator
        outcomes = iter([run_shard(*piece) for piece in pieces])
    return [join([next(outcomes) for _ in split(c.manifest)]) for c in conditions]


def summarise(
    conditions: Sequence[Condition],
    outcomes: Sequence[Outcome],
    usual: NDArray[np.bool_] | None = None,
) -> list[dict[str, Any]]:
    """Return the success under each condition, compared with the `usual` success (E,) if given."""
    return [
        condition.about
        | success(outcome.held)
        | ({} if usual is None else {"paired": asdict(paired(outcome.held, usual))})
        for condition, outcome in zip(conditions, outcomes, strict=True)
    ]


def quarters(world: World, manifest: Manifest, held: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return the success on each quarter of the episodes, from near to far goals.

    `remaining` is the median distance from start to goal by the task's own measure.
    """
    remaining = remaining_at_start(world, manifest)
    parts = np.array_split(np.argsort(remaining, kind="stable"), 4)
    return [
        {"remaining": float(np.median(remaining[part]))} | success(held[part])
        for part in parts
        if len(part)
    ]


def success(held: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the number of episodes, and the success rate with its interval."""
    return {"episodes": len(held), **asdict(rate_of(held))}
