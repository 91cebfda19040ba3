"""collect -> train -> evaluate -> visualize at toy size: what they leave, and what survives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import mujepa
import mujepa.evaluate
import mujepa.train
from mujepa.agent.checkpoint import load_checkpoint
from mujepa.agent.critic import CriticConfig
from mujepa.cli.main import main
from mujepa.planners import CEM, PlannerConfig
from mujepa.rollouts.store import Dataset
from mujepa.runtime.command import run as run_command
from mujepa.runtime.files import sha256
from mujepa.training.config import TrainConfig
from mujepa.training.data import LatentDataset, load_training_data
from mujepa.training.frozen_losses import CriticLossConfig
from mujepa.training.schedule import Clock
from mujepa.training.trainer import make_stage
from mujepa.training.validation import COSTS, choose_cost

UPDATES, EVERY = 20, 8
STAGES = ("world model", "ensemble", "critic", "actor")


def train(out: Path, data: Path, *more: str, **settings: Any) -> int:
    """Run `mujepa train`, with settings that have no flag."""
    toy = f"""--episodes 12 --updates {UPDATES} --critic-updates {UPDATES} --batch 8
    --ensemble-updates {UPDATES} --actor-updates {UPDATES}
    --checkpoint-every {EVERY} --threads 1 --device cpu""".split()
    small = {"actor_batch": 12, "critic_batch": 32} | settings
    return run_command(
        lambda config: mujepa.train.train(replace(config, **small)), TrainConfig,
        ["reacher", "--out", str(out), "--data", str(data), *toy, *more],
    )  # fmt: skip


def evaluate(run: Path, out: Path, *more: str) -> dict:
    toy = "--episodes 4 --oracle-episodes 2 --planner samples=16,iterations=2 --device cpu"
    command = f"evaluate {run} --out {out} {toy}"
    assert main([*command.split(), *more]) == 0
    return json.loads((out / "result.json").read_text())


def weights(run: Path) -> dict[str, str]:
    """Checksums of all tensors of a run."""
    return {str(path.relative_to(run)): sha256(path) for path in sorted(run.rglob("*.safetensors"))}


def records(run: Path) -> list[dict]:
    """What metrics.jsonl says, but for the time that it took."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def progress(run: Path) -> dict:
    return json.loads((run / "last" / "progress.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def few():
    """Rank costs in few problems."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mujepa.training.data, "RANKED_PAIRS", 3)
        patch.setattr(mujepa.training.data, "START_GOAL_PAIRS", 12)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "reacher"
    command = f"collect reacher --out {folder} --episodes 12 --steps 16 --workers 1"
    assert main(command.split()) == 0
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    assert train(run, data) == 0
    return run


# ------------------------------------------------------------------------- from end to end


def test_from_nothing_to_a_video_in_four_commands(tmp_path, monkeypatch, capsys):
    """With the default folders; training collects what is missing."""
    monkeypatch.chdir(tmp_path)
    toy = """--updates 3 --critic-updates 3 --ensemble-updates 3 --actor-updates 3 --batch 4
    --threads 1"""
    for command in (
        "collect reacher --out data/reacher-seed0 --episodes 10",
        f"train reacher --out runs/a --episodes 15 {toy}",
        "evaluate runs/a --episodes 2 --no-oracle --planner samples=16,iterations=1",
        "visualize runs/a --every 10 --decoder-updates 2 --out episode.mp4",
    ):
        assert main(command.split()) == 0
    assert len(Dataset(Path("data/reacher-seed0"))) == 15
    assert {path.name for path in Path("runs/a/evaluation").iterdir()} == {
        "result.json", "report.html", "episode.mp4", "episodes"
    }  # fmt: skip
    assert Path("episode.mp4").stat().st_size > 1000
    said = capsys.readouterr().out
    for line in ("15 episodes", "trained in", "success within 5.0 cm", "final distance"):
        assert line in said


def test_a_trained_agent_acts_in_its_environment(trained):
    agent = mujepa.load(trained, "cpu")
    env = mujepa.envs.gym.GoalEnv("reacher")
    observation, info = env.reset(seed=0)
    state = agent.reset(info["goal_pixels"])
    for _ in range(5):
        state, action = agent.act(state, observation["pixels"])
        assert action in env.action_space
        observation, *_ = env.step(action)


def test_an_agent_can_be_loaded_with_another_cost_actor_and_planner(trained):
    planner = PlannerConfig("cem", horizon=3)
    agent = mujepa.load(trained, "cpu", cost="goal.min", actor="planner", planner=planner)
    assert agent.configurator.cost.weights == {"goal.min": 1}
    assert agent.actor is None
    assert isinstance(agent.planner, CEM)
    assert agent.planner.horizon == 3


def test_a_video_shows_goal_and_reality_side_by_side_for_the_whole_episode(trained, tmp_path):
    for name, every, frames in (("a.mp4", 5, 21), ("b.gif", 20, 6)):
        path = tmp_path / "new" / name
        command = f"visualize {trained} --out {path} --every {every} --decoder-updates 0"
        assert main(command.split()) == 0
        video = iio.imread(path)
        assert video.shape == (frames, 256 + 56, 2 * 256 + 8, 3)
        assert (video[0, 30:256, :256] != video[0, 30:256, -256:]).any()


# -------------------------------------------------------------------------------- training


def test_a_run_holds_what_is_needed_to_use_it_and_to_go_on(trained, data):
    assert {path.name for path in trained.iterdir()} == {
        "best", "last", "metrics.jsonl", "train.json"
    }  # fmt: skip
    checkpoint = {"config.json", "model.safetensors", "provenance.json"}
    assert {path.name for path in (trained / "best").iterdir()} == checkpoint
    assert {path.name for path in (trained / "last").iterdir()} == checkpoint | {
        "progress.json", "training.safetensors"
    }  # fmt: skip
    provenance = json.loads((trained / "best" / "provenance.json").read_text())
    assert provenance["data"] == {"digest": Dataset(data).digest, "frames": 12 * 17}
    assert provenance["seed"] == 0
    assert provenance["versions"]["torch"] == torch.__version__
    assert set(provenance["cost_ranks"]) == set(COSTS)
    assert load_checkpoint(trained).config.cost == choose_cost(provenance["cost_ranks"])


def test_each_stage_is_recorded_at_every_checkpoint_and_at_its_end(trained):
    there = [(record["stage"], record["update"]) for record in records(trained)]
    assert there == [(stage, update) for stage in STAGES for update in (8, 16, 20)]
    for record in records(trained):
        terms = {"ensemble": "members", "critic": "temporal", "actor": "imagined"}
        assert np.isfinite(record[terms.get(record["stage"], "prediction")])
        assert np.isfinite(record["score"])
        if record["stage"] in ("world model", "critic"):
            assert -1 <= record["distance_correlation"] <= 1


def test_the_later_stages_leave_the_world_model_alone(trained, data, tmp_path):
    assert train(tmp_path / "other", data, critic_learning_rate=0.01) == 0
    one, two = (load_checkpoint(run / "last").networks for run in (trained, tmp_path / "other"))
    for (name, left), right in zip(
        one.state_dict().items(), two.state_dict().values(), strict=True
    ):
        learned_later = name.partition(".")[0] in ("ensemble", "critic", "actor")
        assert torch.equal(left, right) == (not learned_later), name


class Crash(BaseException):
    """What a power cut would be, as far as files are concerned."""


def test_strangers_stand_still_for_the_critic_as_goals_do(data, untrained, tiny, monkeypatch):
    """Otherwise rushing past the goal looks like being there, where speed counts."""
    critic = CriticConfig(history=2, width=16, features=4)
    networks = untrained(tiny(critic=critic, observation_shape=(64, 64, 3))).networks
    latents = LatentDataset(load_training_data(data, 0.3, 0, torch.device("cpu")), networks.jepa)
    config = TrainConfig("reacher", data, critic_batch=64)
    stage = make_stage("critic", config, latents, networks)
    seen = []
    monkeypatch.setattr(CriticLossConfig, "terms", lambda self, batch: seen.append(batch) or {})
    stage.terms(0)
    starts, strangers = seen[0].starts, seen[0].strangers
    assert (starts[:, 0] != starts[:, 1]).any()
    assert (strangers[:, 0] == strangers[:, 1]).all()


def crash_at_update(stage: str, update: int):
    def install(patch: pytest.MonkeyPatch) -> None:
        check = mujepa.training.trainer.Training._check_finite

        def dying(self, values, at, now) -> None:
            if (at, now) == (stage, update):
                raise Crash
            check(self, values, at, now)

        patch.setattr(mujepa.training.trainer.Training, "_check_finite", dying)

    return install


def crash_while_saving(number: int, moment: str):
    """Die in the n-th `last`: before it is written, between its two renames, or right after."""

    def install(patch: pytest.MonkeyPatch) -> None:
        save, rename = mujepa.training.trainer.save_progress, Path.replace
        saved = []

        def dying_rename(path: Path, target: Path) -> Path:
            if path.name.startswith(".last"):
                raise Crash
            return rename(path, target)

        def dying_save(*arguments) -> None:
            saved.append(None)
            if len(saved) == number and moment == "before":
                raise Crash
            if len(saved) == number and moment == "between":
                patch.setattr(Path, "replace", dying_rename)
            save(*arguments)
            if len(saved) == number and moment == "after":
                raise Crash

        patch.setattr(mujepa.training.trainer, "save_progress", dying_save)

    return install


def test_a_predictor_that_goes_on_alone_is_resumed_like_all_others(data, tmp_path, monkeypatch):
    more = ("--predictor-updates", "10", "--planner.horizon", "60")  # longer than the episodes
    few = {"predictor_batch": 8}
    assert train(tmp_path / "whole", data, *more, **few) == 0
    with monkeypatch.context() as patch:
        crash_at_update("predictor", 9)(patch)
        with pytest.raises(Crash):
            train(tmp_path / "run", data, *more, **few)
    assert train(tmp_path / "run", data, *more, "--resume", **few) == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    stages = dict.fromkeys(record["stage"] for record in records(tmp_path / "run"))
    assert tuple(stages) == ("world model", "predictor", *STAGES[1:])
    assert load_checkpoint(tmp_path / "run").config.cost in COSTS


CRASHES = {  # and the updates that are left
    "before the first checkpoint": (crash_at_update("world model", 3), 80),
    "in the world model": (crash_at_update("world model", 13), 72),
    "while the world model is saved": (crash_while_saving(2, "between"), 72),
    "after a record, before its checkpoint": (crash_while_saving(2, "before"), 72),
    "at the end of the world model, before it is saved": (crash_while_saving(3, "before"), 64),
    "at the end of the world model, once it is saved": (crash_while_saving(3, "after"), 60),
    "in the ensemble": (crash_at_update("ensemble", 13), 52),
    "in the critic": (crash_at_update("critic", 13), 32),
    "while the critic is saved": (crash_while_saving(8, "between"), 32),
    "in the actor": (crash_at_update("actor", 13), 12),
    "at the very end": (crash_while_saving(12, "after"), 0),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_crashed_run_is_resumed_as_if_nothing_had_happened(
    trained, data, tmp_path, monkeypatch, name
):
    run, (crash, left) = tmp_path / "run", CRASHES[name]
    with monkeypatch.context() as patch:
        crash(patch)
        with pytest.raises(Crash):
            train(run, data)
    advance, steps = Clock.advance, []
    monkeypatch.setattr(Clock, "advance", lambda *args: steps.append(None) or advance(*args))
    assert train(run, data, "--resume") == 0
    assert len(steps) == left
    assert weights(run) == weights(trained)
    assert records(run) == records(trained)


@pytest.mark.parametrize(("stage", "update"), [(3, 16)])
def test_a_run_killed_with_kill_9_is_resumed_as_if_nothing_had_happened(
    trained, data, tmp_path, stage, update
):
    """The process kills itself right after a checkpoint, in the middle of the next updates."""
    run = tmp_path / "run"
    code = f"""
import os, signal, sys
import mujepa.training.trainer
import mujepa.train
from mujepa.cli.main import main
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_scripts import train
from pathlib import Path
import mujepa.training.data
mujepa.training.data.RANKED_PAIRS, mujepa.training.data.START_GOAL_PAIRS = 3, 12
check = mujepa.training.trainer.Training._check_finite
def dying(self, values, at, now):
    if (self.progress.stage, now) == ({stage}, {update} + 2):
        os.kill(os.getpid(), signal.SIGKILL)
    check(self, values, at, now)
mujepa.training.trainer.Training._check_finite = dying
train(Path({str(run)!r}), Path({str(data)!r}))
"""
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert (progress(run)["stage"], progress(run)["update"]) == (stage, update)
    assert train(run, data, "--resume") == 0
    assert weights(run) == weights(trained)
    assert records(run) == records(trained)


@pytest.mark.parametrize(
    ("stage", "number"),
    [("world model", signal.SIGINT), ("critic", signal.SIGTERM)],
)
def test_ctrl_c_saves_between_updates_and_the_run_goes_on_the_same(
    trained, data, tmp_path, monkeypatch, capsys, stage, number
):
    run = tmp_path / "run"
    check = mujepa.training.trainer.Training._check_finite

    def interrupt(self, values, at, now) -> None:
        if (at, now) == (stage, 12):
            signal.raise_signal(number)
        check(self, values, at, now)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(mujepa.training.trainer.Training, "_check_finite", interrupt)
        assert train(run, data) == 130
    assert signal.getsignal(number) is before
    assert "--resume goes on" in capsys.readouterr().out
    assert progress(run)["update"] == 13
    load_checkpoint(run)
    assert train(run, data, "--resume") == 0
    assert weights(run) == weights(trained)
    assert records(run) == records(trained)


def test_ctrl_c_before_the_first_checkpoint_leaves_a_usable_one(data, tmp_path, monkeypatch):
    check = mujepa.training.trainer.Training._check_finite

    def interrupt(self, values, at, now) -> None:
        signal.raise_signal(signal.SIGINT)
        check(self, values, at, now)

    monkeypatch.setattr(mujepa.training.trainer.Training, "_check_finite", interrupt)
    assert train(tmp_path / "run", data) == 130
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.config.cost == "goal"  # there is no critic yet
    image = np.zeros((64, 64, 3), np.uint8)
    agent = checkpoint.agent()
    agent.act(agent.reset(image), image)


def test_a_run_is_not_resumed_on_data_that_have_changed(trained, data, tmp_path, capfd):
    run = shutil.copytree(trained, tmp_path / "run")
    grown = shutil.copytree(data, tmp_path / "grown")
    command = f"collect reacher --out {grown} --episodes 40 --steps 16 --workers 1"
    assert main(command.split()) == 0
    settings = json.loads((run / "train.json").read_text())
    (run / "train.json").write_text(json.dumps(settings | {"data": str(grown)}))
    assert train(run, grown, "--resume") == 2
    assert "the dataset is not the one" in capfd.readouterr().err.splitlines()[-1]
    assert weights(run) == weights(trained)


def test_minutes_stop_each_stage_early_and_all_are_still_trained(data, tmp_path):
    run = tmp_path / "run"
    many = [f"--{name}updates" for name in ("", "ensemble-", "critic-", "actor-")]
    more = ["--minutes", "0.02", "--checkpoint-every", "100000"]
    assert train(run, data, *more, *(word for flag in many for word in (flag, "100000"))) == 0
    assert tuple(record["stage"] for record in records(run)) == STAGES
    assert all(0 < record["update"] < 1000 for record in records(run))
    assert load_checkpoint(run).config.cost in COSTS


@pytest.mark.parametrize("every", ["1", "1000"])
def test_a_loss_that_explodes_ends_the_run_in_one_line_that_names_it(data, tmp_path, capfd, every):
    run = tmp_path / "run"
    assert train(run, data, "--learning-rate", "1e30", "--checkpoint-every", every) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("mujepa: training stopped: ")
    assert " of the world model is " in line
    assert "lower learning rate" in line


def test_a_later_stage_that_explodes_leaves_the_checkpoint_before_it(
    trained, data, tmp_path, capfd
):
    run = tmp_path / "run"
    assert train(run, data, critic_learning_rate=1e30) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("mujepa: training stopped: ")
    assert " of the ensemble is " in line
    assert str(run) in line
    assert progress(run)["stage"] <= 1
    for name in ("last", "best"):
        networks = load_checkpoint(run / name).networks
        for tensor in networks.state_dict().values():
            assert torch.isfinite(tensor.float()).all()
    assert records(run) == [r for r in records(trained) if r["stage"] == "world model"]


def test_a_world_model_that_is_kept_leads_to_the_agent_of_the_whole_run(trained, data, tmp_path):
    run = tmp_path / "run"
    assert train(run, data, "--world-model", str(trained)) == 0
    assert weights(run) == weights(trained)
    assert records(run) == [r for r in records(trained) if r["stage"] != "world model"]
    origin = json.loads((run / "best" / "provenance.json").read_text())
    made = json.loads((trained / "best" / "provenance.json").read_text())
    assert origin["world_model"] == {"checkpoint": str(trained)} | made
    evaluate(run, tmp_path / "out", "--no-oracle")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "rank correlation" in page
    assert "open-loop error" not in page  # no curve without points


def test_a_world_model_of_other_settings_is_not_kept(trained, data, tmp_path, capfd):
    run = tmp_path / "run"
    assert train(run, data, "--world-model", str(trained), "--jepa.encoder.dim", "8") == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"mujepa: the world model of {trained} has jepa ")
    assert not (run / "last").exists()


def test_wandb_offline_writes_a_run_without_an_account(data, tmp_path, monkeypatch):
    for name, value in {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("WANDB_API")]:
        monkeypatch.delenv(name)
    run = tmp_path / "run"
    assert train(run, data, "--wandb", "offline") == 0
    (written,) = (run / "wandb").glob("offline-run-*/*.wandb")
    assert b"prediction" in written.read_bytes()
    assert len(records(run)) == 12
