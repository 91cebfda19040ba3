"""Diagnostics of the world model: what embeddings contain, and what surprises the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluation.held_out import Episodes, rollout_episodes
from mujepa.evaluation.lab.expectation import violate_expectations, without_contacts
from mujepa.evaluation.lab.world_model import (
    open_loop,
    probe_states,
    rank_candidates,
    state_names,
)
from mujepa.evaluation.manifest import make_manifest
from mujepa.rollouts.collection import rollout_behavior

PRETRAINED = Path(__file__).parents[3] / "pretrained"


@pytest.fixture(scope="module")
def reacher():
    return load_checkpoint(PRETRAINED / "reacher", "cpu")


def streams(episodes):
    return [np.random.default_rng(index) for index in range(episodes)]


def test_predictions_are_nearer_to_the_truth_than_a_frozen_world_or_wrong_actions(reacher, world):
    data = rollout_episodes(reacher.networks.jepa, world, streams(8), 20)
    errors = open_loop(reacher.networks, data)
    model, frozen, wrong = (np.array(errors[name]) for name in errors)
    assert list(errors) == ["model", "frozen_world", "wrong_actions"]
    assert len(model) == len(frozen) == len(wrong) == 16
    assert (model[2:] < np.minimum(frozen, wrong)[2:] / 3).all()


def test_probes_read_what_embeddings_contain_and_speeds_only_from_two_frames(world):
    states, _, _ = rollout_behavior(world, streams(60), 20)
    numbers = torch.from_numpy(world.proprioception(states)).float()
    positions = numbers[..., :3]  # cosine, sine, elbow; no speeds
    found = probe_states(2, world, Episodes(states, torch.zeros(60, 20, 2), positions))
    assert {name: probe["kind"] for name, probe in found.items()} == state_names(world)
    for probe in found.values():
        if probe["kind"] == "angle":
            assert probe["linear"] > 0.999
        else:
            assert probe["linear"] < 0.5
            assert probe["mlp_memory"] > 0.7


@pytest.mark.parametrize("name", ["reacher", "two_room", "cartpole", "push_t", "cube"])
def test_every_number_of_a_state_has_a_name(name):
    world = World(find_task(name))
    width = world.proprioception(np.zeros(world.state_size)).shape[-1]
    assert len(state_names(world)) == width


def test_the_critic_ranks_action_sequences_and_a_blind_cost_does_not(reacher, world):
    episodes = make_manifest(world, 4, seed=0).episodes
    critic = rank_candidates(reacher.agent(), world, episodes)
    blind = rank_candidates(reacher.agent(cost="effort"), world, episodes)
    assert critic["bank"] == 300
    assert critic["rank"][1] > 0.7 > 0.3 > abs(blind["rank"][1])
    assert critic["regret"] < 0.5 * critic["regret_random"]
    assert critic["regret"] < blind["regret"]


def test_without_contacts_a_body_passes_through_a_wall():
    world = World(find_task("two_room"))
    starts = np.stack([episode.start for episode in make_manifest(world, 8, seed=0).episodes])
    right = np.tile(world.action_high * np.array([1, 0]), (8, 60, 1))
    solid, _ = world.rollout(starts, right)
    ghost, _ = world.rollout(starts, right, variants=[without_contacts(world)] * 8)
    assert (ghost[:, -1, 1] > solid[:, -1, 1] + 0.1).any()
    again, _ = world.rollout(starts, right)
    np.testing.assert_array_equal(again, solid)


@pytest.mark.parametrize(
    ("name", "impossible"),
    [("reacher", {"teleport", "freeze"}), ("two_room", {"teleport", "freeze", "ghost"})],
)
def test_impossible_events_are_surprising_and_possible_ones_are_not(name, impossible):
    jepa = load_checkpoint(PRETRAINED / name, "cpu").networks.jepa
    found = violate_expectations(World(find_task(name)), jepa, videos=16, seed=0)
    assert found.keys() == impossible | {"colour", "possible"}
    for event in impossible:
        assert found[event]["auroc"] > 0.9
        assert found[event]["paired"]["p_value"] < 0.01
        half = len(found[event]["by_step"]) // 2
        before, usual = (found[key]["by_step"][:half] for key in (event, "possible"))
        assert max(before) < 3 * max(usual)  # nothing has happened yet
