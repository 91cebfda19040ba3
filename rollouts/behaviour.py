"""Behaviour policies: how the agent moves while its experience is collected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RedNoise:
    """First-order autoregressive noise; each episode draws its own strength and its own memory.

    From twitching to long swings, so that slow and fast states are both visited.

    Attributes:
        strength: range of the standard deviation, in half-widths of the action bounds.
        correlation: range of the correlation between neighbouring model steps.
    """

    strength: tuple[float, float] = (0.3, 1.5)
    correlation: tuple[float, float] = (0.0, 0.97)

    def actions(
        self,
        rng: np.random.Generator,
        steps: int,
        low: NDArray[np.float64],
        high: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """Return one episode's actions within the bounds, (steps, A)."""
        strength, correlation = rng.uniform(*self.strength), rng.uniform(*self.correlation)
        white = rng.standard_normal((steps, len(low)))
        noise = np.empty_like(white)
        noise[0] = white[0]
        for step in range(1, steps):
            noise[step] = correlation * noise[step - 1] + np.sqrt(1 - correlation**2) * white[step]
        centre, half = (high + low) / 2, (high - low) / 2
        return np.clip(centre + half * strength * noise, low, high).astype(np.float32)
