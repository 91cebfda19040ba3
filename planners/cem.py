"""Cross-entropy method: refit a Gaussian to the best candidates, repeatedly (Rubinstein 1999)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mujepa.planners.base import Bounds, Planner, Search, Slope
from mujepa.planners.noise import correlated_noise


class CEM(Planner):
    """Cross-entropy method with noise correlated over time.

    Args:
        elites: K, best candidates that the Gaussian is refitted to; all, if there are fewer.
        min_std: smallest standard deviation, in half-widths of the bounds.
        **settings: those of every planner.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, *, elites: int = 25, min_std: float = 0.05, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        if elites < 1:
            raise ValueError(f"elites must be at least 1, got {elites}")
        if min_std < 0:
            raise ValueError(f"min_std must not be negative, got {min_std}")
        self.elites = elites
        self.min_std = min_std

    def sample(
        self, search: Search, bounds: Bounds, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Draw N candidates from the Gaussian, with noise correlated over the horizon."""
        _, horizon, size = search.mean.shape
        noise = correlated_noise(generators, self.samples, horizon, size, self.correlation).to(
            search.mean
        )
        return search.mean[:, None] + search.std[:, None] * noise

    def update(
        self, search: Search, bounds: Bounds, actions: Tensor, costs: Tensor, slope: Slope
    ) -> Search:
        """Refit the Gaussian to the elites; a row without a finite cost stays as it is."""
        elite_costs, index = costs.topk(min(self.elites, costs.shape[1]), dim=1, largest=False)
        return self.refit(search, bounds, pick(actions, index), elite_costs.isfinite().to(actions))

    def refit(self, search: Search, bounds: Bounds, actions: Tensor, weights: Tensor) -> Search:
        """Fit the Gaussian to actions (B, K, H, A) of weights (B, K); no weight, no change."""
        weights = weights[:, :, None, None]
        total = weights.sum(dim=1)
        count = torch.where(total > 0, total, 1.0)
        mean = (weights * actions).sum(dim=1) / count
        variance = (weights * (actions - mean[:, None]).square()).sum(dim=1) / count
        floor = self.min_std * (bounds.high - bounds.low) / 2
        return Search(
            torch.where(total > 0, mean, search.mean),
            torch.where(total > 0, torch.maximum(variance.sqrt(), floor), search.std),
        )


def pick(actions: Tensor, index: Tensor) -> Tensor:
    """Return the sequences (B, K, H, A) of actions (B, N, H, A) that the index (B, K) names."""
    return actions.gather(1, index[:, :, None, None].expand(-1, -1, *actions.shape[2:]))
