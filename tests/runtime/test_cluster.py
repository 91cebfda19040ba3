"""A cluster computes what one process does, to the byte; a lost worker's job runs again."""

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
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.cli.main import main
from mujepa.runtime import cluster as module
from mujepa.runtime.cluster import Caller, connect, perform
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import sha256
from mujepa.runtime.parallel import Pool

ray = pytest.importorskip("ray", reason="pip install 'mujepa[cluster]'")
pytestmark = pytest.mark.filterwarnings("ignore:::ray.*", "ignore::ResourceWarning")

TOY = """--episodes 12 --updates 12 --critic-updates 4 --ensemble-updates 4 --actor-updates 4
--batch 8 --checkpoint-every 4 --threads 1 --device cpu"""
PRETRAINED = Path(__file__).parents[2] / "pretrained" / "reacher"


@pytest.fixture(scope="module")
def here():
    """Ray on this machine, for all tests of this file: every `--cluster local` joins it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    with connect("local", 2) as cluster:
        yield cluster
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


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
    """The records of metrics.jsonl without their times."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


# ------------------------------------------------------------------------------------ jobs


def describe(number: int) -> tuple[int, str, str]:
    return number**2, str(Path.cwd()), sys.argv[0]


def die_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def refuse(number: int) -> None:
    raise UserError(f"{number} is invalid; take another")


def dawdle(path: str | None) -> None:
    if path:
        Path(path).touch()
        for _ in range(6000):  # Ray interrupts a job between two instructions, not in a long sleep
            time.sleep(0.1)


def test_jobs_run_with_the_folder_and_command_line_of_the_caller(here):
    found = dict(here.map(describe, [(number,) for number in range(3)]))
    assert found == {number: (number**2, str(Path.cwd()), sys.argv[0]) for number in range(3)}


def test_the_job_of_a_lost_worker_runs_again(here, tmp_path):
    assert dict(here.map(die_once, [(str(tmp_path / "died"),)])) == {0: "done"}
    assert (tmp_path / "died").exists()


def test_an_error_of_a_job_is_raised_here(here):
    with pytest.raises(UserError, match="3 is invalid; take another"):
        list(here.map(refuse, [(3,)]))


def test_closing_the_iterator_interrupts_the_jobs(here, tmp_path):
    began, slow = time.monotonic(), tmp_path / "slow"
    with closing(here.map(dawdle, [(str(slow),), (None,)])) as running:
        assert next(running)[0] == 1
        while not slow.exists():
            time.sleep(0.01)
    assert time.monotonic() - began < 300
    assert len(list(here.map(describe, [(number,) for number in range(2)]))) == 2


def test_a_worker_without_the_caller_s_folder_or_version_says_so(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist on .* that all machines"):
        perform(Caller(folder=str(tmp_path / "nowhere")), describe, 1)
    with pytest.raises(UserError, match=r"the caller has 0\.0; install the same version"):
        perform(Caller(version="0.0"), describe, 1)


# ------------------------------------------------------------------------------- commands


def test_a_cluster_collects_the_same_bytes_and_nothing_twice(here, tmp_path):
    command = f"collect reacher --out {tmp_path}/FOLDER --episodes 130 --steps 8"
    for folder, more in (("plain", "--workers 1"), ("spread", "--cluster local")):
        assert main([*command.replace("FOLDER", folder).split(), *more.split()]) == 0
    spread = tmp_path / "spread"
    assert content(spread) == content(tmp_path / "plain")
    before = {path: path.stat().st_mtime_ns for path in spread.rglob("*.npy")}
    assert main([*command.replace("FOLDER", "spread").split(), "--cluster", "local"]) == 0
    assert {path: path.stat().st_mtime_ns for path in spread.rglob("*.npy")} == before


def test_a_cluster_evaluates_with_the_same_result(here, tmp_path):
    """In parts of 50 episodes, of which the last is smaller; whatever threads there are here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    found = []
    for more in ((), ("--cluster", "local")):
        command = f"""evaluate {PRETRAINED} --out {tmp_path}/out --episodes 52 --no-oracle
        --device cpu --planner samples=8,iterations=1,elites=2""".split()
        assert main([*command, *more]) == 0
        found.append(json.loads((tmp_path / "out" / "result.json").read_text()))
    torch.set_num_threads(threads)
    for result in found:
        for name in ("plan_ms", "reactive_ms", "wall_s", "command"):
            del result[name]
    assert found[0] == found[1]
    assert list(found[0]["baselines"]) == list(found[1]["baselines"])


@contextmanager
def killing(task: str, moment) -> Iterator[None]:
    """Kill -9 the worker that is at work on a task, at a moment."""

    def kill() -> None:
        while not (moment() and (found := list(workers(task)))):
            time.sleep(0.005)
        os.kill(found[0], signal.SIGKILL)

    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(kill)
        yield
        killed.result(timeout=1)


def workers(task: str) -> Iterator[int]:
    """Yield the processes of our own Ray that are at work on a task now."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            title = (folder / "cmdline").read_bytes().partition(b"\0")[0]
            if title == f"ray::{task}".encode() and os.getpid() in ancestors(int(folder.name)):
                yield int(folder.name)


def ancestors(process: int) -> Iterator[int]:
    while process > 1:
        status = Path(f"/proc/{process}/status").read_text()
        process = int(status.partition("PPid:")[2].split()[0])
        yield process


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
    assert f"mujepa evaluate {run}" in capsys.readouterr().out
    provenance = json.loads((run / "best" / "provenance.json").read_text())
    assert "default_worker" not in provenance["command"]


def test_processes_of_ray_train_train_together(here, trained, data, tmp_path, capfd):
    run = tmp_path / "run"
    command = f"train reacher --out {run} --data {data} {TOY} --cluster local --processes 2"
    assert main(command.split()) == 0
    assert {path.name for path in run.iterdir()} == {path.name for path in trained.iterdir()}
    load_checkpoint(run)
    ours, alone = records(run), records(trained)
    assert [list(one) for one in ours] == [list(one) for one in alone]
    np.testing.assert_allclose(ours[0]["prediction"], alone[0]["prediction"], rtol=0.05)
    assert f"mujepa evaluate {run}" in capfd.readouterr().out


def test_an_error_of_the_training_is_one_line(here, data, tmp_path, capfd):
    command = f"train reacher --out {tmp_path / 'run'} --data {data} {TOY} --cluster local"
    assert main([*command.split(), "--learning-rate", "1e30"]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("mujepa: training stopped: ")


# ---------------------------------------------------------------------- without a cluster


def test_without_a_cluster_processes_of_this_machine_work_and_ray_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with connect(None, 3) as workers:
        assert workers == Pool(3)


@pytest.mark.parametrize(
    "command",
    [
        "collect reacher --out {out} --cluster local",
        "train reacher --out {out} --data {out} --cluster local",
        f"evaluate {PRETRAINED} --out {{out}} --cluster local",
        "sweep reacher --out {out} --data {out} --try batch=4,8",
    ],
)
def test_without_ray_it_is_said_how_to_get_it(command, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    assert main(command.format(out=out).split()) == 2
    said = capfd.readouterr().err.splitlines()
    assert said == ["mujepa: --cluster needs Ray; pip install 'mujepa[cluster]'"]
    assert not out.exists()


@pytest.mark.parametrize("where", ["cloud", "ray://", "ray://host", "http://host:1"])
def test_an_invalid_address_is_refused(where, tmp_path, capfd):
    assert main(f"collect reacher --out {tmp_path / 'data'} --cluster {where}".split()) == 2
    assert f"--cluster {where} is not local, auto or ray://" in capfd.readouterr().err


def test_a_cluster_that_cannot_be_reached_is_an_error_of_one_line():
    """Nobody listens at the first port; at the second somebody who never answers."""
    with socket.socket() as silent, socket.socket() as free:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        free.bind(("127.0.0.1", 0))
        nobody, somebody = free.getsockname()[1], silent.getsockname()[1]
        free.close()
        code = f"""
import os, {module.__name__} as cluster
cluster.PATIENCE = 2
for where in ("ray://127.0.0.1:{nobody}", "auto"):
    try:
        with cluster.connect(where):
            pass
    except cluster.UserError as error:
        print(error, flush=True)
os._exit(0)
"""
        environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{somebody}"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
            env=environment,
        )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first.startswith(f"no cluster can be reached at ray://127.0.0.1:{nobody} (")
    assert second.startswith(f"no cluster can be reached at 127.0.0.1:{somebody} (")
