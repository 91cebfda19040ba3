"""Random streams: every random number descends from a seed through one of these names.

The words after the name number episodes, stages or updates. What is drawn for one of them depends
on its words alone, so that a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Second word of a random stream, after the seed."""

    COLLECTION = 0
    SPLIT = 1
    TRAINING = 2
    EVALUATION = 3
    LAB = 5
    HELD_OUT = 6
    EXPECTATION = 7
    SWEEP = 8


class Draw(IntEnum):
    """Third word of the streams of training: what is drawn; the fourth is the update."""

    WORLD_MODEL = 0
    CRITIC = 1
    ENSEMBLE = 2
    ACTOR = 3
    GOALS = 4
    ONLINE_EVALUATION = 6
    ON_POLICY = 7
    ROUND = 8
    PREDICTOR = 9


def stream(seed: int, name: Stream, *words: int) -> np.random.Generator:
    """Return the generator of a stream."""
    return np.random.default_rng([seed, name, *words])
