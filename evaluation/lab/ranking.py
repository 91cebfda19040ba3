"""Does the planner's cost know which action sequence is better? A bank of them, tried for real."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mujepa.evaluation.diagnostics import (
    candidate_costs,
    distance_correlation,
    make_ranking_benchmark,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mujepa.agent.mpc import Agent
    from mujepa.envs.world import Episode, World

BANK = 300
PROBLEMS = 32


def rank_bank(agent: Agent, world: World, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Try a bank of 300 action sequences in each of the first 32 episodes, as far as plans look.

    What comes of a sequence is how near it gets to the goal by `distance_metric`; its regret is
    how much farther from the goal that is than the best of the bank.

    Returns:
        `rank`, Spearman's correlation of the cost with what came of the sequences (median and
        quartiles over the problems); `solved`, the share of problems whose bank held a success;
        `regret` of the cheapest sequence and `regret_random` of one at random, medians in the unit
        of the distance_metric; `best_tenth`, how often the cheapest is among the best tenth.
    """
    horizon = agent.planner.horizon
    trials = make_ranking_benchmark(
        world, agent.observes, episodes[:PROBLEMS], horizon, candidates=BANK
    )
    costs = candidate_costs(agent.configurator, trials)
    nearest, chosen = trials.nearest, costs.argmin(axis=1)
    ranks = [distance_correlation(cost, near) for cost, near in zip(costs, nearest, strict=True)]
    best, reached = nearest.min(axis=1), nearest[np.arange(len(nearest)), chosen]
    place = (nearest < reached[:, None]).mean(axis=1)
    return {
        "problems": len(nearest),
        "bank": nearest.shape[1],
        "horizon": horizon,
        "rank": [float(value) for value in np.quantile(ranks, [0.25, 0.5, 0.75])],
        "solved": float(trials.solved.any(axis=1).mean()),
        "regret": float(np.median(reached - best)),
        "regret_random": float(np.median(nearest.mean(axis=1) - best)),
        "best_tenth": float((place < 0.1).mean()),
        "example": {"cost": costs[0].tolist(), "nearest": nearest[0].tolist()},
    }
