"""Success as the episodes or the agent change, one thing at a time."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mujepa.envs.factors import FACTORS
from mujepa.envs.variation import Variation, working_factors
from mujepa.envs.world import World
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.statistics import paired, success_rate
from mujepa.evaluation.summaries import remaining_at_start

if TYPE_CHECKING:
    from collections.abc import Callable

    from mujepa.envs.task import Task
    from mujepa.evaluation.loop import Outcome
    from mujepa.evaluation.manifest import Manifest
    from mujepa.lab.subject import Subject

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


class Sweeps:
    """Runs an agent under changed conditions.

    Args:
        subject: the agent.
        episodes: how many.
        seed: of the episodes.
        on_step: called after each environment step of each batch.
    """

    def __init__(
        self, subject: Subject, episodes: int, seed: int, on_step: Callable[[], object]
    ) -> None:
        self.subject = subject
        self.episodes = episodes
        self.seed = seed
        self._on_step = on_step

    def farther(self, task: Task, steps: list[int]) -> list[dict[str, Any]]:
        """Return the success with goals so many environment steps ahead."""
        found = []
        for ahead in steps:
            budget = task.budget_steps * ahead // steps[0]
            far = replace(task, goal_steps=ahead, budget_steps=budget)  # pyright: ignore
            manifest = self._manifest(World(far, self.subject.checkpoint.config.image_size))
            found.append({"goal_steps": ahead, **_rate(self._run(far, manifest))})
        return found

    def periods(self, task: Task, manifest: Manifest, periods: list[int]) -> list[dict[str, Any]]:
        """Return the success when plans are followed for so many model steps before the next."""
        first = manifest.first(self.episodes)
        return [
            {"replan_every": every, **_rate(self._run(task, first, every))} for every in periods
        ]

    def factors(self, world: World, plain: Outcome) -> list[dict[str, Any]]:
        """Return the success in worlds in which one factor has another value than in training.

        Each is paired with the same episodes in the task's own world, `plain`.
        """
        found = []
        usual = plain.held[: self.episodes]
        for name, value in conditions(world):
            vary = Variation({name: (value, value)})
            varied = World(world.task, world.image_size, variation=vary)
            manifest = self._manifest(varied).first(len(usual))
            outcome = self._run(world.task, manifest)
            about = {"factor": name, "value": value, "kind": FACTORS[name].kind}
            found.append(about | _rate(outcome) | {"paired": asdict(paired(outcome.held, usual))})
        return found

    def _manifest(self, world: World) -> Manifest:
        return make_manifest(world, self.episodes, self.seed)

    def _run(self, task: Task, manifest: Manifest, every: int | None = None) -> Outcome:
        size = self.subject.checkpoint.config.image_size
        policy = AgentPolicy(self.subject.agent(every))
        return run_episodes(task, size, policy, manifest, self._on_step)


def conditions(world: World) -> list[tuple[str, float]]:
    """Return the factors of variation that change something in a world, with the values to try."""
    factors = working_factors(world.task, world.model)
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


def _rate(outcome: Outcome) -> dict[str, Any]:
    held = outcome.held
    return {"episodes": len(held), **asdict(success_rate(int(held.sum()), len(held)))}
