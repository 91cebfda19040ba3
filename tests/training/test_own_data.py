"""Images and actions alone are a dataset: an agent is trained from them, and acts on images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mujepa
from mujepa.agent.checkpoint import load_checkpoint
from mujepa.cli.main import main
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.rollouts.collection import rollout_behavior
from mujepa.rollouts.writer import write_dataset

SIZE = 48


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Images of the reacher of an unusual size, and the actions between them."""
    folder, world = tmp_path_factory.mktemp("own") / "data", World(find_task("reacher"), SIZE)
    streams = [np.random.default_rng(index) for index in range(8)]
    states, actions, _ = rollout_behavior(world, streams, 12)
    episodes = [
        {"pixels": world.render(path), "action": taken}
        for path, taken in zip(states, actions, strict=True)
    ]
    bounds = {"action_low": world.action_low, "action_high": world.action_high}
    write_dataset(folder, episodes, frame_skip=world.task.frame_skip, **bounds)
    return folder


def train(task: str, out: Path, *more: str) -> int:
    toy = f"""train {task} --out {out} --updates 2 --batch 8 --ensemble-updates 2 --critic-updates 2
    --actor-updates 2 --validation 0.3 --threads 1 --device cpu"""
    return main([*toy.split(), *more])


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """A run without a simulator."""
    out = tmp_path_factory.mktemp("own") / "run"
    assert train(f"data:{data}", out) == 0
    return out


def test_an_agent_is_trained_without_a_simulator_and_acts_on_images(run):
    config = load_checkpoint(run).config
    assert (config.task, config.goal_size, config.cost) == (None, 0, "critic")
    assert config.observation_shape == (SIZE, SIZE, 3)
    agent = mujepa.load(run, "cpu")
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    _, action = agent.act(agent.reset(images[0]), images[1])
    assert action.shape == (2,)
    assert (np.abs(action) <= 1).all()


def test_what_needs_no_simulator_is_measured(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    model, _, critic, _ = records
    assert {"open_loop_1", "effective_rank", "step_correlation"} <= model.keys()
    assert critic["score"] == critic["step_correlation"]
    assert not {"candidate_ranking", "probe_r2"} & (model.keys() | critic.keys())


def test_one_line_says_what_is_left_out_and_a_resumed_run_says_no_more(data, run, capsys):
    assert train(f"data:{data}", run, "--resume") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition("left out: ")[2] for line in said if "left out" in line] == [
        "cost selection, candidate ranking, distance correlation, probe"
    ]


def test_with_a_simulator_all_is_measured_that_needs_no_recorded_states(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train("reacher", run, "--data", str(data)) == 0
    assert "left out: distance correlation, probe" in capsys.readouterr().out
    checkpoint = load_checkpoint(run)
    assert checkpoint.config.task == "reacher"
    assert "cost_ranks" in checkpoint.provenance


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("data:{data}", "--online", "--online needs a simulator"),
        ("data:{data}", "--vary mass=2", "--vary needs a simulator"),
        ("data:{data}", "--data x", "names the dataset already; leave --data out"),
        ("data:{data}", "--jepa.encoder.kind mlp", "the mlp encoder reads vectors"),
        ("data:{data}", "--episodes 99", "holds 8, and none can be added"),
        ("data:nowhere", "", "nowhere/meta.json"),
        ("cartpole", "--data {data}", "cartpole"),
        ("reacher", "--data {data} --image-size 64", "have 48; leave the option out"),
    ],
)
def test_what_does_not_fit_the_data_is_answered_by_one_line(
    data, tmp_path, capsys, task, flags, message
):
    run = tmp_path / "run"
    assert train(task.format(data=data), run, *flags.format(data=data).split()) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (run / "last").exists()


def test_images_of_another_size_are_collected_and_kept_in_the_checkpoint(tmp_path):
    run, data = tmp_path / "run", tmp_path / "data"
    size = ["--episodes", "4", "--image-size", "96", "--data", str(data)]
    assert train("reacher", run, *size) == 0
    assert load_checkpoint(run).config.image_size == 96
    agent = mujepa.load(run, "cpu")
    env = mujepa.envs.gym.GoalEnv("reacher", image_size=96)
    observation, info = env.reset(seed=0)
    agent.act(agent.reset(info["goal_pixels"]), observation["pixels"])
