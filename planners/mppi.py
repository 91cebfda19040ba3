"""Model predictive path integral: weight candidates by their cost (arXiv 1707.02342)."""

from __future__ import annotations

import torch
from torch import Tensor

from mujepa.planners.base import Bounds, SamplingState
from mujepa.planners.cem import CEM
from mujepa.runtime.settings import Positive, settings


@settings
class MPPI(CEM):
    """Cross-entropy method with soft weights instead of elites.

    The weight of a candidate of cost c is exp(-(c - min c) / (t s)), where s is the standard
    deviation of the costs, so that the temperature t is independent of the scale of the costs.
    """

    temperature: Positive = 0.2  # t; towards zero only the best candidate counts

    def update(
        self, state: SamplingState, bounds: Bounds, actions: Tensor, costs: Tensor
    ) -> SamplingState:
        """Refit the Gaussian to all candidates of finite cost, weighted."""
        finite = costs.isfinite()
        count = finite.sum(dim=1, keepdim=True).clamp(min=1)
        known = torch.where(finite, costs, 0.0)
        centred = torch.where(finite, known - known.sum(dim=1, keepdim=True) / count, 0.0)
        spread = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
        above = costs - costs.amin(dim=1, keepdim=True)
        scale = (self.temperature * spread).clamp(min=torch.finfo(costs.dtype).tiny)
        weights = torch.where(finite, (-above / scale).exp(), 0.0)
        return self.refit(state, bounds, actions, weights)
