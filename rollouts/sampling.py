"""Split a dataset into training and validation episodes, and draw windows from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mujepa.rollouts.store import ON_POLICY, Dataset
from mujepa.runtime.errors import UserError
from mujepa.runtime.seeds import Stream, stream


@dataclass(frozen=True)
class Split:
    """Indices of the training and of the validation episodes; no episode is in both."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def split_episodes(episodes: int, fraction: float, seed: int) -> Split:
    """Split by whole episodes, so that no validation frame has a neighbour in training.

    At least one episode is for validation.
    """
    held_out = max(1, round(episodes * fraction))
    if held_out >= episodes:
        raise UserError(
            f"{episodes} episodes cannot be split for training and validation; collect at least 2"
        )
    order = stream(seed, Stream.SPLIT).permutation(episodes)
    return Split(np.sort(order[held_out:]), np.sort(order[:held_out]))


def split_dataset(dataset: Dataset, fraction: float, seed: int) -> Split:
    """Split a dataset by whole episodes; validation episodes stay so when shards are added.

    The episodes of the behaviour policy are split together, and those of each on-policy shard.
    """
    on_policy = np.array([name.startswith(ON_POLICY) for name in dataset.names])[dataset.shards]
    parts = np.where(on_policy, dataset.shards, -1)
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
    """Draw windows uniformly from all that fit into the given episodes.

    Returns:
        The episode (batch,) and the offset (batch,) of each window.
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
