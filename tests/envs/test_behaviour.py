"""The behaviour policy's noise has the strength and the correlation asked for."""

from __future__ import annotations

import numpy as np
import pytest

from mujepa.envs.behaviour import RedNoise


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_behaviour_policy_has_the_strength_and_the_correlation_asked_for(correlation):
    policy = RedNoise((0.2, 0.2), (correlation, correlation))
    actions = policy.draw(np.random.default_rng(0), 40_000, 2)
    np.testing.assert_allclose(actions.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(actions.std(axis=0), 0.2, rtol=0.05)
    for column in actions.T:
        assert np.corrcoef(column[:-1], column[1:])[0, 1] == pytest.approx(correlation, abs=0.02)
    assert np.corrcoef(*actions.T)[0, 1] == pytest.approx(0, abs=0.05)
    episodes = [policy.draw(np.random.default_rng(s), 10, 1) for s in range(2000)]
    np.testing.assert_allclose(np.std(episodes, axis=0), 0.2, rtol=0.08)  # from the first action on


def test_episodes_differ_in_strength_and_memory_over_the_whole_range():
    def measure(seed: int) -> tuple[float, float]:
        policy = RedNoise((0.002, 0.01), (0.1, 0.8))
        actions = policy.draw(np.random.default_rng(seed), 2000, 1)[:, 0]
        return float(actions.std()), float(np.corrcoef(actions[:-1], actions[1:])[0, 1])

    strength, correlation = np.array([measure(seed) for seed in range(200)]).T
    shares = [0.1, 0.5, 0.9]
    np.testing.assert_allclose(np.quantile(strength, shares), [0.0028, 0.006, 0.0092], atol=0.001)
    np.testing.assert_allclose(np.quantile(correlation, shares), [0.17, 0.45, 0.73], atol=0.1)
