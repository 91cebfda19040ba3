"""Windows are drawn evenly inside episodes, and the split is by episode."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from mujepa.rollouts.sampling import sample_windows, split_dataset, split_episodes
from mujepa.runtime.errors import UserError


class Everything:
    """A random generator that returns every number below the limit once."""

    def integers(self, limit: int, size: int) -> np.ndarray:
        assert size == limit
        return np.arange(limit)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), data=st.data())
def test_drawn_windows_are_all_those_that_fit_each_as_likely_as_the_others(lengths, data):
    """Number by number, the draws map one to one onto the windows inside the episodes."""
    length = data.draw(st.integers(1, max(lengths)))
    some = data.draw(st.sets(st.sampled_from(range(len(lengths))), min_size=1))
    fitting = [(e, o) for e in sorted(some) for o in range(lengths[e] - length + 1)]
    dataset = SimpleNamespace(lengths=np.array(lengths), folder=Path("data"))
    if not fitting:
        with pytest.raises(UserError, match=f"no episode of data has {length} frames"):
            sample_windows(dataset, np.array(sorted(some)), 3, length, Everything())
        return
    drawn = sample_windows(dataset, np.array(sorted(some)), len(fitting), length, Everything())
    assert list(zip(*(part.tolist() for part in drawn), strict=True)) == fitting


def test_windows_are_drawn_evenly():
    dataset = SimpleNamespace(lengths=np.array([9, 2, 4, 12, 3]), folder=Path("data"))
    episodes = np.array([0, 1, 3, 4])
    drawn = sample_windows(dataset, episodes, 32_000, 3, np.random.default_rng(0))
    counts = Counter(zip(*(part.tolist() for part in drawn), strict=True))
    assert set(counts) == {(e, o) for e in (0, 3, 4) for o in range(dataset.lengths[e] - 2)}
    assert chisquare(list(counts.values())).pvalue > 0.001


@given(st.integers(2, 500), st.floats(0.001, 0.5), st.integers(0, 5))
def test_the_split_is_by_episode_disjoint_and_complete(episodes, fraction, seed):
    split = split_episodes(episodes, fraction, seed)
    both = np.concatenate([split.train, split.validation])
    np.testing.assert_array_equal(np.sort(both), np.arange(episodes))
    assert len(split.train) > 0
    assert len(split.validation) == max(1, round(episodes * fraction))
    again = split_episodes(episodes, fraction, seed)
    np.testing.assert_array_equal(again.validation, split.validation)


def test_another_seed_gives_another_split():
    one, other = (split_episodes(100, 0.1, seed).validation for seed in (0, 1))
    assert one.tolist() != other.tolist()


@pytest.mark.parametrize(("episodes", "fraction"), [(1, 0.02), (3, 0.9), (2, 1.0)])
def test_too_few_episodes_to_split_are_reported(episodes, fraction):
    with pytest.raises(UserError, match=f"{episodes} episodes cannot be split"):
        split_episodes(episodes, fraction, 0)


def test_an_added_on_policy_shard_leaves_the_validation_episodes_as_they_were():
    before = SimpleNamespace(names=["shard-00000"], shards=np.zeros(20, int))
    names = ["on-policy-00001", "shard-00000"]
    after = SimpleNamespace(names=names, shards=np.repeat([0, 1], [10, 20]))
    held_out = split_dataset(before, 0.1, 0).validation
    grown = split_dataset(after, 0.1, 0).validation
    assert [index - 10 for index in grown if index >= 10] == held_out.tolist()
    assert sum(index < 10 for index in grown) == 1
