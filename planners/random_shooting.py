"""Random shooting: draw candidates and keep the best, a lower baseline for the other planners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mujepa.planners.base import Bounds, Planner, SamplingState, best_of
from mujepa.runtime.settings import settings


@settings
class RandomShooting(Planner):
    """Candidates uniform in the bounds, correlated over time; nothing is refitted."""

    def sample(
        self, state: SamplingState, bounds: Bounds, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Draw candidates whose every action is uniform in the bounds."""
        uniform = torch.special.ndtr(self.noise(state.mean, generators, self.samples))
        return bounds.low + uniform * (bounds.high - bounds.low)

    def update(
        self, state: SamplingState, bounds: Bounds, actions: Tensor, costs: Tensor
    ) -> SamplingState:
        """Move the mean to the best candidate of this iteration."""
        return replace(state, mean=best_of(actions, costs, state.mean), elites=None)
