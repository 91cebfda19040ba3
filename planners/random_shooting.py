"""Random shooting: draw once, keep the best. The floor that other planners are measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mujepa.planners.base import Bounds, Planner, Search, Slope
from mujepa.planners.noise import correlated_noise


class RandomShooting(Planner):
    """Candidates uniform in the bounds, correlated over time; nothing is refitted."""

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
