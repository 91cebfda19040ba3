"""Time in training: the learning rate over it, and a limit to it."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mujepa.training.state import Progress

WARM_UP = 100
"""Updates in which the learning rate rises, at most; of a short training it is a tenth."""


class Clock:
    """Time spent in a stage, and how much of its share of --minutes that is."""

    def __init__(self, progress: Progress, minutes: float | None, share: float) -> None:
        self._before = progress.seconds - progress.stage_seconds
        self._origin = time.monotonic() - progress.stage_seconds
        self._limit = 60 * minutes * share if minutes else math.inf

    def fraction(self) -> float:
        """Return the fraction of the stage's time that is gone; 0 without a limit."""
        return (time.monotonic() - self._origin) / self._limit

    def advance(self, progress: Progress) -> Progress:
        """Return the progress one update later."""
        spent = time.monotonic() - self._origin
        return replace(
            progress, update=progress.update + 1, stage_seconds=spent, seconds=self._before + spent
        )


def schedule(update: int, updates: int, fraction: float) -> float:
    """Return the share of the learning rate: linear warm-up, then a cosine down to a hundredth.

    Args:
        update: that is about to be made.
        updates: in all.
        fraction: of the training that is gone, in updates or in time.
    """
    warm = min(1.0, (update + 1) / min(WARM_UP, max(1, updates // 10)))
    return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * fraction)) / 2)


def online_share(total: int, number: int, rounds: int) -> int:
    """Return which of all updates a round has, in about the proportion of its data.

    The first round learns from random episodes, which are twice as long as those lived through.
    """
    before, after, whole = (rounds_weight(it) for it in (number, number + 1, rounds))
    return total * after // whole - total * before // whole


def rounds_weight(rounds: int) -> int:
    """Return the weight of the first rounds together: 2 + 3 + 4 + ..."""
    return rounds * (rounds + 3) // 2
