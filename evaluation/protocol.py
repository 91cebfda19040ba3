"""The evaluation protocol of published tables, for comparable figures."""

from __future__ import annotations

from dataclasses import replace

from mujepa.envs.task import Task, rollout_ends
from mujepa.envs.world import Episode, World
from mujepa.evaluation.manifest import Manifest, manifest_of
from mujepa.evaluation.statistics import Rate, rate_of
from mujepa.runtime.seeds import Stream, stream

GOAL_STEPS, BUDGET_STEPS = 25, 50
LEAD_STEPS = 50
"""Largest number of environment steps of a trajectory before the start is taken from it."""


def lewm_task(task: Task) -> Task:
    """Return the task with the budget of LeWorldModel's evaluation (arXiv 2603.19312)."""
    return replace(task, budget_steps=BUDGET_STEPS, hold_steps=min(task.hold_steps, BUDGET_STEPS))


def lewm_manifest(world: World, episodes: int, seed: int) -> Manifest:
    """Draw episodes as LeWorldModel's evaluation does, on trajectories unseen in training.

    Start and goal are 25 environment steps apart on a trajectory of the behaviour policy, and keep
    their velocities. Starts that are already solved are kept; `solved_share` counts them.
    """
    drawn = []
    for index in range(episodes):
        rng = stream(seed, Stream.EVALUATION, index, GOAL_STEPS)
        lead = int(rng.integers(LEAD_STEPS + 1))
        ends = rollout_ends(world.task, world, rng, GOAL_STEPS, lead, at_rest=False)
        drawn.append(Episode(*ends, world.draw(rng)))
    return manifest_of(drawn, seed)


def solved_share(world: World, manifest: Manifest) -> Rate:
    """Return the share of episodes whose start is within the tolerance of the goal."""
    starts, goals = (world.achieved(states) for states in manifest.ends)
    return rate_of(world.task.distance(starts, goals) <= world.task.tolerance)
