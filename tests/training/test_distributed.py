"""Several processes train what one trains, and end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import multiprocessing

import mujepa.training.data
from mujepa.agent.actor import ActorConfig
from mujepa.agent.critic import CriticConfig
from mujepa.agent.encoder import EncoderConfig
from mujepa.agent.ensemble import EnsembleConfig
from mujepa.agent.jepa import JEPAConfig
from mujepa.agent.predictor import PredictorConfig
from mujepa.cli.main import main
from mujepa.runtime import distributed
from mujepa.runtime.command import run as run_command
from mujepa.train import train
from mujepa.training.config import TrainConfig
from mujepa.training.data import TrainingData, load_training_data
from mujepa.training.frozen_losses import ActorLossConfig, CriticLossConfig
from mujepa.training.losses import LossConfig, weighted_sum
from mujepa.training.trainer import Training

ROOT = Path(__file__).parents[2]
TOY = """reacher --episodes 12 --updates 12 --ensemble-updates 6 --critic-updates 6
--actor-updates 6 --batch 8 --checkpoint-every 4 --planner.horizon 2 --cost critic --threads 1
--device cpu --learning-rate 1e-4"""
SMALL = {
    "critic_batch": 32, "actor_batch": 12, "imagined": 0.3, "critic_learning_rate": 5e-5,
    "jepa": JEPAConfig(EncoderConfig(dim=8, width=8), PredictorConfig(width=16)),
    "ensemble": EnsembleConfig(width=16), "critic": CriticConfig(width=16),
    "actor": ActorConfig(width=16), "critic_loss": CriticLossConfig(bellman=0.1, contrastive=0.1),
}  # fmt: skip
"""Small steps: Adam's first ones are of the sign of a gradient, be it rounding or not."""


def toy(run: Path, *more: str) -> list[str]:
    return [*TOY.split(), "--out", str(run), *more]


def train_toy(arguments: list[str]) -> int:
    """Run `mujepa train`, with settings that have no flag; torchrun starts this file."""
    return run_command(lambda config: train(replace(config, **SMALL)), TrainConfig, arguments)


@pytest.fixture(scope="module", autouse=True)
def few():
    """Rank costs in few problems."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mujepa.training.data, "RANKED_PAIRS", 3)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "reacher"
    command = f"collect reacher --out {folder} --episodes 12 --steps 12 --workers 1"
    assert main(command.split()) == 0
    return folder


# ------------------------------------------------------------------------------- gradients


@contextmanager
def double_precision():
    """Have everything computed in float64, in which rounding does not hide what is different."""
    unit_actions = TrainingData.unit_actions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(TrainingData, "unit_actions", lambda *args: unit_actions(*args).double())
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


@double_precision()
def one_update(out: Path, data: Path) -> dict[str, torch.Tensor]:
    """Every gradient, term and statistic of one update of each stage, all terms switched on."""
    config = TrainConfig(
        "reacher", out, data, batch=12, critic_batch=32, actor_batch=12, imagined=0.85,
        predictor_updates=1, predictor_batch=12, recipe=False,
        jepa=JEPAConfig(EncoderConfig(dim=8, width=8), PredictorConfig(width=16)),
        loss=LossConfig(variance=1.0, covariance=1.0, temporal_similarity=1.0, directions=16),
        critic=CriticConfig(width=16, features=4),
        critic_loss=CriticLossConfig(bellman=1.0, contrastive=1.0),
        actor=ActorConfig(width=16), actor_loss=ActorLossConfig(behaviour=1.0),
    )  # fmt: skip
    training = Training(config, load_training_data(data, 0.3, 0, torch.device("cpu")))
    found: dict[str, torch.Tensor] = {}
    for spec, stage in zip(training.specs, training.stages, strict=True):
        training.networks.eval()
        modules = stage.modules()
        training.networks.requires_grad_(requires_grad=False)
        modules.requires_grad_(requires_grad=True)
        modules.train()
        terms = stage.terms(3)
        weighted_sum(terms, stage.weights).backward()
        distributed.average_gradients(modules.parameters())
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)  # as the optimiser sees them
        found |= {f"{spec.name}: {it}": value for it, value in distributed.averages(terms).items()}
        found |= {
            f"{spec.name}: {it}": value.grad
            for it, value in modules.named_parameters()
            if value.grad is not None
        }
        found |= {f"{spec.name}: {it}": value.clone() for it, value in modules.named_buffers()}
        modules.zero_grad()
    assert len(found) > 60
    return {name: value.detach() for name, value in found.items()}


def worker(number: int, size: int, meeting: Path, data: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=number, world_size=size
    )
    torch.save(one_update(meeting.parent / "run", data), meeting.parent / f"{number}.pt")
    torch.distributed.destroy_process_group()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if value.is_floating_point():
            assert value.dtype == torch.float64
        torch.testing.assert_close(
            other[name],
            value,
            rtol=1e-9,
            atol=1e-10,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> dict[str, torch.Tensor]:
    return one_update(tmp_path_factory.mktemp("alone") / "run", data)


def test_every_gradient_of_two_processes_is_that_of_one(data, alone, tmp_path):
    """Of all stages and terms; 5 of 32 starting points are seen, which two cannot halve."""
    multiprocessing.spawn(worker, (2, tmp_path / "meeting", data), nprocs=2)
    first, second = (torch.load(tmp_path / f"{it}.pt") for it in range(2))
    assert_same(alone, first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_process_alone_is_given_back_what_it_gives():
    rows = torch.rand(5, 3)
    for function in (distributed.total, distributed.average, distributed.gathered):
        assert function(rows) is rows
    assert rows[distributed.share()].equal(rows)
    assert distributed.largest(0.5) == 0.5


# -------------------------------------------------------------------------------- the whole


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A run of one process."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert train_toy(toy(run, "--data", str(data))) == 0
    assert not torch.distributed.is_initialized()
    return run


def torchrun(data: Path, run: Path) -> subprocess.Popen[str]:
    """Start two processes by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", __file__]
    command += toy(run, "--data", str(data))
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def learned(run: Path) -> dict[str, torch.Tensor]:
    """The weights; what normalisation takes away is no matter of learning, and left out."""
    weights = load_file(run / "last" / "model.safetensors")
    bias = weights.pop("jepa.encoder.project.bias")
    weights["jepa.encoder.normalise.running_mean"] -= bias
    return weights


def assert_learned_the_same(run: Path, trained: Path) -> None:
    one, other = learned(trained), learned(run)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert recorded(run) == recorded(trained)


def recorded(run: Path) -> list[tuple[str, int]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [(record["stage"], record["update"]) for record in map(json.loads, lines)]


def wait_for_a_checkpoint(run: Path, job: subprocess.Popen[str]) -> None:
    while not (run / "last" / "progress.json").exists():
        assert job.poll() is None, job.communicate()
        time.sleep(0.05)


def test_torchrun_trains_the_agent_of_one_process(data, trained, tmp_path):
    run = tmp_path / "run"
    said, complained = (job := torchrun(data, run)).communicate()
    assert job.returncode == 0, complained
    assert said.count("trained in") == 1
    assert {it.name for it in run.iterdir()} == {"best", "last", "metrics.jsonl", "train.json"}
    assert_learned_the_same(run, trained)
    origin = json.loads((run / "last" / "provenance.json").read_text())
    assert origin["processes"] == 2


def test_ctrl_c_leaves_a_checkpoint_from_which_one_process_goes_on(data, trained, tmp_path):
    run = tmp_path / "run"
    job = torchrun(data, run)
    wait_for_a_checkpoint(run, job)
    job.send_signal(signal.SIGINT)
    said, complained = job.communicate(timeout=300)
    assert job.returncode != 0
    assert said.count("--resume goes on") == 1, complained
    assert recorded(run) != recorded(trained)
    assert train_toy(toy(run, "--data", str(data), "--resume")) == 0
    assert_learned_the_same(run, trained)


def children(pid: int) -> dict[str, int]:
    """Processes that torchrun started, by rank."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {it[5:].decode(): int(child) for it in variables if it.startswith(b"RANK=")}
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_killed_process_ends_the_others_and_the_run_goes_on(data, trained, tmp_path):
    run = tmp_path / "run"
    job = torchrun(data, run)
    wait_for_a_checkpoint(run, job)
    there = children(job.pid)
    os.kill(there["1"], signal.SIGKILL)
    _, complained = job.communicate(timeout=300)
    assert job.returncode != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in there.values())
    lines = [line for line in complained.splitlines() if line.startswith("mujepa: ")]
    assert all("--resume goes on" in line for line in lines)
    assert len(lines) <= 1
    assert train_toy(toy(run, "--data", str(data), "--resume")) == 0
    assert_learned_the_same(run, trained)


# ------------------------------------------------------------------------------- bad input


def two(command: list[str]) -> tuple[list[int], list[str]]:
    """Run a command as two processes without torchrun; return exit codes and our lines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    jobs = [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, text=True, stderr=subprocess.PIPE,
            env=os.environ | meeting | {"RANK": number},
        )
        for number in "01"
    ]  # fmt: skip
    complained = [job.communicate(timeout=300)[1] for job in jobs]
    assert not any("Traceback" in text for text in complained)
    lines = [line for text in complained for line in text.splitlines()]
    ours = [line for line in lines if line.startswith("mujepa")]  # torch logs lost connections
    return [job.returncode for job in jobs], ours


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("--batch 7", "--batch 7 cannot be shared equally by 2 processes; take a multiple of 2"),
        ("--batch 0", "--batch must be at least 1, got 0"),
    ],
)
def test_what_all_find_bad_is_said_once(tmp_path, flags, why):
    codes, lines = two(["train.py", *toy(tmp_path / "run", *flags.split())])
    assert codes == [2, 2]
    assert lines == [f"mujepa: {why}"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_what_one_finds_bad_ends_all_with_its_line(number):
    code = f"""
from mujepa.runtime import distributed
from mujepa.runtime.command import run as run_command
from mujepa.train import train
from mujepa.runtime.errors import UserError
with distributed.together():
    if distributed.rank() == {number}:
        raise UserError("this one finds no data")
    distributed.wait()
"""
    codes, lines = two(["-c", code])
    assert codes == [2, 2]
    assert lines == ["mujepa: this one finds no data"]


# ------------------------------------------------------------------------------- precision


def test_bfloat16_learns_nearly_what_float32_learns(data, trained, tmp_path):
    run = tmp_path / "run"
    assert train_toy(toy(run, "--data", str(data), "--precision", "bfloat16")) == 0
    one, other = learned(trained), learned(run)
    assert all(value.dtype == one[name].dtype for name, value in other.items())
    name = "jepa.predictor.change.2.weight"
    assert not torch.equal(one[name], other[name])
    torch.testing.assert_close(one[name], other[name], rtol=0.05, atol=0.02)
    assert train_toy(toy(run, "--data", str(data), "--resume")) == 2  # as begun


if __name__ == "__main__":
    mujepa.training.data.RANKED_PAIRS = 3
    sys.exit(train_toy(sys.argv[1:]))
