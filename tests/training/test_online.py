"""Learning from experience: what is lived through is kept, learned from, and survives a crash."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mujepa.train
import mujepa.training.on_policy
import mujepa.training.online
import mujepa.training.trainer
from mujepa.agent.checkpoint import load_checkpoint
from mujepa.cli.main import main
from mujepa.envs.behaviour import RedNoise
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.planners import PlannerConfig
from mujepa.rollouts.sampling import split_dataset, split_episodes
from mujepa.rollouts.store import Dataset
from mujepa.runtime.command import run as run_command
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import sha256
from mujepa.training.config import TrainConfig
from mujepa.training.on_policy import Exploration, Explorer
from mujepa.training.schedule import online_share, schedule

ROUNDS, EPISODES, STEPS = 3, 3, 50


def train(out: Path, *more: str, **settings: Any) -> int:
    """Run `mujepa train --online`, with settings that have no flag."""
    toy = f"""--online --online-rounds {ROUNDS} --online-episodes {EPISODES} --updates 6 --batch 4
    --critic-updates 6 --ensemble-updates 6 --actor-updates 6 --threads 1 --workers 1
    --device cpu""".split()
    planner = PlannerConfig(horizon=2, samples=8, iterations=1, elites=2)
    small = {"critic_batch": 8, "actor_batch": 6, "planner": planner} | settings
    return run_command(
        lambda config: mujepa.train.train(replace(config, **small)), TrainConfig,
        ["reacher", "--out", str(out), *toy, *more],
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few():
    """Judge on few episodes, and rank costs in few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mujepa.training.online, "EVALUATED", 3)
        patch.setattr(mujepa.training.data, "RANKED_PAIRS", 3)
        patch.setattr(mujepa.training.data, "START_GOAL_PAIRS", 12)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert train(out) == 0
    return out


def curve(run: Path) -> list[dict]:
    """What online.json says, but for the time that it took."""
    rounds = json.loads((run / "online.json").read_text())["rounds"]
    return [
        {k: v for k, v in it.items() if k not in ("minutes", "learning_seconds")} for it in rounds
    ]


def content(run: Path) -> dict[str, str]:
    """Checksums of all that was learned and lived."""
    kept = (path for path in run.rglob("*") if path.suffix in (".safetensors", ".npy"))
    return {str(path.relative_to(run)): sha256(path) for path in sorted(kept)} | {
        "meta": sha256(run / "data" / "meta.json")
    }


def shard(run: Path, number: int) -> dict:
    return json.loads((run / "data" / f"on-policy-{number:05d}" / "shard.json").read_text())


# ---------------------------------------------------------------------------------- a run


def test_each_round_lives_learns_and_is_judged(run, capsys):
    names = [f"on-policy-{number:05d}" for number in range(1, ROUNDS)]
    dataset = Dataset(run / "data")
    assert dataset.names == [*names, "shard-00000"]
    assert len(dataset) == ROUNDS * EPISODES
    random, lived = 2 * STEPS * 2 * EPISODES, 2 * STEPS * EPISODES
    assert [it["steps"] for it in curve(run)] == [
        random + number * lived for number in range(ROUNDS)
    ]
    for it in curve(run):
        assert 0 <= it["success"]["low"] <= it["success"]["rate"] <= it["success"]["high"] <= 1
    assert curve(run)[-1]["data"] == dataset.digest


def test_a_shard_says_which_agent_lived_through_it(run):
    for number in range(1, ROUNDS):
        agent = run / f"round-{number - 1:05d}" / "last" / "model.safetensors"
        assert shard(run, number)["agent"]["weights"] == sha256(agent)


def test_what_is_kept_is_what_happened(run, world):
    dataset = Dataset(run / "data")
    for episode in range(2):
        states, actions = dataset.episode("state", episode), dataset.episode("action", episode)
        after, _ = world.rollout(states[:-1], actions[:-1, None], world.task.frame_skip)
        np.testing.assert_array_equal(after[:, 0], states[1:])
        np.testing.assert_array_equal(world.render(states), dataset.episode("pixels", episode))
        assert (actions[-1] == 0).all()


def test_each_round_learns_on_from_the_one_before(run):
    first, second = (load_checkpoint(run / f"round-0000{i}" / "last").networks for i in (0, 1))
    assert load_checkpoint(run / "last").provenance["round"] == ROUNDS - 1
    for (name, before), after in zip(
        first.jepa.predictor.state_dict().items(),
        second.jepa.predictor.state_dict().values(),
        strict=True,
    ):
        if before.dim() > 1:  # two updates change little of it
            moved = (after - before).norm() / before.norm().clamp(min=1e-6)
            assert moved < 0.2, name


def test_the_best_agent_is_the_one_that_held_most(run):
    rates = [it["success"]["rate"] for it in curve(run)]
    best = max(number for number, rate in enumerate(rates) if rate == max(rates))
    assert load_checkpoint(run / "best").provenance["round"] == best


def test_metrics_tell_of_all_rounds_in_turn(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(it["round"], it["stage_index"]) for it in lines] == [
        (number, stage) for number in range(ROUNDS) for stage in range(4)
    ]
    seconds = [it["seconds"] for it in lines]
    assert seconds == sorted(seconds)


def test_it_is_judged_as_any_other_agent(run, tmp_path):
    command = f"evaluate {run} --episodes 2 --no-oracle --out {tmp_path} --device cpu"
    assert main(command.split()) == 0
    assert (tmp_path / "result.json").exists()


# --------------------------------------------------------------------------- interruptions


class Crash(BaseException):
    """What a power cut would be, as far as files are concerned."""


def dying(*arguments, **more):
    raise Crash


def die_in(module, name: str, call: int, *, after: bool = False):
    """Die in the n-th call of a function, or right after it."""

    def install(patch: pytest.MonkeyPatch) -> None:
        function, calls = getattr(module, name), []

        def mortal(*arguments, **more):
            calls.append(None)
            if len(calls) == call and not after:
                raise Crash
            result = function(*arguments, **more)
            if len(calls) == call:
                raise Crash
            return result

        patch.setattr(module, name, mortal)

    return install


CRASHES = {
    "while it learns in the first round": die_in(mujepa.training.trainer, "save_progress", 2),
    "before its first shard is written": die_in(mujepa.training.on_policy, "write_shard", 1),
    "between the shard and its name": die_in(mujepa.training.on_policy, "write_meta", 1),
    "with new data but before it learned": die_in(
        mujepa.training.on_policy, "write_meta", 1, after=True
    ),
    "while it learns in the second round": die_in(mujepa.training.trainer, "save_progress", 6),
    "while it is judged": die_in(mujepa.training.online, "run_episodes", 2),
    "before its agent is published": die_in(mujepa.training.online, "save_checkpoint", 3),
    "between agent and curve": die_in(mujepa.training.online, "write_json", 2),
    "at the end of a round": die_in(mujepa.training.online, "write_json", 2, after=True),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_crashed_run_is_resumed_as_if_nothing_had_happened(run, tmp_path, monkeypatch, name):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        CRASHES[name](patch)
        with pytest.raises(Crash):
            train(out)
    Dataset(out / "data")  # what is there is whole
    assert train(out, "--resume") == 0
    assert content(out) == content(run)
    assert curve(out) == curve(run)


def test_a_run_killed_while_it_lives_leaves_its_data_intact_and_goes_on(run, tmp_path):
    out = tmp_path / "run"
    code = f"""
import os, signal, sys
import numpy as np
import mujepa.training.on_policy, mujepa.training.online, mujepa.training.data
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_online
from pathlib import Path
mujepa.training.online.EVALUATED = mujepa.training.data.RANKED_PAIRS = 3
mujepa.training.data.START_GOAL_PAIRS = 12
save = np.save
def dying(path, values):
    save(path, values)
    if "on-policy" in str(path) and path.name == "action.npy":
        os.kill(os.getpid(), signal.SIGKILL)
np.save = dying
test_online.train(Path({str(out)!r}))
"""
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(Dataset(out / "data")) == EPISODES
    assert list((out / "data").glob(".on-policy-*.tmp"))
    assert train(out, "--resume") == 0
    assert not list((out / "data").glob(".on-policy-*.tmp"))
    assert content(out) == content(run)


def test_a_finished_run_stays_as_it_is(run, tmp_path, capsys):
    out = shutil.copytree(run, tmp_path / "run")
    there = json.loads((out / "train.json").read_text())
    assert train(out) == 2
    assert "--resume" in capsys.readouterr().err
    assert train(out, "--resume") == 0
    assert content(out) == content(run)
    assert json.loads((out / "train.json").read_text()) == there | {"out": str(out), "resume": True}


# ------------------------------------------------------------------------------- the data


def test_what_is_held_out_stays_so_when_data_are_added(run):
    dataset = Dataset(run / "data")
    split = split_dataset(dataset, 0.02, 0)
    assert set(split.train).isdisjoint(split.validation)
    assert len(split.train) + len(split.validation) == len(dataset)
    held_out = {dataset.names[number] for number in dataset.shards[split.validation]}
    assert held_out == set(dataset.names)
    alone = split_episodes(EPISODES, 0.02, 0)
    random = np.flatnonzero(dataset.shards == len(dataset.names) - 1)
    assert set(random[alone.validation]) <= set(split.validation)


def test_collecting_more_keeps_what_was_lived(run, tmp_path):
    data = shutil.copytree(run / "data", tmp_path / "data")
    assert main(f"collect reacher --out {data} --episodes 101 --workers 1".split()) == 0
    names = [f"on-policy-{number:05d}" for number in range(1, ROUNDS)]
    assert Dataset(data).names == [*names, "shard-00000", "shard-00001"]


def test_data_that_another_run_lived_through_are_refused(run, tmp_path, capsys):
    assert train(tmp_path / "run", "--data", str(run / "data")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "does not hold the episodes that this run has collected" in error


def test_a_run_whose_data_were_changed_is_not_resumed(run, tmp_path, capsys):
    out = shutil.copytree(run, tmp_path / "run")
    curve = json.loads((out / "online.json").read_text())
    curve["rounds"].pop()
    (out / "online.json").write_text(json.dumps(curve))
    shutil.rmtree(out / "data" / "on-policy-00002")
    assert main(f"collect reacher --out {out / 'data'} --episodes 9 --workers 1".split()) == 0
    assert train(out, "--resume") == 2
    assert "does not hold the episodes that this run has collected" in capsys.readouterr().err


# ------------------------------------------------------------------------------ exploring


def test_without_noise_an_explorer_is_the_agent(untrained, tiny, world):
    checkpoint = untrained(tiny(observation_shape=(64, 64, 3)))
    agent, manifest = checkpoint.agent(), make_manifest(world, 2, 0)
    silent = Explorer(agent, world, Exploration(RedNoise(strength=(0.0, 0.0)), begin=0.0))
    outcomes = [run_episodes(world, policy, manifest) for policy in (AgentPolicy(agent), silent)]
    np.testing.assert_array_equal(outcomes[0].actions, outcomes[1].actions)


def test_an_explorer_remembers_what_it_did_and_not_what_it_meant_to_do(untrained, tiny, world):
    agent = untrained(tiny(observation_shape=(64, 64, 3))).agent()
    explorer = Explorer(agent, world, Exploration(RedNoise(strength=(0.5, 0.5))))
    image, starts = np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, world.state_size))
    state = explorer.reset({}, {"goal_pixels": image}, [1, 2])
    done = []
    for _ in range(2 * agent.frame_skip):
        state, action = explorer.act(state, {"pixels": image, "state": starts})
        done.append(world.to_unit(action))
    for held in (done[: agent.frame_skip], done[agent.frame_skip :]):
        assert all((action == held[0]).all() for action in held)
    assert (done[0] != done[-1]).any()
    assert state.agent.memory is not None
    torch.testing.assert_close(state.agent.memory.actions[:, -1], torch.from_numpy(done[0]))
    assert (np.abs(done) <= 1).all()


def test_an_explorer_astray_does_what_the_behaviour_policy_does(untrained, tiny, world):
    agent = untrained(tiny(observation_shape=(64, 64, 3))).agent()
    explorer = Explorer(agent, world, Exploration(begin=1.0, end=0.0))
    image, starts = np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, world.state_size))
    state = explorer.reset({}, {"goal_pixels": image}, [1, 2])
    for step in range(3):
        for _ in range(agent.frame_skip):
            state, action = explorer.act(state, {"pixels": image, "state": starts})
        own = world.task.behave(world, starts, state.behaviour[:, step]).clip(-1, 1)
        np.testing.assert_allclose(world.to_unit(action), own, atol=1e-6)


def test_an_explorer_strays_for_a_while_and_comes_back():
    spells = Exploration(begin=0.1, end=0.25).random_steps(np.random.default_rng(0), 20_000)
    begins = int((spells[1:] & ~spells[:-1]).sum())
    assert spells.sum() / begins == pytest.approx(4, rel=0.05)
    assert (~spells).sum() / begins == pytest.approx(10, rel=0.05)


# --------------------------------------------------------------------- a world that changes


def test_the_world_changes_in_the_round_that_was_asked_for(tmp_path):
    out = tmp_path / "run"
    assert train(out, then_vary=("gain=0.2",), then_at=2) == 0
    assert [it["vary"] for it in curve(out)] == [[], [], ["gain=0.2"]]
    made = [shard(out, number)["agent"] for number in (1, 2)]
    assert [it["variation"] for it in made] == [{}, {"gain": [0.2, 0.2]}]
    assert load_checkpoint(out / "best").provenance["round"] == 2  # the world before is gone
    task = find_task("reacher")
    worlds = [World(task), World(task, variation=read_variation("gain=0.2"))]
    dataset = Dataset(out / "data")
    for episode, right in ((0, 0), (EPISODES, 1)):
        states, actions = dataset.episode("state", episode), dataset.episode("action", episode)
        world = worlds[right]
        variants = world.variants([world.draw(np.random.default_rng(0))] * (len(states) - 1))
        after, _ = world.rollout(states[:-1], actions[:-1, None], task.frame_skip, variants)
        np.testing.assert_allclose(after[:, 0], states[1:], atol=1e-12)


# ---------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--online-rounds 3", "--online-rounds needs --online; add it"),
        ("--online --online-rounds 0", "--online-rounds must be at least 1, got 0"),
        ("--online --online-episodes 1", "--online-episodes must be at least 2, got 1"),
        ("--online --world-model x", "--online does not go with --world-model"),
        ("--online --wandb offline", "--online does not go with --wandb"),
        ("--online --actor-updates 7", "--online-rounds 6 cannot share 7 updates"),
    ],
)
def test_flags_that_make_no_sense_are_answered_by_one_line(tmp_path, capsys, flags, message):
    assert main(f"train reacher --out {tmp_path / 'run'} {flags}".split()) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"then_vary": ("mass=2",)}, "give both or none"),
        ({"then_at": 2}, "give both or none"),
        ({"then_vary": ("mass=2",), "then_at": 8}, "then_at must be a round from 1 to 5, got 8"),
        ({"then_vary": ("weight=2",), "then_at": 1}, "unknown factor 'weight'"),
    ],
)
def test_a_change_of_the_world_that_makes_no_sense_is_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        TrainConfig("reacher", tmp_path, online=True, **change)


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_rounds_share_the_updates_and_have_more_where_there_are_more_data(rounds):
    shares = [online_share(2000, number, rounds) for number in range(rounds)]
    assert sum(shares) == 2000
    assert shares == sorted(shares)


def test_short_trainings_are_not_spent_on_warming_up():
    """A round has a share of the updates alone, an actor's may be a few dozen."""
    short = [schedule(update, 20, update / 20) for update in range(20)]
    assert short[0] == pytest.approx(0.5)
    assert min(short[1:10]) > 0.5
    assert schedule(9, 5000, 0.0) == pytest.approx(0.1)
    assert schedule(0, 1, 0.0) == 1
