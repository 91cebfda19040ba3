"""Variation through the commands: data, training, evaluation and videos keep to it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from numpy.testing import assert_array_equal

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.cli.main import main
from mujepa.envs.registry import TASKS
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.rollouts.store import read_meta
from mujepa.training.config import TrainConfig
from mujepa.training.data import load_training_data
from mujepa.training.run import collection
from mujepa.visual.video import record_episode


def test_the_episodes_to_judge_on_are_those_without_variation():
    plain = make_manifest(World(TASKS["reacher"]), 3, 0)
    varied = make_manifest(World(TASKS["reacher"], variation=read_variation("mass=0.5:2")), 3, 0)
    assert varied.digest == plain.digest
    assert varied.seeds == plain.seeds
    assert len({episode.draw.values["mass"] for episode in varied.episodes}) == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, which has collected varied data."""
    folder = tmp_path_factory.mktemp("varied")
    toy = """--updates 2 --critic-updates 2 --ensemble-updates 2 --actor-updates 2 --batch 4
    --threads 1 --validation 0.3"""
    command = f"train reacher --out {folder}/run --data {folder}/data --episodes 6 {toy}"
    assert main([*command.split(), "--workers", "1", "--vary", "light=0.3:1", "mass=0.5:2"]) == 0
    return folder


def test_a_dataset_records_its_variation_and_keeps_to_it(folder, capfd):
    spec, _ = read_meta(folder / "data")
    assert spec.variation == {"light": [0.3, 1.0], "mass": [0.5, 2.0]}
    again = f"collect reacher --out {folder}/data --episodes 6"
    for more in ([], ["--vary", "mass=0.5:2"]):
        assert main([*again.split(), *more]) == 2
        line = capfd.readouterr().err.splitlines()[-1]
        assert "was collected with variation={'light': [0.3, 1.0], 'mass'" in line
    assert main([*again.split(), "--vary", "mass=0.5:2", "light=0.3:1"]) == 0


def test_starts_and_goals_that_training_draws_vary_as_its_data_do(folder):
    data = load_training_data(folder / "data", 0.3, 0, torch.device("cpu"))
    variants = [data.world.variant(one.draw) for one in data.start_goal_pairs[:6]]
    assert len({variant.model.body_mass[-1] for variant in variants}) == 6


def test_a_run_records_its_variation_and_is_not_resumed_without(folder, capfd):
    settings = json.loads((folder / "run" / "train.json").read_text())
    assert settings["vary"] == ["light=0.3:1", "mass=0.5:2"]
    command = f"train reacher --out {folder}/run --data {folder}/data --resume"
    assert main(command.split()) == 2
    assert "was begun with" in capfd.readouterr().err


def test_data_that_are_there_are_learned_from_as_they_are(folder):
    collecting = collection(TrainConfig("reacher", folder / "other", str(folder / "data")))
    assert read_variation(collecting.vary).plain() == {"light": [0.3, 1.0], "mass": [0.5, 2.0]}
    assert (
        TrainConfig("reacher", folder).dataset
        != TrainConfig("reacher", folder, vary=("mass=2",)).dataset
    )


def test_an_evaluation_records_its_variation(folder, capsys):
    command = f"evaluate {folder}/run --episodes 2 --planner samples=8,iterations=1 --no-oracle"
    assert main([*command.split(), "--vary", "mass=0.5:2", "texture=0.5", "--seed", "1"]) == 0
    result = json.loads((folder / "run" / "evaluation" / "result.json").read_text())
    assert result["variation"] == {"texture": [0.5, 0.5], "mass": [0.5, 2.0]}
    assert result["manifest"] == make_manifest(World(TASKS["reacher"]), 2, 1).digest
    assert "mass from 0.5 to 2.0" in (folder / "run" / "evaluation" / "report.html").read_text()
    assert "varied: texture=0.5:0.5 mass=0.5:2" in capsys.readouterr().out


def test_a_varied_episode_is_filmed_in_its_own_world(folder):
    checkpoint = load_checkpoint(folder / "run")
    task = replace(TASKS["reacher"], budget_steps=8)
    world = World(task, variation=read_variation("gain=0.2:0.4 camera=1"))
    manifest = make_manifest(world, 1, 0)
    episode, seed = manifest.episodes[0], manifest.seeds[0]
    agent, probe = checkpoint.agent(), checkpoint.networks.probe
    recording = record_episode(agent, probe, world, episode, seed)
    variants = [world.variant(episode.draw)]
    assert_array_equal(recording.goal, world.render(episode.goal[None], variants)[0])
    assert_array_equal(recording.images[0], world.render(episode.start[None], variants)[0])
    outcome = run_episodes(world, AgentPolicy(agent), manifest)
    assert_array_equal(recording.distance[1:], outcome.distance[0])
