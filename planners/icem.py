"""Improved cross-entropy method: keep elites, draw fewer candidates (arXiv 2008.06389)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from mujepa.planners.base import Bounds, SamplingState
from mujepa.planners.cem import CEM, pick
from mujepa.runtime.settings import Share, settings


@settings
class ICEM(CEM):
    """Cross-entropy method that keeps elites between iterations and between decisions.

    The kept elites are candidates of the next iteration. Those of the last iteration, shifted, are
    candidates of the next decision's first. Later iterations draw fewer candidates.
    """

    keep: Share = 0.3  # share of the elites that is kept
    decay: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.25
    """Candidates of an iteration over those of the next; never fewer than twice the elites."""

    def population(self, iteration: int) -> int:
        """Return the number of candidates of an iteration; `samples` is that of the first."""
        fewer = int(self.samples / self.decay**iteration)
        return min(self.samples, max(fewer, 2 * self.elites))

    def update(
        self, state: SamplingState, bounds: Bounds, actions: Tensor, costs: Tensor
    ) -> SamplingState:
        """Refit the Gaussian to the elites, and keep the best of them."""
        count = min(round(self.keep * self.elites), costs.shape[1])
        kept = pick(actions, costs.topk(count, dim=1, largest=False).indices)
        return replace(super().update(state, bounds, actions, costs), elites=kept)
