"""The lane of the experiment "What is heavy": what hides there is felt, but not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mujepa.envs.registry import find_task
from mujepa.envs.variation import Draw
from mujepa.envs.world import World

LANE = f"{Path(__file__).parents[2] / 'experiments' / 'worlds' / 'lane.py'}:Lane"
GRAVITY, FRICTION = 9.81, 0.07


@pytest.fixture(scope="module")
def lane():
    return World(find_task(LANE))


def test_a_heavy_puck_looks_like_a_light_one(lane):
    start = lane.sample_episode(np.random.default_rng(0)).start
    light, heavy = (lane.variant(Draw({"mass": mass})) for mass in (0.25, 4.0))
    seen = lane.render(np.stack([start, start]), [light, heavy])
    assert np.array_equal(*seen)


@pytest.mark.parametrize("hidden", [{"mass": 0.25}, {"mass": 4.0}, {"friction": 0.4}])
def test_the_pusher_alone_moves_as_ever_also_against_its_ends(lane, hidden):
    starts = np.stack([lane.state(np.array([0.3, 0, -0.6]))] * 2)
    forces = np.repeat([6.0, 12, 4, -12, -12, -6, 12, 0], 10)[None, :, None].repeat(2, axis=0)
    states, _ = lane.rollout(
        starts, forces, 1, [lane.variant(Draw(hidden)), lane.variant(Draw({}))]
    )
    pusher = states[..., 3]
    assert pusher.min() < -0.76
    assert pusher.max() > -0.2
    np.testing.assert_allclose(pusher[0], pusher[1], atol=5e-4)  # of 2.8 cm for a pixel


def test_the_same_push_moves_a_heavy_puck_less(lane):
    start = lane.state(np.array([-0.4, 0, -0.53]))
    worlds = [lane.variant(Draw({"mass": mass})) for mass in (0.25, 1.0, 4.0)]
    states, _ = lane.rollout(np.tile(start, (3, 1)), np.full((3, 20, 1), 3.5), 1, worlds)
    moved = states[:, -1, 1] - start[1]
    assert moved[0] > 1.2 * moved[1] > 2 * moved[2] > 0


@pytest.mark.parametrize("mass", [0.25, 4.0])
@pytest.mark.parametrize("friction", [0.4, 2.5])
def test_a_released_puck_slides_as_far_as_friction_says_whatever_its_mass(lane, mass, friction):
    start = lane.state(np.array([-0.1, 0, -0.7]), np.array([0.6, 0, 0]))[None]
    world = lane.variant(Draw({"mass": mass, "friction": friction}))
    states, _ = lane.rollout(start, np.zeros((1, 80, 1)), 1, [world])
    expected = 0.6**2 / (2 * FRICTION * friction * GRAVITY)
    assert states[0, -1, 1] + 0.1 == pytest.approx(expected, rel=0.05)


def test_the_pusher_neither_passes_through_the_puck_nor_follows_it(lane):
    starts = np.stack([lane.state(np.array([-0.4, 0, -0.6]))] * 4)
    worlds = [lane.variant(Draw({"mass": mass})) for mass in (0.25, 0.5, 1.0, 4.0)]
    states, _ = lane.rollout(starts, np.full((4, 60, 1), 12.0), 1, worlds)
    puck, pusher = states[..., 1], states[..., 3]
    assert (puck - pusher).min() > 0.08  # of 0.12, at the hardest strike
    assert pusher.max() < -0.15
