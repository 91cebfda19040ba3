"""Model predictive path integral: candidates count by their cost (arXiv 1707.02342)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mujepa.planners.base import Bounds, Search, Slope
from mujepa.planners.cem import CEM


class MPPI(CEM):
    """Cross-entropy method with soft weights in place of elites.

    A candidate weighs exp(-(c - min c) / (t s)), where s is the standard deviation of the costs: a
    temperature t without units suits costs of any scale.

    Args:
        temperature: t; towards zero the best candidate alone counts.
        **settings: those of the cross-entropy method; `elites` is without effect.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, *, temperature: float = 0.2, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    def update(
        self, search: Search, bounds: Bounds, actions: Tensor, costs: Tensor, slope: Slope
    ) -> Search:
        """Refit the Gaussian to all candidates of finite cost, weighted."""
        finite = costs.isfinite()
        count = finite.sum(dim=1, keepdim=True).clamp(min=1)
        known = torch.where(finite, costs, 0.0)
        centred = torch.where(finite, known - known.sum(dim=1, keepdim=True) / count, 0.0)
        spread = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
        above = costs - costs.amin(dim=1, keepdim=True)
        scale = (self.temperature * spread).clamp(min=torch.finfo(costs.dtype).tiny)
        weights = torch.where(finite, (-above / scale).exp(), 0.0)
        return self.refit(search, bounds, actions, weights)
