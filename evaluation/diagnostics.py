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
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.configurator import Configurator
    from mujepa.agent.encoder import Observes
    from mujepa.agent.jepa import JEPA
    from mujepa.envs.world import Episode, World

LOOPED_PROBLEMS, LOOPED_CANDIDATES = 32, 32
"""Planning problems, and candidates of each, where the world is stepped in a Python loop."""


@dataclass(frozen=True)
class ValidationSet:
    """Held-out episodes of equal length, small enough to stay in memory.

    Attributes:
        observations: what the encoder reads, (B, T, ...).
        actions: (B, T - 1, A), in [-1, 1].
        states: (B, T, S) simulator states.
        achieved: (B, T, G) achieved goals.
    """

    observations: Tensor
    actions: Tensor
    states: NDArray[np.float64]
    achieved: NDArray[np.float64]


@dataclass(frozen=True)
class RankingBenchmark:
    """Action sequences that were tried in the simulator: what a cost is to rank.

    Attributes:
        starts: what the encoder reads where B problems begin, (B, ...).
        goals: and of what is wanted in them, (B, ...).
        actions: (B, N, H, A), in [-1, 1].
        nearest: how near each sequence comes to the goal, by the task's distance_metric, (B, N).
        solved: whether it is within the task's tolerance after one of its steps, (B, N).
    """

    starts: Tensor
    goals: Tensor
    actions: Tensor
    nearest: NDArray[np.float64]
    solved: NDArray[np.bool_]


def effective_rank(embeddings: Tensor) -> float:
    """Return exp of the entropy of the normalised singular values of (N, D).

    D if the embeddings are isotropic, 1 if they collapsed to a line (Roy and Vetterli 2007).
    """
    values = torch.linalg.svdvals(embeddings - embeddings.mean(dim=0))
    share = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(torch.special.entr(share).sum()))


def every_step(embeddings: Tensor, actions: Tensor, history: int) -> tuple[Memory, Tensor, Tensor]:
    """Return all steps of episodes that have a past.

    Args:
        embeddings: (B, T, D).
        actions: (B, T - 1, A), in [-1, 1].
        history: K.

    Returns:
        B * (T - K) memories, the actions taken there, and the embeddings that follow.
    """
    now = np.arange(history - 1, embeddings.shape[1] - 1)
    past = now[:, None] + np.arange(1 - history, 1)
    memory = Memory(embeddings[:, past].flatten(0, 1), actions[:, past[:, :-1]].flatten(0, 1))
    return memory, actions[:, now].flatten(0, 1), embeddings[:, now + 1].flatten(0, 1)


def open_loop_error(
    jepa: JEPA, embeddings: Tensor, actions: Tensor, horizon: int, taken: Tensor | None = None
) -> tuple[list[float], list[float]]:
    """Compare imagined embeddings with real ones, from every possible start of every episode.

    Args:
        jepa: the world model.
        embeddings: (B, T, D).
        actions: (B, T - 1, A), in [-1, 1].
        horizon: H.
        taken: actions to imagine the future with, if not those that were taken.

    Returns:
        Mean squared error of the prediction by step, and that of a frozen world, in which nothing
        ever moves; H each.
    """
    history = jepa.history
    starts = range(history - 1, embeddings.shape[1] - horizon)
    past = torch.cat([embeddings[:, s - history + 1 : s + 1] for s in starts])
    past_actions = torch.cat([actions[:, s - history + 1 : s] for s in starts])
    future = torch.cat([embeddings[:, s + 1 : s + 1 + horizon] for s in starts])
    taken = actions if taken is None else taken
    imagined = jepa.unroll(
        Memory(past, past_actions), torch.cat([taken[:, s : s + horizon] for s in starts])
    )
    frozen = past[:, -1:].expand_as(future)
    return _by_step(imagined, future), _by_step(frozen, future)


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
    """Try random action sequences in each of B planning problems that the task draws.

    Args:
        world: the simulator.
        observes: what the encoder reads.
        episodes: B starts, at rest, and goals.
        horizon: H, model steps.
        seed: of the candidates.
        candidates: N.
    """
    rng = np.random.default_rng(seed)
    if world.task.python_stepped:  # seconds instead of minutes
        episodes, candidates = episodes[:LOOPED_PROBLEMS], LOOPED_CANDIDATES
    batch, size = len(episodes), len(world.action_low)
    held = rng.uniform(-1, 1, (batch, candidates, 1, size)) + rng.normal(
        0, 0.3, (batch, candidates, horizon, size)
    )
    actions = np.clip(held, -1, 1).astype(np.float32)
    variants = world.variants(episode.draw for episode in episodes)
    starts = np.stack([episode.start for episode in episodes])
    goals = np.stack([episode.goal for episode in episodes])
    wanted = world.achieved(goals)
    nearest, solved = np.empty((batch, candidates)), np.empty((batch, candidates), bool)
    for row in range(batch):  # at once they would fill the memory, where physics steps are many
        reached, achieved = world.rollout(
            np.tile(starts[row], (candidates, 1)),
            world.from_unit(actions[row]),
            world.task.frame_skip,
            variants and [variants[row]] * candidates,
        )
        there = np.tile(goals[row], (candidates * horizon, 1))
        away = world.separation(reached.reshape(-1, world.state_size), there)
        nearest[row] = away.reshape(candidates, horizon).min(axis=1)
        distance = world.task.distance(achieved, wanted[row])
        solved[row] = (distance <= world.task.tolerance).any(axis=1)
    return RankingBenchmark(
        torch.from_numpy(world.observe(starts, observes, variants)),
        torch.from_numpy(world.observe_goals(goals, observes, variants)),
        torch.from_numpy(actions),
        nearest,
        solved,
    )


def candidate_ranking(configurator: Configurator, trials: RankingBenchmark) -> float:
    """Rank action sequences by the planner's cost and by what came of them, and correlate.

    Returns:
        The mean over the problems of Spearman's correlation.
    """
    pairs = zip(candidate_costs(configurator, trials), trials.nearest, strict=True)
    return float(np.mean([distance_correlation(one, near) for one, near in pairs]))


@torch.no_grad()
def candidate_costs(configurator: Configurator, trials: RankingBenchmark) -> NDArray[np.float32]:
    """Return the planner's cost of the action sequences, (B, N)."""
    jepa = configurator.jepa
    device = next(jepa.parameters()).device
    seen = jepa.encode(trials.starts.to(device))
    memory = Memory.at_rest(seen, jepa.history, jepa.action_size)
    goal = configurator.goal(trials.goals.to(device))
    return configurator.cost_fn(memory, goal)(trials.actions.to(device)).cpu().numpy()


def _by_step(predicted: Tensor, real: Tensor) -> list[float]:
    return (predicted - real).square().mean(dim=(0, 2)).tolist()
