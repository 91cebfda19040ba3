"""Figures with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.stats import binomtest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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


@dataclass(frozen=True)
class Paired:
    """Episodes that only one of two held, and McNemar's exact p-value (McNemar 1947)."""

    gained: int
    lost: int
    p_value: float


def paired(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> Paired:
    """Compare the success of one, (E,), with that of another on the same episodes."""
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return Paired(gained, lost, float(p))
