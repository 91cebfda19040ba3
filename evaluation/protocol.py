"""The protocol of published tables, so that figures can be set beside theirs."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from mujepa.envs.task import reached_later
from mujepa.envs.world import Episode
from mujepa.evaluation.manifest import STREAM, Manifest, manifest_of
from mujepa.evaluation.statistics import success_rate

if TYPE_CHECKING:
    from mujepa.envs.task import Task
    from mujepa.envs.world import World

GOAL_STEPS, BUDGET_STEPS = 25, 50
LEAD_STEPS = 50
"""Most environment steps that a trajectory goes on before the start is taken from it."""


def lewm_task(task: Task) -> Task:
    """Return the task with the budget of LeWorldModel's evaluation (arXiv 2603.19312)."""
    return replace(task, budget_steps=BUDGET_STEPS, hold_steps=min(task.hold_steps, BUDGET_STEPS))


def lewm_manifest(world: World, episodes: int, seed: int) -> Manifest:
    """Draw episodes as LeWorldModel's evaluation does, on trajectories that training never saw.

    Start and goal are 25 environment steps apart on a trajectory of the behaviour policy, with the
    speeds that they have there. Starts that are already solved stay in; `solved_share` counts them.
    """
    drawn = []
    for index in range(episodes):
        rng = np.random.default_rng([seed, STREAM, index, GOAL_STEPS])
        lead = int(rng.integers(LEAD_STEPS + 1))
        ends = reached_later(world.task, world, rng, GOAL_STEPS, lead, at_rest=False)
        drawn.append(Episode(*ends, world.draw(rng)))
    return manifest_of(drawn, seed)


def solved_share(world: World, manifest: Manifest) -> dict[str, float]:
    """Return the share of episodes whose start is within the tolerance of the goal."""
    ends = (np.stack([getattr(e, end) for e in manifest.episodes]) for end in ("start", "goal"))
    away = world.task.distance(*map(world.achieved, ends))
    return asdict(success_rate(int((away <= world.task.tolerance).sum()), len(away)))
