"""Success rates are compared with intervals and exact tests."""

import numpy as np
import pytest

from mujepa.evaluation.statistics import interquartile_mean, paired


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
