"""The checkpoints that are shipped: they load, they act alone, and they are as good as they say."""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import mujepa
from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs import gym_id
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.world import World
from mujepa.evaluation.diagnostics import make_ranking_benchmark
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.runtime.files import sha256
from mujepa.training.validation import COSTS, choose_cost, rank_cost

PRETRAINED = Path(__file__).parents[1] / "pretrained"


@pytest.fixture(params=TASKS)
def folder(request):
    return PRETRAINED / request.param


def test_every_checkpoint_is_complete_and_of_at_most_4_mb_a_file(folder):
    files = [path for path in folder.iterdir() if path.is_file()]
    assert {"model.safetensors", "config.json", "provenance.json", "result.json"} <= {
        path.name for path in files
    }
    assert max(path.stat().st_size for path in files) <= 4 * 2**20


def test_the_result_is_that_of_these_weights_and_these_episodes(folder):
    result = json.loads((folder / "result.json").read_text())
    assert result["weights"] == sha256(folder / "model.safetensors")
    world = World(find_task(result["env"]))
    assert result["manifest"] == make_manifest(world, result["episodes"], result["seed"]).digest


def test_the_agent_does_in_each_episode_what_its_result_says(folder):
    """Golden outputs: a change of code that shows here changes everyone's checkpoints."""
    result = json.loads((folder / "result.json").read_text())
    checkpoint = load_checkpoint(folder, "cpu")
    config = checkpoint.config
    world = World(find_task(config.task), config.image_size)
    count = max(3, 6 * 64 // config.planner.samples)
    manifest = make_manifest(world, count, result["seed"])
    outcome = run_episodes(world, AgentPolicy(checkpoint.agent()), manifest)
    same = outcome.held == np.array(result["by_episode"]["held"][:count])
    moved = outcome.distance[:, -1] - np.array(result["by_episode"]["final_distance"][:count])
    assert same.sum() >= count - 1  # contacts magnify the last bit in which processors differ
    if result["success_at_end"]["rate"] > 0.5:  # what is not held ends anywhere
        assert np.median(np.abs(moved)) < world.task.tolerance / 5


def test_the_agent_acts_in_a_plain_gymnasium_loop(folder):
    """It holds one of three goals; where it is known to hold few, it reaches one on the way."""
    agent = mujepa.load(folder)
    holds = json.loads((folder / "result.json").read_text())["success_at_end"]["rate"] > 0.1
    env = gymnasium.make(gym_id(folder.name))

    def reaches(seed: int) -> bool:
        observation, info = env.reset(seed=seed)
        state, over, success = agent.reset(info["goal_pixels"]), False, []
        while not over:
            state, action = agent.act(state, observation["pixels"])
            observation, _, _, over, info = env.step(action)
            success.append(bool(info["is_success"]))
        return success[-1] if holds else any(success)

    assert any(reaches(seed) for seed in (3, 4, 5))
    env.close()


def test_a_goal_may_be_a_condition_in_metres_in_place_of_an_image():
    world = World(find_task("reacher"))
    checkpoint = load_checkpoint(PRETRAINED / "reacher", "cpu")
    agent = checkpoint.agent(cost="reach(x>0.1 & y<-0.1)", actor="planner")
    manifest = make_manifest(world, 8, seed=5)
    ends = run_episodes(world, AgentPolicy(agent), manifest).states[:, -1]
    tips = world.achieved(ends)
    assert ((tips[:, 0] > 0.09) & (tips[:, 1] < -0.09)).sum() >= 7


def test_the_critic_is_planned_with_where_it_knows_best_and_only_there(untrained):
    world = World(find_task("reacher"))
    checkpoint = load_checkpoint(PRETRAINED / "reacher", "cpu")
    networks = checkpoint.networks
    episodes = make_manifest(world, 48, seed=9).episodes
    trials = make_ranking_benchmark(world, "pixels", episodes, horizon=5)

    def ranks():
        return {cost: rank_cost(trials, networks, cost) for cost in COSTS}

    learned = ranks()
    assert learned["critic"] > 0.7 > 0.5 > learned["goal"]
    assert choose_cost(learned) == "critic"
    networks.critic = untrained(
        load_checkpoint(PRETRAINED / "reacher", "cpu").config
    ).networks.critic
    guessed = ranks()
    assert guessed["goal.min"] == learned["goal.min"]
    assert "goal" in choose_cost(guessed)


def test_a_candidate_is_as_near_as_it_comes():
    world = World(find_task("reacher"))
    episode = make_manifest(world, 2, seed=9).episodes[1]
    trials = make_ranking_benchmark(world, "pixels", [episode, episode], horizon=3)
    actions = world.from_unit(trials.actions[1, 7].numpy())
    state, away = episode.start[None], []
    for action in actions:
        for _ in range(world.task.frame_skip):
            state = world.step(state, action[None])
        away.append(world.separation(state, episode.goal[None]).item())
    assert trials.nearest[1, 7] == pytest.approx(min(away), abs=1e-9)
    np.testing.assert_array_equal(trials.goals[0], world.render(episode.goal[None])[0])
