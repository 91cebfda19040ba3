"""Figures with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True)
class Rate:
    """A share of successes and its Wilson 95 % interval."""

    rate: float
    low: float
    high: float


def success_rate(successes: int, episodes: int) -> Rate:
    """Return the share of successes with its Wilson score interval at 95 % (Wilson 1927)."""
    interval = binomtest(successes, episodes).proportion_ci(confidence_level=0.95, method="wilson")
    return Rate(successes / episodes, float(interval.low), float(interval.high))
