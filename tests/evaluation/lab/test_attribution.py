"""A true part in place of a learned one tells where failures come from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.agent.memory import Memory
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.lab.simulated import Filmed, SimulatedPolicy
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy

PRETRAINED = Path(__file__).parents[3] / "pretrained"


def test_what_is_filmed_is_what_the_world_shows_at_every_model_step(untrained):
    whole, world = untrained().agent().configurator, World(find_task("reacher"), 32)
    jepa = whole.jepa
    rng = np.random.default_rng(0)
    starts = np.stack([world.sample_episode(rng).start for _ in range(2)])
    actions = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    memory = Memory.at_rest(torch.zeros(2, 8), jepa.history, 2)
    filmed = Filmed(jepa, whole.critic, whole.cost, world, starts).rollout(memory, actions)
    assert filmed.shape == (2, 3, 2, 8)
    state = starts[1:]
    for step in range(2):
        for _ in range(world.task.frame_skip):
            state = world.step(state, world.from_unit(actions[1, 2, step].numpy())[None])
        seen = jepa.encode(torch.from_numpy(world.render(state)))
        torch.testing.assert_close(filmed[1, 2, step], seen[0])


@pytest.mark.parametrize("broken", ["dynamics", "cost"])
def test_true_dynamics_rescue_an_agent_from_its_world_model_and_from_nothing_else(broken):
    checkpoint = load_checkpoint(PRETRAINED / "reacher", "cpu")
    part = (
        checkpoint.networks.jepa.predictor if broken == "dynamics" else checkpoint.networks.critic
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for weights in part.parameters():
            weights.normal_(std=0.05)
    world = World(find_task("reacher"))
    manifest = make_manifest(world, 4, seed=1)
    planner = replace(checkpoint.config.planner, horizon=4, samples=32, iterations=3, elites=6)
    cost = "effort" if broken == "cost" else None
    agent = checkpoint.agent(planner, cost, actor="planner")
    held = [
        run_episodes(world.task, 64, policy, manifest).held.sum()
        for policy in (AgentPolicy(agent), SimulatedPolicy(agent, world))
    ]
    assert held == [0, 4] if broken == "dynamics" else max(held) <= 1


def test_worlds_that_vary_are_refused_and_not_simulated_wrongly(untrained, tiny):
    world = World(find_task("reacher"), variation=read_variation(["mass=0.5:2"]))
    agent = untrained(tiny(observation_shape=(64, 64, 3))).agent()
    with pytest.raises(ValueError, match="vary"):
        run_episodes(world.task, 64, SimulatedPolicy(agent, world), make_manifest(world, 1, 0))
