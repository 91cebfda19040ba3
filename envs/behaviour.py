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

    def draw(self, rng: np.random.Generator, steps: int, size: int) -> NDArray[np.float64]:
        """Return one episode's noise, (steps, size), in half-widths of the action bounds."""
        strength, correlation = rng.uniform(*self.strength), rng.uniform(*self.correlation)
        white = rng.standard_normal((steps, size))
        noise = np.empty_like(white)
        noise[0] = white[0]
        for step in range(1, steps):
            noise[step] = correlation * noise[step - 1] + np.sqrt(1 - correlation**2) * white[step]
        return strength * noise
