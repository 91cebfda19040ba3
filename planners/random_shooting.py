"""Random shooting: draw once, keep the best. The floor that other planners are measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mujepa.planners.base import Bounds, Planner, Search, Slope
from mujepa.planners.noise import checked_correlation, correlated_noise


class RandomShooting(Planner):
    """Candidates uniform in the bounds, correlated over time; nothing is refitted.

    Args:
        horizon: H, model steps to look ahead.
        samples: N, candidates per iteration.
        iterations: rounds; the best of all rounds is kept.
        correlation: of the underlying noise between neighbouring model steps, in [0, 1).
        chunk: most sequences given to the cost function at once.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        horizon: int = 6,
        samples: int = 256,
        iterations: int = 5,
        correlation: float = 0.5,
        chunk: int = 4096,
    ) -> None:
        super().__init__(horizon=horizon, samples=samples, iterations=iterations, chunk=chunk)
        self.correlation = checked_correlation(correlation)

    def sample(
        self, search: Search, bounds: Bounds, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Draw candidates whose every action is uniform in the bounds."""
        _, horizon, size = search.mean.shape
        noise = correlated_noise(generators, self.samples, horizon, size, self.correlation).to(
            search.mean
        )
        uniform = torch.special.ndtr(noise)
        return bounds.low + uniform * (bounds.high - bounds.low)

    def update(
        self, search: Search, bounds: Bounds, actions: Tensor, costs: Tensor, slope: Slope
    ) -> Search:
        """Move the mean to the best candidate of this round, where there is a finite one."""
        value, index = costs.min(dim=1)
        best = actions[torch.arange(len(actions), device=index.device), index]
        return Search(torch.where(value.isfinite()[:, None, None], best, search.mean), search.std)
