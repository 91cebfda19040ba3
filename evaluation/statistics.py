"""Success rates with intervals, paired tests and aggregates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, trim_mean

from mujepa.runtime.settings import Count, Finite, Index, Share

RESAMPLES = 10_000
"""Bootstrap samples; their seed is fixed, so the same data give the same interval."""


@dataclass(frozen=True)
class Rate:
    """A success rate with its 95 % interval."""

    rate: Share
    low: Share
    high: Share

    @property
    def errors(self) -> list[list[float]]:
        """Lengths of the error bar below and above the rate, as matplotlib takes them."""
        return [[self.rate - self.low], [self.high - self.rate]]

    def __str__(self) -> str:
        return f"{self.rate:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Summary:
    """Figures of a policy: rates of episodes that end with the goal held, and that reach it."""

    episodes: Count
    success_at_end: Rate
    success_any: Rate
    median_final_distance: Finite


@dataclass(frozen=True)
class Paired:
    """Comparison of A with B: episodes that only A or only B held, and A's rate less B's.

    `p_value` is that of McNemar's exact test (McNemar 1947); `low` and `high` are the 95 % interval
    of the difference, a bootstrap over episodes.
    """

    gained: Index
    lost: Index
    p_value: Share
    difference: Finite
    low: Finite
    high: Finite


def success_rate(successes: int, episodes: int) -> Rate:
    """Return a success rate with its Wilson score interval at 95 % (Wilson 1927)."""
    interval = binomtest(successes, episodes).proportion_ci(confidence_level=0.95, method="wilson")
    return Rate(successes / episodes, float(interval.low), float(interval.high))


def rate_of(successes: NDArray[np.bool_]) -> Rate:
    """Return the success rate of episodes, (E,), with its Wilson interval."""
    return success_rate(int(successes.sum()), len(successes))


def paired(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> Paired:
    """Compare the successes of A, (E,), with those of B on the same episodes, (E,)."""
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    count = len(one)
    shares = np.array([gained, lost, count - gained - lost]) / count
    drawn = np.random.default_rng(0).multinomial(count, shares, RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, [0.025, 0.975])
    return Paired(gained, lost, float(p), (gained - lost) / count, float(low), float(high))


def interquartile_mean(runs: Sequence[Sequence[NDArray[np.bool_]]]) -> Rate:
    """Return the mean of the middle half of the success rates of runs, with its 95 % interval.

    The interval is a stratified bootstrap over the runs of each task and over the episodes of each
    run (Agarwal et al. 2021 resample runs alone; with three of them, episodes matter too). `runs`
    holds, for each task, the successes of each of its runs, (E,).
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
