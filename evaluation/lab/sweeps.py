"""Success as the episodes or the agent change, one thing at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs.factors import FACTORS
from mujepa.envs.variation import Variation
from mujepa.envs.world import World
from mujepa.evaluation.lab.subject import Subject
from mujepa.evaluation.loop import run_episodes, split
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.runner import find_far_task, run_parallel
from mujepa.evaluation.statistics import paired, success_rate
from mujepa.evaluation.summaries import remaining_at_start
from mujepa.runtime import console
from mujepa.runtime.parallel import Pool, tick

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mujepa.agent.checkpoint import ActorMode
    from mujepa.envs.task import Task
    from mujepa.evaluation.loop import Outcome
    from mujepa.evaluation.manifest import Manifest
    from mujepa.planners import PlannerConfig

LEVELS: dict[str, tuple[float, ...]] = {
    "colour": (0.5, 1.0), "light": (0.4, 2.0), "camera": (0.5, 1.0), "texture": (0.5, 1.0),
    "distractors": (3, 10), "mass": (0.5, 2.0), "friction": (0.5, 2.0), "damping": (0.5, 2.0),
    "gravity": (0.8, 1.2), "gain": (0.7, 1.3), "flicker": (0.5, 1.0), "drift": (3, 10),
    "intruder": (1, 3), "jitter": (0.5, 1.0),
}  # fmt: skip
"""Values of each factor of variation that an agent is tried with: mild and strong, or two sides."""
FARTHER = (1, 2, 3)
"""Goals so many times as many steps ahead, where they lie a number of steps ahead."""
PERIODS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Model steps between plans, as far as plans reach."""


@dataclass(frozen=True)
class Run:
    """Episodes under one condition.

    Attributes:
        about: what is changed, as the result says it.
        task: the task.
        manifest: the episodes.
        every: model steps for which the agent follows a plan, if not as it is used to.
    """

    about: dict[str, Any]
    task: Task
    manifest: Manifest
    every: int | None = None

    def told(self, usual: int) -> tuple[int | None, Manifest, int]:
        """Return what another process has to be told of it, plans being `usual`ly followed."""
        return getattr(self.task, "goal_steps", None), self.manifest, self.every or usual


def farther(world: World, steps: list[int], episodes: int, seed: int) -> list[Run]:
    """Return runs with goals so many environment steps ahead."""
    found = []
    for ahead in steps:
        budget = world.task.budget_steps * ahead // steps[0]
        far = replace(world.task, goal_steps=ahead, budget_steps=budget)  # pyright: ignore
        manifest = make_manifest(World(far, world.image_size), episodes, seed)
        found.append(Run({"goal_steps": ahead}, far, manifest))
    return found


def periods(task: Task, manifest: Manifest, horizon: int) -> list[Run]:
    """Return runs in which plans are followed for so many model steps before the next."""
    return [
        Run({"replan_every": every}, task, manifest, every) for every in PERIODS if every <= horizon
    ]


def factors(world: World, episodes: int, seed: int) -> list[Run]:
    """Return runs in worlds in which one factor has another value than in training."""
    found = []
    for name, value in conditions(world):
        vary = Variation({name: (value, value)})
        varied = World(world.task, world.image_size, variation=vary)
        about = {"factor": name, "value": value, "kind": FACTORS[name].kind}
        found.append(Run(about, world.task, make_manifest(varied, episodes, seed)))
    return found


def run_all(subject: Subject, runs: Sequence[Run]) -> list[Outcome]:
    """Have the agent live through all runs; on a CPU several at a time.

    What comes out does not depend on how many processes the machine has room for.
    """
    steps = [run.task.budget_steps * len(split(run.manifest)) for run in runs]
    config = subject.checkpoint.config
    if subject.agent().device.type != "cpu":
        with console.progress_bar(sum(steps), "sweeps", unit="step") as bar:
            return [live(subject, *run.told(config.replan_every), bar.update) for run in runs]
    told = subject.checkpoint.folder, subject.planner, subject.cost, subject.actor
    pieces = [(*told, *run.told(config.replan_every)) for run in runs]
    return run_parallel(Pool(), live_elsewhere, pieces, steps, "sweeps")


def live_elsewhere(
    folder: Path,
    planner: PlannerConfig,
    cost: str | None,
    actor: ActorMode | None,
    goal_steps: int | None,
    manifest: Manifest,
    every: int,
) -> Outcome:
    """Have the agent of a checkpoint live through a run; what a process of the pool does."""
    subject = Subject(load_checkpoint(folder, "cpu"), planner, cost, actor)
    return live(subject, goal_steps, manifest, every, tick)


def live(
    subject: Subject,
    goal_steps: int | None,
    manifest: Manifest,
    every: int,
    on_step: Callable[[], object],
) -> Outcome:
    """Have the agent live through episodes with goals so many steps ahead, if they have that."""
    checkpoint, policy = subject.checkpoint, AgentPolicy(subject.agent(every))
    task = find_far_task(checkpoint.task_name, goal_steps)
    return run_episodes(task, checkpoint.config.image_size, policy, manifest, on_step)


def summarise(
    runs: Sequence[Run], outcomes: Sequence[Outcome], usual: NDArray[np.bool_] | None = None
) -> list[dict[str, Any]]:
    """Return the success of each run, beside the same episodes as they `usual`ly are if given."""
    found = []
    for run, outcome in zip(runs, outcomes, strict=True):
        held = outcome.held
        rate = {"episodes": len(held), **asdict(success_rate(int(held.sum()), len(held)))}
        pair = {} if usual is None else {"paired": asdict(paired(held, usual))}
        found.append(run.about | rate | pair)
    return found


def conditions(world: World) -> list[tuple[str, float]]:
    """Return the factors of variation that change something in a world, with the values to try."""
    factors = world.factors
    return [(name, value) for name in factors for value in LEVELS[name]]


def quarters(world: World, manifest: Manifest, outcome: Outcome) -> list[dict[str, Any]]:
    """Return the success of each quarter of the episodes, from the nearest goals to the farthest.

    `remaining` is the median of what remains from start to goal by the task's own measure.
    """
    remaining = remaining_at_start(world, manifest)
    parts = np.array_split(np.argsort(remaining, kind="stable"), 4)
    return [
        {
            "remaining": float(np.median(remaining[part])),
            "episodes": len(part),
            **asdict(success_rate(int(outcome.held[part].sum()), len(part))),
        }
        for part in parts
        if len(part)
    ]
