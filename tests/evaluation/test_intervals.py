"""Intervals of success rates, and pairs of results on common episodes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mujepa
from mujepa.evaluation.comparison import compare_all
from mujepa.evaluation.result import read_result
from mujepa.evaluation.statistics import paired, rate_of, success_rate

REACHER = Path(mujepa.__file__).parent / "pretrained" / "reacher"


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (7, 10, 0.3968, 0.8922),
        (180, 200, 0.8506, 0.9343),
    ],
)
def test_intervals_are_wilsons(successes, episodes, low, high):
    """Against the closed formula, worked out by hand to four digits."""
    rate = success_rate(successes, episodes)
    assert rate.rate == successes / episodes
    assert rate.low == pytest.approx(low, abs=1e-4)
    assert rate.high == pytest.approx(high, abs=1e-4)
    assert rate == rate_of(np.arange(episodes) < successes)
    assert str(rate) == f"{rate.rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


def test_policies_are_compared_by_the_episodes_that_only_one_of_them_held():
    one, other = np.array([1] * 8 + [0] * 2, bool), np.array([0] * 6 + [1] * 3 + [0], bool)
    found = paired(one, other)
    assert (found.gained, found.lost) == (6, 1)
    assert found.p_value == pytest.approx(2 * (1 + 7) / 2**7)  # 0 or 1 of 7, or as far above


def test_results_are_paired_on_common_episodes_and_only_there():
    shipped = read_result(REACHER)
    digests = [str(index) for index in range(shipped.episodes)]
    whole = replace(shipped, by_episode=replace(shipped.by_episode, digest=digests))

    def cut(first, last, **changes):
        one = whole.by_episode
        kept = replace(
            one,
            held=[not held for held in one.held[first:last]],
            final_distance=one.final_distance[first:last],
            digest=digests[first:last],
        )
        rate, count = rate_of(np.array(kept.held)), last - first
        changes |= {"episodes": count, "success_at_end": rate, "manifest": f"{first}-{last}"}
        return replace(whole, by_episode=kept, **changes)

    part, later = cut(0, 100), cut(400, 450)
    found = compare_all([("a", whole), ("b", part), ("c", later), ("d", cut(0, 9, tolerance=0.1))])
    assert [row.common for row in found.results] == [0, 100, 50, 0]
    assert [row.against for row in found.results] == [None, "a", "a", None]
    assert found.results[1].paired == paired(part.held, whole.held[:100])
    assert found.pairing.startswith("2 of 4 results are paired")
    alone = compare_all([("b", part), ("c", later)])
    assert alone.pairing == "No two results have episodes in common, so none are paired."
    assert compare_all([("old", shipped), ("b", part)]).results[1].paired is None
