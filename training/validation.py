"""Diagnostics of a training: open-loop error, and how well costs rank states and candidates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mujepa.agent.checkpoint import Networks
from mujepa.agent.configurator import Configurator
from mujepa.agent.jepa import JEPA
from mujepa.evaluation.diagnostics import (
    RankingBenchmark,
    candidate_ranking,
    distance_correlation,
    open_loop_error,
)
from mujepa.training.data import TrainingData

COSTS = (
    *("critic", "goal", "critic + 5*goal"),
    *("critic.min", "goal.min", "critic.min + 5*goal.min"),
)
"""What `--cost auto` chooses from: critic, latent distance and their mixture; mean or nearest."""
CLEARLY = 0.15
"""By how much another cost has to rank better than the critic."""
PAIRS = 2048
"""Pairs of held-out frames over which distances are correlated."""


def dynamics_error(data: TrainingData, jepa: JEPA, embeddings: Tensor) -> dict[str, float]:
    """Return the open-loop error, over that of a world that stands still, in embeddings (B, T, D).

    It is that after 1, 4 and 8 steps or as many as there are; `score` is 1 minus the last one.
    """
    horizon = min(8, embeddings.shape[1] - jepa.history)
    error, frozen = open_loop_error(jepa, embeddings, data.validation.actions, horizon)
    steps = [it for it in sorted({1, 4, horizon}) if it <= horizon]
    shares = {step: error[step - 1] / max(frozen[step - 1], 1e-12) for step in steps}
    by_step = {f"open_loop_{step}": share for step, share in shares.items()}
    return by_step | {"score": 1 - shares[horizon]}


def ranking(
    data: TrainingData, networks: Networks, cost: str, embeddings: Tensor
) -> dict[str, float]:
    """Correlate a cost with the simulator, over pairs of states and over candidates.

    Without a simulator, correlate it with the steps between two frames of a held-out episode.
    """
    random, past = np.random.default_rng(0), networks.critic.config.history - 1
    (batch, time), states = embeddings.shape[:2], data.validation.states
    count = time - past
    if data.world is None:
        row = random.integers(batch, size=PAIRS)
        moments = np.sort(random.integers(count, size=(2, PAIRS)), axis=0)
        estimate = _distance(networks, cost, embeddings, row * count + moments)
        return {"step_correlation": distance_correlation(estimate, moments[1] - moments[0])}
    found = {}
    if states is not None:
        ends = random.integers(batch * count, size=(2, PAIRS))
        flat = states[:, past:].reshape(batch * count, -1)
        true = data.world.separation(flat[ends[0]], flat[ends[1]])
        estimate = _distance(networks, cost, embeddings, ends)
        found["distance_correlation"] = distance_correlation(estimate, true)
    return found | {"candidate_ranking": rank_cost(data.ranking_benchmark, networks, cost)}


def _distance(networks: Networks, cost: str, embeddings: Tensor, ends: np.ndarray) -> np.ndarray:
    """Return the distance from frames to others by the critic, or in embedding space, (2, N)."""
    time, past = embeddings.shape[1], networks.critic.config.history - 1
    now, before = embeddings[:, past:].flatten(0, 1), embeddings[:, : time - past].flatten(0, 1)
    here, there = (torch.stack([before[end], now[end]], dim=1) for end in ends)
    if any(name.startswith("critic.") for name in networks.cost(cost).weights):
        return networks.critic(here, there).cpu().numpy()
    return (here[:, 1] - there[:, 1]).square().sum(dim=-1).cpu().numpy()


def rank_cost(benchmark: RankingBenchmark, networks: Networks, cost: str) -> float:
    """Return how well a cost ranks the candidates of a benchmark, from -1 to 1."""
    configurator = Configurator(networks.jepa, networks.critic, networks.cost(cost))
    return candidate_ranking(configurator, benchmark)


def choose_cost(ranks: Mapping[str, float]) -> str:
    """Return the cost to plan with: the critic, unless another one ranks clearly better.

    Ranks within the horizon do not tell that the critic sees beyond it: docs/ablations.md.
    """
    best = max(ranks, key=lambda cost: ranks[cost])
    return best if ranks[best] > ranks["critic"] + CLEARLY else "critic"
