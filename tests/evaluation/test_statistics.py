"""Success rates are compared with intervals and exact tests."""

import numpy as np
import pytest

from mujepa.evaluation.statistics import interquartile_mean, paired, rate_of, success_rate


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


def test_an_agent_compared_with_itself_differs_by_exactly_nothing():
    held = np.random.default_rng(0).random(100) < 0.8
    found = paired(held, held)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_a_paired_difference_has_an_interval_of_its_own():
    one, other = np.array([1] * 60 + [0] * 40, bool), np.array([0] * 20 + [1] * 40 + [0] * 40, bool)
    found = paired(one, other)
    assert found.difference == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - 1.96 * 0.04, abs=0.01)  # sqrt(.2 * .8 / 100) = .04


def test_the_interquartile_mean_leaves_out_the_extremes():
    runs = [np.arange(100) < share for share in (0, 50, 60, 100)]
    found = interquartile_mean([runs])
    assert found.rate == pytest.approx(0.55)
    assert found.low < 0.5 < 0.6 < found.high
    alone = interquartile_mean([[np.arange(100) < 50]])
    assert alone.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)  # episodes count, too
