"""Which episodes to learn from, and which windows of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mujepa.rollouts.store import LIVED
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mujepa.rollouts.store import Dataset


@dataclass(frozen=True)
class Split:
    """Episodes to learn from and episodes to judge by: two disjoint arrays of indices."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def split_episodes(episodes: int, fraction: float, seed: int) -> Split:
    """Split by whole episodes, so that no validation frame has a neighbour in training.

    Args:
        episodes: how many there are.
        fraction: share that goes to validation; at least one episode does.
        seed: of the permutation.

    Raises:
        UserError: there are too few episodes to split.
    """
    held_out = max(1, round(episodes * fraction))
    if held_out >= episodes:
        raise UserError(
            f"{episodes} episodes cannot be split for training and validation; collect at least 2"
        )
    order = np.random.default_rng([seed, 1]).permutation(episodes)
    return Split(np.sort(order[held_out:]), np.sort(order[:held_out]))


def split_dataset(dataset: Dataset, fraction: float, seed: int) -> Split:
    """Split a dataset by whole episodes, so that what is held out stays so when it grows.

    The collected episodes are split among themselves, and so are those of each shard that an agent
    lived through.

    Args:
        dataset: the episodes.
        fraction: share that goes to validation; at least one episode of each part does.
        seed: of the permutations.

    Raises:
        UserError: there are too few episodes to split.
    """
    lived = np.array([name.startswith(LIVED) for name in dataset.names])[dataset.shards]
    parts = np.where(lived, dataset.shards, -1)
    groups = [np.flatnonzero(parts == part) for part in np.unique(parts)]
    splits = [split_episodes(len(group), fraction, seed) for group in groups]
    pairs = list(zip(groups, splits, strict=True))
    return Split(
        np.concatenate([group[split.train] for group, split in pairs]),
        np.concatenate([group[split.validation] for group, split in pairs]),
    )


def sample_windows(
    dataset: Dataset, episodes: NDArray[np.int64], batch: int, length: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw windows uniformly over all that fit inside the given episodes.

    Returns:
        The episode (batch,) and the offset (batch,) of each window.

    Raises:
        UserError: no episode is long enough.
    """
    room = np.maximum(dataset.lengths[episodes] - length + 1, 0)
    if room.sum() == 0:
        raise UserError(
            f"no episode of {dataset.folder} has {length} frames; collect with more --steps"
        )
    ends = np.cumsum(room)
    drawn = rng.integers(ends[-1], size=batch)
    index = np.searchsorted(ends, drawn, side="right")
    return episodes[index], drawn - (ends[index] - room[index])
