"""Random shooting: draw candidates and keep the best, a lower baseline for the other planners."""

from __future__ import annotations

import torch
from torch import Tensor

from mujepa.planners.base import Bounds, Generators, Planner, SamplingState
from mujepa.runtime.settings import settings


@settings
class RandomShooting(Planner):
    """Candidates uniform in the bounds, correlated over time; nothing is refitted."""

    def sample(self, state: SamplingState, bounds: Bounds, generators: Generators) -> Tensor:
        """Draw candidates whose every action is uniform in the bounds."""
        uniform = torch.special.ndtr(self.noise(state.mean, generators, self.samples))
        return bounds.low + uniform * (bounds.high - bounds.low)
