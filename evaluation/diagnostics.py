"""What predicts planning success better than the loss: rank correlations, open-loop error.

Prediction loss hardly correlates with success across seeds; whether the cost ranks states and
candidates as the simulator does is what a planner lives on.

Letters: B batch, N candidates, H horizon, T time, D embedding, A action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import spearmanr

from mujepa.agent.memory import Memory

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.configurator import Configurator
    from mujepa.agent.jepa import JEPA
    from mujepa.envs.world import Variants, World

LOOPED_PROBLEMS, LOOPED_CANDIDATES = 8, 16
"""Planning problems, and candidates of each, where the world is stepped in a Python loop."""


@dataclass(frozen=True)
class ValidationSet:
    """Held-out episodes of equal length, small enough to stay in memory.

    Attributes:
        observations: what the encoder reads, (B, T, ...).
        actions: (B, T - 1, A), in [-1, 1].
        states: (B, T, S) simulator states.
        achieved: (B, T, G) achieved goals.
        variants: the worlds of the episodes, (B), where they vary.
    """

    observations: Tensor
    actions: Tensor
    states: NDArray[np.float64]
    achieved: NDArray[np.float64]
    variants: Variants = None


def effective_rank(embeddings: Tensor) -> float:
    """Return exp of the entropy of the normalised singular values of (N, D).

    D if the embeddings are isotropic, 1 if they collapsed to a line (Roy and Vetterli 2007).
    """
    values = torch.linalg.svdvals(embeddings - embeddings.mean(dim=0))
    share = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(torch.special.entr(share).sum()))


def open_loop_error(
    jepa: JEPA, embeddings: Tensor, actions: Tensor, horizon: int
) -> tuple[list[float], list[float]]:
    """Compare imagined embeddings with real ones, from every possible start of every episode.

    Args:
        jepa: the world model.
        embeddings: (B, T, D).
        actions: (B, T - 1, A), in [-1, 1].
        horizon: H.

    Returns:
        Mean squared error of the prediction by step, and that of a frozen world, in which nothing
        ever moves; H each.
    """
    history = jepa.history
    starts = range(history - 1, embeddings.shape[1] - horizon)
    past = torch.cat([embeddings[:, s - history + 1 : s + 1] for s in starts])
    past_actions = torch.cat([actions[:, s - history + 1 : s] for s in starts])
    future = torch.cat([embeddings[:, s + 1 : s + 1 + horizon] for s in starts])
    imagined = jepa.unroll(
        Memory(past, past_actions), torch.cat([actions[:, s : s + horizon] for s in starts])
    )
    frozen = past[:, -1:].expand_as(future)
    return _by_step(imagined, future), _by_step(frozen, future)


def distance_correlation(estimated: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation; 0 where one of them is constant."""
    if np.ptp(estimated) == 0 or np.ptp(true) == 0:
        return 0.0
    return float(np.asarray(spearmanr(estimated, true))[0])


def candidate_ranking(
    configurator: Configurator,
    world: World,
    validation: ValidationSet,
    embeddings: Tensor,
    horizon: int,
    seed: int,
) -> float:
    """Rank random action sequences by the planner's cost and by the simulator, and correlate.

    In each of B held-out episodes the state of one step and the final frame of *another* episode
    make a planning problem; 64 candidates are judged by the cost and by the task's yardstick over
    the horizon.

    Returns:
        The mean over the problems of Spearman's correlation.
    """
    rng = np.random.default_rng(seed)
    batch, candidates, history = len(embeddings), 64, configurator.jepa.history
    if world.task.looped:  # seconds instead of minutes
        batch, candidates = min(batch, LOOPED_PROBLEMS), LOOPED_CANDIDATES
    now = rng.integers(history - 1, embeddings.shape[1], size=batch)
    rows = np.arange(batch)
    past = now[:, None] + np.arange(1 - history, 1)
    memory = Memory(
        embeddings[rows[:, None], past], validation.actions[rows[:, None], past[:, :-1]]
    )
    goals = np.roll(rows, 1)
    size = validation.actions.shape[-1]
    held = rng.uniform(-1, 1, (batch, candidates, 1, size)) + rng.normal(
        0, 0.3, (batch, candidates, horizon, size)
    )
    actions = np.clip(held, -1, 1).astype(np.float32)
    goal = configurator.goal(validation.observations[goals, -1])
    cost = (
        configurator.cost_fn(memory, goal)(torch.from_numpy(actions).to(embeddings.device))
        .cpu()
        .numpy()
    )
    starts = np.repeat(validation.states[rows, now], candidates, axis=0)
    worlds = validation.variants and [
        variant for variant in validation.variants[:batch] for _ in range(candidates)
    ]
    reached, _ = world.rollout(
        starts,
        world.from_unit(actions.reshape(-1, horizon, size)),
        world.task.frame_skip,
        worlds,
    )
    wanted = np.repeat(validation.states[goals, -1], candidates, axis=0)[:, None]
    wanted = np.broadcast_to(wanted, reached.shape).reshape(-1, world.state_size)
    true = world.separation(reached.reshape(-1, world.state_size), wanted)
    true = true.reshape(batch, candidates, horizon).mean(axis=2)
    return float(np.mean([distance_correlation(c, t) for c, t in zip(cost, true, strict=True)]))


def _by_step(predicted: Tensor, real: Tensor) -> list[float]:
    return (predicted - real).square().mean(dim=(0, 2)).tolist()
