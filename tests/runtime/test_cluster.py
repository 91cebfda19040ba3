"""Many workers do what one does, to the byte; and what is lost with one of them is done again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from mujepa.cli.main import main
from mujepa.runtime.cluster import connect
from mujepa.runtime.files import sha256

ray = pytest.importorskip("ray", reason="pip install 'mujepa[cluster]'")
pytestmark = pytest.mark.filterwarnings("ignore:::ray.*", "ignore::ResourceWarning")

TOY = """--episodes 12 --updates 12 --critic-updates 4 --ensemble-updates 4 --actor-updates 4
--batch 8 --checkpoint-every 4 --threads 1 --device cpu"""

ROOT = Path(__file__).parents[2]
PRETRAINED = ROOT / "pretrained" / "reacher"


@pytest.fixture(scope="module")
def here():
    """Ray on this machine, for all tests of this file: every `--cluster local` joins it."""
    with connect("local", 2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "reacher"
    assert main(f"collect reacher --out {folder} --episodes 12 --workers 1".split()) == 0
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "trained"
    assert main(f"train reacher --out {run} --data {data} {TOY}".split()) == 0
    return run


def content(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Checksum of every file below a folder."""
    files = (path for path in sorted(folder.rglob(pattern)) if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def records(run: Path) -> list[dict]:
    """What metrics.jsonl says, but for the time that it took."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def workers(task: str) -> list[int]:
    """Return the processes of our own Ray that are at work on a task now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            title = (folder / "cmdline").read_bytes().partition(b"\0")[0]
            if title == f"ray::{task}".encode() and os.getpid() in ancestors(int(folder.name)):
                found.append(int(folder.name))
    return found


def ancestors(process: int) -> Iterator[int]:
    while process > 1:
        status = Path(f"/proc/{process}/status").read_text()
        process = int(status.partition("PPid:")[2].split()[0])
        yield process


def wait_for(what, seconds: float = 300):
    """Return what a function returns as soon as that is anything."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


@contextmanager
def killing(task: str, moment=lambda: True) -> Iterator[None]:
    """Kill -9 one worker that is at work on a task, at a moment."""
    with ThreadPoolExecutor(1) as thread:

        def kill() -> int:
            wait_for(moment)
            process = wait_for(lambda: workers(task))[0]
            os.kill(process, signal.SIGKILL)
            return process

        killed = thread.submit(kill)
        yield
        assert not Path(f"/proc/{killed.result(timeout=1)}").exists()


# ----------------------------------------------------------------------------- collection


def collect(folder: Path, *more: str) -> int:
    command = f"collect reacher --out {folder} --episodes 300 --steps 25 --workers 2"
    return main([*command.split(), *more])


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "collected"
    assert collect(folder) == 0
    return folder


def test_a_cluster_collects_the_same_bytes_though_a_worker_is_killed(here, collected, tmp_path):
    folder = tmp_path / "data"
    with killing("collect_shard", lambda: (folder / "meta.json").exists()):
        assert collect(folder, "--cluster", "local") == 0
    assert content(folder) == content(collected)


def test_what_is_there_already_is_not_collected_again_on_a_cluster(here, collected):
    before = {path: path.stat().st_mtime_ns for path in collected.rglob("*.npy")}
    assert collect(collected, "--cluster", "local") == 0
    assert {path: path.stat().st_mtime_ns for path in collected.rglob("*.npy")} == before


# ----------------------------------------------------------------------------- evaluation


def evaluate(out: Path, *more: str) -> dict:
    command = f"""evaluate {PRETRAINED} --out {out} --episodes 60 --oracle-episodes 2 --device cpu
    --planner samples=16,iterations=1"""
    assert main([*command.split(), *more]) == 0
    return json.loads((out / "result.json").read_text())


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_a_cluster_finds_the_same_though_a_worker_is_killed(here, two_threads, tmp_path):
    """In parts of 50 episodes, of which the last is smaller; whatever threads there are here."""
    plain = evaluate(tmp_path / "plain")
    with killing("run_shard"):
        spread = evaluate(tmp_path / "spread", "--cluster", "local")
    free = {"plan_ms", "reactive_ms", "wall_s", "command"}
    assert {k: v for k, v in spread.items() if k not in free} == {
        k: v for k, v in plain.items() if k not in free
    }
    assert list(spread["baselines"]) == list(plain["baselines"])


# -------------------------------------------------------------------------------- training


def test_a_cluster_trains_the_same_agent_though_its_worker_is_killed(
    here, trained, data, tmp_path, capsys
):
    run = tmp_path / "run"
    command = f"train reacher --out {run} --data {data} {TOY} --cluster local"
    with killing("learn_quietly", lambda: (run / "last").exists()):
        assert main(command.split()) == 0
    assert content(run, "*.safetensors") == content(trained, "*.safetensors")
    assert records(run) == records(trained)
    assert {path.name for path in run.iterdir()} == {path.name for path in trained.iterdir()}
    assert f"judge it with: mujepa evaluate {run}" in capsys.readouterr().out
    provenance = json.loads((run / "best" / "provenance.json").read_text())
    assert "default_worker" not in provenance["command"]


def test_processes_of_ray_train_train_what_those_of_torchrun_do(here, data, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    command = f"train reacher --out {run} --data {data} {TOY} --cluster local --processes 2"
    assert main(command.split()) == 0
    script = f"train.py reacher --out {other} --data {data} {TOY}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, *script.split()], check=True, cwd=ROOT, capture_output=True)
    assert content(run, "*.safetensors") == content(other, "*.safetensors")
    assert {path.name for path in run.iterdir()} == {path.name for path in other.iterdir()}


def test_what_a_worker_cannot_do_is_said_in_one_line(here, data, tmp_path, capfd):
    command = f"train reacher --out {tmp_path / 'run'} --data {data} {TOY} --cluster local"
    assert main([*command.split(), "--learning-rate", "1e30"]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("mujepa: training stopped: ")


# -------------------------------------------------------------------------- without a cluster


def test_ray_is_not_imported_unless_a_cluster_is_asked_for(trained, tmp_path):
    code = f"""
import sys
from mujepa.cli.main import main
command = "evaluate {trained} --episodes 1 --no-oracle --actor reactive --out {tmp_path}"
assert main(command.split()) == 0
import mujepa.cli.collect, mujepa.train, mujepa.cli.sweep
assert not [name for name in sys.modules if name.partition(".")[0] == "ray"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "collect reacher --out {out} --cluster local",
        "train reacher --out {out} --data {out} --cluster local",
        "evaluate {trained} --out {out} --cluster local",
        "sweep reacher --out {out} --data {out} --try batch=4,8",
    ],
)
def test_without_ray_it_is_said_how_to_get_it(command, trained, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    assert main(command.format(out=out, trained=trained).split()) == 2
    said = capfd.readouterr().err.splitlines()
    assert said == ["mujepa: --cluster needs Ray; pip install 'mujepa[cluster]'"]
    assert not out.exists()


@pytest.mark.parametrize("where", ["cloud", "ray://", "ray://host", "http://host:1"])
def test_a_cluster_that_is_none_is_refused(where, tmp_path, capfd):
    assert main(f"collect reacher --out {tmp_path / 'data'} --cluster {where}".split()) == 2
    assert f"--cluster {where} is not local, auto or ray://" in capfd.readouterr().err


def test_a_cluster_that_cannot_be_reached_is_reported_in_one_line(tmp_path):
    """Nobody listens at the one port; at the other somebody does who never says a word."""
    with socket.socket() as silent, socket.socket() as free:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        free.bind(("127.0.0.1", 0))
        nobody, somebody = free.getsockname()[1], silent.getsockname()[1]
        free.close()
        for address in (f"ray://127.0.0.1:{nobody}", f"127.0.0.1:{somebody}"):
            client = address.startswith("ray")
            folder = tmp_path / "data"
            command = f"collect reacher --out {folder} --cluster {address if client else 'auto'}"
            code = f"""
import sys, mujepa.runtime.cluster
from mujepa.cli.main import main
mujepa.runtime.cluster.PATIENCE = 3
sys.exit(main({command.split()!r}))
"""
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                env=os.environ | ({} if client else {"RAY_ADDRESS": address}),
            )  # fmt: skip
            assert done.returncode == 2
            assert done.stderr.splitlines()[-1].startswith(
                f"mujepa: no cluster can be reached at {address} ("
            )
            assert "Traceback" not in done.stderr
            assert not folder.exists()
