"""Figures with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest, trim_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RESAMPLES = 10_000
"""Draws of a bootstrap; their source of randomness is fixed: same figures, same interval."""


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
    """Two on the same episodes.

    Attributes:
        gained: episodes that only the one held.
        lost: episodes that only the other held.
        p_value: exact, of McNemar's test (McNemar 1947).
        difference: of the shares held, the one's less the other's.
        low: of its 95 % interval, a bootstrap over episodes.
        high: of that interval.
    """

    gained: int
    lost: int
    p_value: float
    difference: float
    low: float
    high: float


def paired(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> Paired:
    """Compare the success of one, (E,), with that of another on the same episodes."""
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    count = len(one)
    shares = np.array([gained, lost, count - gained - lost]) / count
    drawn = np.random.default_rng(0).multinomial(count, shares, RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, [0.025, 0.975])
    return Paired(gained, lost, float(p), (gained - lost) / count, float(low), float(high))


def interquartile_mean(runs: Sequence[Sequence[NDArray[np.bool_]]]) -> Rate:
    """Return the mean of the middle half of the success rates of runs, with its 95 % interval.

    The interval is a bootstrap: tasks stay, each draws its runs again, each run its episodes
    (Agarwal et al. 2021, who draw runs only; with three of them the episodes count too).

    Args:
        runs: for each task, what each of its runs held, (E,).
    """
    rng = np.random.default_rng(0)
    rates = [np.array([run.mean() for run in task]) for task in runs]
    sizes = [np.array([len(run) for run in task]) for task in runs]
    drawn = []
    for rate, size in zip(rates, sizes, strict=True):
        again = rng.integers(len(rate), size=(RESAMPLES, len(rate)))
        drawn.append(rng.binomial(size[again], rate[again]) / size[again])
    means = trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Rate(float(trim_mean(np.concatenate(rates), 0.25)), float(low), float(high))
