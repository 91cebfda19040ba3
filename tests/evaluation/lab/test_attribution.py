"""Failure attribution: replacing a learned part by a true one finds the part that was broken."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mujepa.agent.memory import Memory
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.config import EvaluateConfig
from mujepa.evaluation.held_out import rollout_episodes
from mujepa.evaluation.lab.attribution import (
    SimulatedConfigurator,
    SimulatedPolicy,
    attribute,
    name_cause,
)
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.runner import build

REACHER = Path(__file__).parents[3] / "pretrained" / "reacher"


def test_simulated_embeddings_are_those_of_the_world_at_every_model_step(untrained):
    usual, world = untrained().agent().configurator, World(find_task("reacher"), 32)
    jepa = usual.jepa
    rng = np.random.default_rng(0)
    starts = np.stack([world.sample_episode(rng).start for _ in range(2)])
    actions = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    memory = Memory.at_rest(torch.zeros(2, 8), jepa.history, 2)
    simulated = SimulatedConfigurator(jepa, usual.critic, usual.cost, world, starts)
    embeddings = simulated.rollout(memory, actions)
    assert embeddings.shape == (2, 3, 2, 8)
    state = starts[1:]
    for step in range(2):
        for _ in range(world.task.frame_skip):
            state = world.step(state, world.from_unit(actions[1, 2, step].numpy())[None])
        seen = jepa.encode(torch.from_numpy(world.render(state)))
        torch.testing.assert_close(embeddings[1, 2, step], seen[0])


def test_episodes_that_vary_are_refused(untrained, tiny):
    world = World(find_task("reacher"), variation=read_variation(["mass=0.5:2"]))
    agent = untrained(tiny(observation_shape=(64, 64, 3))).agent()
    with pytest.raises(ValueError, match="vary"):
        run_episodes(world, SimulatedPolicy(agent, world), make_manifest(world, 1, 0))


def negate_actions(networks):
    size = networks.jepa.action_size
    of_action = networks.jepa.predictor.change[0][0].weight[:, -size:]
    of_action.copy_(-of_action.flip(1))


def collapse_encoder(networks):
    networks.jepa.encoder.project.weight.zero_()


def flip_cost(networks):
    distance = networks.critic.distance
    networks.critic.distance = lambda reached, goal: -distance(reached, goal)


@pytest.mark.parametrize(
    ("break_part", "cause"),
    [(negate_actions, "dynamics"), (collapse_encoder, "representation"), (flip_cost, "cost")],
)
def test_the_cause_is_the_part_that_was_broken(break_part, cause):
    planner = "horizon=4,samples=16,iterations=2,elites=4"
    setup = build(
        EvaluateConfig(REACHER, actor="planner", planner=planner, device="cpu"), threads=1
    )
    break_part(setup.checkpoint.networks)
    world, jepa = setup.world, setup.checkpoint.networks.jepa
    manifest = make_manifest(world, 3, seed=1)
    outcome = run_episodes(world, AgentPolicy(setup.agent), manifest)
    streams = [np.random.default_rng(index) for index in range(4)]
    held_out = rollout_episodes(jepa, world, streams, 12)
    found = attribute(setup, manifest, outcome, held_out, failures=3)
    assert found["failures"] == 3
    assert found["cause"] == cause, found


@pytest.mark.parametrize(
    ("cause", "search", "cost", "dynamics", "both", "unfamiliar"),
    [
        ("search", 0.9, 0.1, 0.1, 0.1, 1),
        ("cost", 0.1, 0.8, 0.2, 0.9, 1),
        ("dynamics", 0.1, 0.2, 0.8, 0.9, 1),
        ("data", 0.1, 0.2, 0.8, 0.9, 10),
        ("dynamics", 0.1, 0.2, 0.4, 0.9, 1),  # neither alone, both together: the better one
        ("representation", 0.1, 0.2, 0.2, 0.3, 1),
    ],
)
def test_the_cause_is_the_swap_that_closes_half_of_the_gap(
    cause, search, cost, dynamics, both, unfamiliar
):
    rescued = {
        "luck": 0.1, "search": search, "cost": cost, "dynamics": dynamics,
        "dynamics and cost": both, "everything": 1.0,
    }  # fmt: skip
    assert name_cause(rescued, unfamiliar) == cause


def test_the_cause_is_luck_if_other_random_numbers_rescue_and_search_if_nothing_does():
    rescued = dict.fromkeys(["search", "cost", "dynamics", "dynamics and cost"], 0.9)
    assert name_cause(rescued | {"luck": 0.6, "everything": 1.0}, 1) == "luck"
    assert name_cause(dict.fromkeys(["luck", "search", "everything"], 0.0), 1) == "search"
