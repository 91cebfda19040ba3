"""Cross-entropy method: refit a Gaussian to the best candidates, repeatedly (Rubinstein 1999)."""

from __future__ import annotations

import torch
from torch import Tensor

from mujepa.planners.base import Bounds, Generators, Planner, SamplingState
from mujepa.runtime.settings import Count, NonNegative, settings


@settings
class CEM(Planner):
    """Cross-entropy method with noise correlated over time."""

    elites: Count = 8  # K, best candidates that the Gaussian is refitted to; at most all
    min_std: NonNegative = 0.05  # smallest standard deviation, in half-widths of the bounds

    def sample(self, state: SamplingState, bounds: Bounds, generators: Generators) -> Tensor:
        """Draw N candidates from the Gaussian."""
        noise = self.noise(state.mean, generators, self.samples)
        return state.mean[:, None] + state.std[:, None] * noise

    def update(
        self, state: SamplingState, bounds: Bounds, actions: Tensor, costs: Tensor
    ) -> SamplingState:
        """Refit the Gaussian to the elites; a row without a finite cost stays as it is."""
        elite_costs, index = costs.topk(min(self.elites, costs.shape[1]), dim=1, largest=False)
        return self.refit(state, bounds, pick(actions, index), elite_costs.isfinite().to(actions))

    def refit(
        self, state: SamplingState, bounds: Bounds, actions: Tensor, weights: Tensor
    ) -> SamplingState:
        """Fit the Gaussian to actions (B, K, H, A) with weights (B, K); all zero: no change."""
        weights = weights[:, :, None, None]
        total = weights.sum(dim=1)
        count = torch.where(total > 0, total, 1.0)
        mean = (weights * actions).sum(dim=1) / count
        variance = (weights * (actions - mean[:, None]).square()).sum(dim=1) / count
        floor = self.min_std * (bounds.high - bounds.low) / 2
        return SamplingState(
            torch.where(total > 0, mean, state.mean),
            torch.where(total > 0, torch.maximum(variance.sqrt(), floor), state.std),
        )


def pick(actions: Tensor, index: Tensor) -> Tensor:
    """Return the sequences (B, K, H, A) of actions (B, N, H, A) at the indices (B, K)."""
    return actions.gather(1, index[:, :, None, None].expand(-1, -1, *actions.shape[2:]))
