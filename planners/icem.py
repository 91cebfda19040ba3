"""Improved cross-entropy method: keep what was good, search less (arXiv 2008.06389)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from mujepa.planners.base import Bounds, Search, Slope
from mujepa.planners.cem import CEM, pick


class ICEM(CEM):
    """Cross-entropy method that keeps elites, within a decision and into the next one.

    The elites of an iteration compete in the next; those of the last, shifted, in the next
    decision's first, so that a good sequence is not lost when the mean blurs it. Later iterations
    draw fewer candidates.

    Args:
        keep: share of the elites that is kept, in [0, 1].
        decay: candidates of an iteration over those of the next, at least 1; never fewer than
            twice the elites.
        **settings: those of the cross-entropy method; `samples` is the first iteration's.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, *, keep: float = 0.3, decay: float = 1.25, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        if not 0 <= keep <= 1:
            raise ValueError(f"keep must be in [0, 1], got {keep}")
        if not decay >= 1:
            raise ValueError(f"decay must be at least 1, got {decay}")
        self.keep = keep
        self.decay = decay

    def population(self, iteration: int) -> int:
        """Return how many candidates an iteration looks at."""
        fewer = int(self.samples / self.decay**iteration)
        return min(self.samples, max(fewer, 2 * self.elites))

    def update(
        self, search: Search, bounds: Bounds, actions: Tensor, costs: Tensor, slope: Slope
    ) -> Search:
        """Refit the Gaussian to the elites, and keep the best of them."""
        count = min(round(self.keep * self.elites), costs.shape[1])
        kept = pick(actions, costs.topk(count, dim=1, largest=False).indices)
        return replace(super().update(search, bounds, actions, costs, slope), elites=kept)
