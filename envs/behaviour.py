"""Noise of the behaviour policies that collect experience."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mujepa.envs.types import Array, Rng


@dataclass(frozen=True)
class RedNoise:
    """First-order autoregressive noise; each episode draws its own strength and correlation."""

    strength: tuple[float, float] = (0.3, 1.5)  # range of the standard deviation
    correlation: tuple[float, float] = (0.0, 0.97)  # range, between neighbouring model steps

    def draw(self, rng: Rng, steps: int, size: int) -> Array:
        """Return one episode's noise, (steps, size), in half-widths of the action bounds."""
        strength, correlation = rng.uniform(*self.strength), rng.uniform(*self.correlation)
        white = rng.standard_normal((steps, size))
        noise = np.empty_like(white)
        noise[0] = white[0]
        for step in range(1, steps):
            noise[step] = correlation * noise[step - 1] + np.sqrt(1 - correlation**2) * white[step]
        return strength * noise
