"""What predicts planning success better than the loss: rank correlations, open-loop error.

Prediction loss hardly correlates with success across seeds. What matters to a planner is whether
the cost ranks states and candidates as the simulator does.

Letters: B batch, N candidates, H horizon, T time, D embedding, A action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from mujepa.agent.configurator import Configurator
from mujepa.agent.encoder import Observes
from mujepa.agent.jepa import JEPA
from mujepa.agent.memory import Memory
from mujepa.envs.world import Episode, World

PYTHON_STEPPED = 32
"""Largest number of problems, and of candidates, where the world is stepped in Python."""


@dataclass(frozen=True)
class RankingBenchmark:
    """Action sequences with their outcome in the simulator, for B start-goal pairs."""

    starts: Tensor  # what the encoder reads there, (B, ...)
    goals: Tensor  # the same, (B, ...)
    actions: Tensor  # (B, N, H, A), in [-1, 1]
    nearest: NDArray[np.float64]  # smallest distance to the goal by `distance_metric`, (B, N)
    solved: NDArray[np.bool_]  # whether one of the steps is within the tolerance, (B, N)


def effective_rank(embeddings: Tensor) -> float:
    """Return exp of the entropy of the normalised singular values of (N, D).

    D if the embeddings are isotropic, 1 if they collapsed to a line (Roy and Vetterli 2007).
    """
    values = torch.linalg.svdvals(embeddings - embeddings.mean(dim=0))
    share = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(torch.special.entr(share).sum()))


def every_step(embeddings: Tensor, actions: Tensor, history: int) -> tuple[Memory, Tensor, Tensor]:
    """Return all steps that have K = `history` embeddings, the present one included.

    Of embeddings (B, T, D) and actions (B, T - 1, A) in [-1, 1] these are B * (T - K) memories, the
    actions taken there, and the next embeddings.
    """
    now = np.arange(history - 1, embeddings.shape[1] - 1)
    past = now[:, None] + np.arange(1 - history, 1)
    memory = Memory(embeddings[:, past].flatten(0, 1), actions[:, past[:, :-1]].flatten(0, 1))
    return memory, actions[:, now].flatten(0, 1), embeddings[:, now + 1].flatten(0, 1)


def open_loop_error(
    jepa: JEPA, embeddings: Tensor, actions: Tensor, horizon: int, taken: Tensor | None = None
) -> tuple[list[float], list[float]]:
    """Compare predictions with embeddings (B, T, D), from every possible start of every episode.

    Predictions are for `taken`, by default the `actions` (B, T - 1, A). Returns the mean squared
    error of the prediction by step, and that of the last embedding repeated; H each.
    """
    history = jepa.history
    starts = range(history - 1, embeddings.shape[1] - horizon)
    past = torch.cat([embeddings[:, s - history + 1 : s + 1] for s in starts])
    past_actions = torch.cat([actions[:, s - history + 1 : s] for s in starts])
    future = torch.cat([embeddings[:, s + 1 : s + 1 + horizon] for s in starts])
    taken = actions if taken is None else taken
    chosen = torch.cat([taken[:, s : s + horizon] for s in starts])
    predicted = jepa.unroll(Memory(past, past_actions), chosen)
    errors = ((one - future).square().mean(dim=(0, 2)) for one in (predicted, past[:, -1:]))
    model, frozen = (error.tolist() for error in errors)
    return model, frozen


def distance_correlation(estimated: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation; 0 where one of them is constant."""
    if np.ptp(estimated) == 0 or np.ptp(true) == 0:
        return 0.0
    return float(np.asarray(spearmanr(estimated, true))[0])


def make_ranking_benchmark(
    world: World,
    observes: Observes,
    episodes: Sequence[Episode],
    horizon: int,
    seed: int = 0,
    candidates: int = 64,
) -> RankingBenchmark:
    """Run N random action sequences of H model steps from each of B starts at rest."""
    rng = np.random.default_rng(seed)
    if world.task.python_stepped:  # seconds instead of minutes
        episodes, candidates = episodes[:PYTHON_STEPPED], PYTHON_STEPPED
    batch, size = len(episodes), len(world.action_low)
    mean = rng.uniform(-1, 1, (batch, candidates, 1, size))
    noise = rng.normal(0, 0.3, (batch, candidates, horizon, size))
    actions = np.clip(mean + noise, -1, 1).astype(np.float32)
    variants = world.variants(episode.draw for episode in episodes)
    starts = np.stack([episode.start for episode in episodes])
    goals = np.stack([episode.goal for episode in episodes])
    nearest, solved = [], []
    for row in range(batch):  # one by one: all physics steps together may not fit into memory
        states, achieved = world.rollout(
            np.tile(starts[row], (candidates, 1)),
            world.from_unit(actions[row]),
            world.task.frame_skip,
            variants and [variants[row]] * candidates,
        )
        there = np.tile(goals[row], (candidates * horizon, 1))
        away = world.separation(states.reshape(-1, world.state_size), there)
        nearest.append(away.reshape(candidates, horizon).min(axis=1))
        distance = world.task.distance(achieved, world.achieved(goals[row, None])[0])
        solved.append((distance <= world.task.tolerance).any(axis=1))
    return RankingBenchmark(
        torch.from_numpy(world.observe(starts, observes, variants)),
        torch.from_numpy(world.observe_goals(goals, observes, variants)),
        torch.from_numpy(actions),
        np.stack(nearest),
        np.stack(solved),
    )


def candidate_ranking(configurator: Configurator, benchmark: RankingBenchmark) -> float:
    """Return Spearman's correlation of the planner's cost with the outcome, averaged over pairs."""
    costs = candidate_costs(configurator, benchmark)
    return float(np.mean(list(map(distance_correlation, costs, benchmark.nearest))))


@torch.no_grad()
def candidate_costs(configurator: Configurator, benchmark: RankingBenchmark) -> NDArray[np.float32]:
    """Return the planner's cost of the action sequences, (B, N)."""
    jepa = configurator.jepa
    device = next(jepa.parameters()).device
    embeddings = jepa.encode(benchmark.starts.to(device))
    memory = Memory.at_rest(embeddings, jepa.history, jepa.action_size)
    goal = configurator.goal(benchmark.goals.to(device))
    return configurator.cost_fn(memory, goal)(benchmark.actions.to(device)).cpu().numpy()
