"""Time in training: the learning rate, a limit in minutes, the updates of online rounds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

WARM_UP = 100
"""Updates in which the learning rate rises; a tenth of the training if that is less."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come: updates, seconds and highest score of a stage; seconds in all.

    A stage is finished by its updates or by its time.
    """

    stage: int = 0
    update: int = 0
    stage_seconds: float = 0.0
    seconds: float = 0.0
    best: float | None = None
    finished: bool = False


class Clock:
    """Measures the time spent in a stage, and its share of --minutes."""

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

    `fraction` of the training is over, in updates or in time.
    """
    warm = min(1.0, (update + 1) / min(WARM_UP, max(1, updates // 10)))
    return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * fraction)) / 2)


def online_share(total: int, number: int, rounds: int) -> int:
    """Return how many of all updates a round has, in about the proportion of its data.

    Episodes of random actions, in the first round, are twice as long as those of the agent.
    """
    before, after, whole = (rounds_weight(it) for it in (number, number + 1, rounds))
    return total * after // whole - total * before // whole


def rounds_weight(rounds: int) -> int:
    """Return the weight of the first rounds together: 2 + 3 + 4 + ..."""
    return rounds * (rounds + 3) // 2
