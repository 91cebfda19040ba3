"""Datasets at URLs are read as local ones are, whatever happens to network, server and cache."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.cli.main import main
from mujepa.rollouts import remote
from mujepa.rollouts.collection import collect_shards, make_spec
from mujepa.rollouts.remote import Cache
from mujepa.rollouts.store import COLUMNS, Dataset, DatasetSpec, write_meta, write_shard
from mujepa.runtime.errors import UserError
from mujepa.runtime.parallel import Pool

SHARDS, EPISODES, FRAMES = 4, 3, 8
PIXELS = EPISODES * FRAMES * 16 * 16 * 3 + 128
"""Bytes of a column of images."""
TOY = """--updates 2 --critic-updates 2 --ensemble-updates 2 --actor-updates 2 --batch 4
--critic-batch 8 --actor-batch 6 --threads 1"""


class Handler(SimpleHTTPRequestHandler):
    """Counts what is asked for, and misbehaves where the server says so."""

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        if self.path.endswith(self.server.breaks) and self.server.faults:
            self.server.faults -= 1
            size = (Path(self.directory) / self.path.lstrip("/")).stat().st_size
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(bytes(size // 2))
            self.wfile.flush()
            time.sleep(self.server.pause)
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


class Server:
    """A real one, on this machine."""

    def __init__(self, folder: Path) -> None:
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        self.http.asked, self.http.breaks, self.http.faults = Counter(), "nothing", 0
        self.http.pause = 0.0
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def write_toy(folder: Path, shards: int = SHARDS) -> None:
    rng = np.random.default_rng(0)
    frames, names = EPISODES * FRAMES, [f"shard-{number:05d}" for number in range(shards)]
    for name in names:
        columns = {
            "pixels": rng.integers(256, size=(frames, 16, 16, 3)).astype(np.uint8),
            "action": rng.standard_normal((frames, 1)).astype(np.float32),
            "state": rng.standard_normal((frames, 5)),
            "achieved": rng.standard_normal((frames, 2)),
        }
        write_shard(folder / name, columns, [FRAMES] * EPISODES)
    write_meta(folder, DatasetSpec("toy", 0, 16, 2, 7, {}, [-1.0], [1.0]), names)


@pytest.fixture
def folder(tmp_path) -> Path:
    write_toy(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def server(folder):
    running = Server(folder)
    yield running
    running.stop()


@pytest.fixture
def at_once(monkeypatch):
    """Do not wait between attempts."""
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))


def everything(dataset: Dataset, column: str = "pixels") -> np.ndarray:
    return dataset.gather(column, np.arange(len(dataset)), np.zeros(len(dataset), int), FRAMES)


def cached(cache: Cache) -> int:
    """Bytes in the files of a cache; it holds whole ones only."""
    files = list((cache.folder / "files").iterdir())
    assert all(len(path.name) == 64 for path in files)
    return sum(path.stat().st_size for path in files)


# ------------------------------------------------------------------------------------ reading


def test_what_is_read_over_http_is_what_lies_there(folder, server, tmp_path):
    here, there = Dataset(folder), Dataset(server.url, cache=Cache(tmp_path / "cache"))
    assert there.digest == here.digest
    assert there.spec == here.spec
    assert there.reached
    for column in COLUMNS:
        np.testing.assert_array_equal(
            everything(there, column), everything(here, column), strict=True
        )


def test_what_is_read_from_any_file_system_of_fsspec_is_what_lies_there(folder, tmp_path):
    system = fsspec.filesystem("memory")
    system.put(str(folder), "/bucket/data", recursive=True)
    there = Dataset("memory://bucket/data", cache=Cache(tmp_path / "cache"))
    np.testing.assert_array_equal(everything(there), everything(Dataset(folder)))
    of_a_path = Dataset(f"file://{folder}", cache=Cache(tmp_path / "other"))
    np.testing.assert_array_equal(everything(of_a_path), everything(Dataset(folder)))


def test_only_columns_that_are_asked_for_are_fetched_and_each_once(server, tmp_path):
    for _ in range(2):
        dataset = Dataset(server.url, cache=Cache(tmp_path / "cache"))
        everything(dataset, "action")
        everything(dataset, "action")
    columns = {path: count for path, count in server.http.asked.items() if path.endswith("npy")}
    assert columns == {f"/shard-{number:05d}/action.npy": 1 for number in range(SHARDS)}


def test_a_dataset_that_has_grown_there_has_grown_here(folder, server, tmp_path):
    cache = Cache(tmp_path / "cache")
    before = Dataset(server.url, cache=cache)
    shutil.rmtree(folder)
    write_toy(folder, SHARDS + 1)
    after = Dataset(server.url, cache=cache)
    assert len(after) == len(before) + EPISODES
    np.testing.assert_array_equal(everything(after), everything(Dataset(folder)))


# ------------------------------------------------------------------------------------- faults


def test_a_column_that_was_cut_short_there_is_refused_and_not_kept(folder, server, tmp_path):
    path = folder / "shard-00001" / "pixels.npy"
    path.write_bytes(path.read_bytes()[:-100])
    cache = Cache(tmp_path / "cache")
    with pytest.raises(UserError, match=r"http.*shard-00001/pixels.npy is damaged \(checksum\)"):
        everything(Dataset(server.url, cache=cache))
    assert cached(cache) == PIXELS  # of the first shard


def test_other_bytes_are_refused(folder, server, tmp_path):
    path = folder / "shard-00002" / "state.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"shard-00002/state.npy is damaged"):
        everything(Dataset(server.url, cache=Cache(tmp_path / "cache")), "state")


def test_a_shard_that_has_vanished_is_named(folder, server, tmp_path):
    dataset = Dataset(server.url, cache=Cache(tmp_path / "cache"))
    shutil.rmtree(folder / "shard-00003")
    with pytest.raises(UserError, match=r"shard-00003/pixels.npy is not there; correct the URL"):
        everything(dataset)
    with pytest.raises(UserError, match=r"shard-00003/shard.json is not there"):
        Dataset(server.url, cache=Cache(tmp_path / "other"))


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 99}', "<html>sign in</html>"])
def test_a_damaged_meta_json_is_named_by_its_url(folder, server, tmp_path, content):
    (folder / "meta.json").write_text(content)
    with pytest.raises(UserError, match=rf"^{server.url}/meta.json is damaged.*there again$"):
        Dataset(server.url, cache=Cache(tmp_path / "cache"))


def test_a_shard_is_never_written_outside_of_the_cache(folder, server, tmp_path):
    meta = json.loads((folder / "meta.json").read_text())
    meta["shards"][0]["name"] = "../../../../shard-00000"
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"names a shard '\.\./"):
        Dataset(server.url, cache=Cache(tmp_path / "cache"))


@pytest.mark.usefixtures("at_once")
def test_a_connection_that_breaks_is_tried_again(folder, server, tmp_path):
    server.http.breaks, server.http.faults = "shard-00001/pixels.npy", 2
    there = Dataset(server.url, cache=Cache(tmp_path / "cache"))
    np.testing.assert_array_equal(everything(there), everything(Dataset(folder)))
    assert server.http.asked["/shard-00001/pixels.npy"] == 3


@pytest.mark.usefixtures("at_once")
def test_a_connection_that_keeps_breaking_is_reported_and_leaves_nothing(server, tmp_path):
    server.http.breaks, server.http.faults = "shard-00000/pixels.npy", 99
    cache = Cache(tmp_path / "cache")
    with pytest.raises(UserError, match=r"cannot read http.*pixels.npy .*check the network"):
        everything(Dataset(server.url, cache=cache))
    assert cached(cache) == 0


def test_a_fetch_that_is_killed_leaves_nothing_that_would_be_taken_for_data(
    folder, server, tmp_path
):
    server.http.breaks, server.http.faults, server.http.pause = "/pixels.npy", 1, 60
    cache = Cache(tmp_path / "cache")
    code = f"""
import sys
from pathlib import Path
from mujepa.rollouts.remote import Cache
from mujepa.rollouts.store import Dataset
Dataset({server.url!r}, cache=Cache(Path({str(cache.folder)!r}))).episode("pixels", 0)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list(cache.folder.glob("files/.*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert [path.suffix for path in (cache.folder / "files").iterdir()] == [".tmp"]
    np.testing.assert_array_equal(
        everything(Dataset(server.url, cache=cache)), everything(Dataset(folder))
    )
    assert cached(cache) == SHARDS * PIXELS


# -------------------------------------------------------------------------------------- offline


def test_without_a_network_a_full_cache_is_enough(folder, server, tmp_path):
    cache = Cache(tmp_path / "cache")
    everything(Dataset(server.url, cache=cache))
    server.stop()
    dataset = Dataset(server.url, cache=Cache(tmp_path / "cache"))
    assert not dataset.reached
    np.testing.assert_array_equal(everything(dataset), everything(Dataset(folder)))


@pytest.mark.usefixtures("at_once")
def test_without_a_network_what_is_not_in_the_cache_is_named(server, tmp_path):
    cache = Cache(tmp_path / "cache")
    everything(Dataset(server.url, cache=cache), "action")
    server.stop()
    with pytest.raises(UserError, match=r"cannot read http.*shard-00000/pixels.npy"):
        everything(Dataset(server.url, cache=cache))
    with pytest.raises(UserError, match=r"cannot read http.*meta.json"):
        Dataset(server.url, cache=Cache(tmp_path / "empty"))


# ---------------------------------------------------------------------------------------- cache


def test_the_cache_stays_within_its_size_and_drops_what_was_not_used_for_longest(server, tmp_path):
    cache = Cache(tmp_path / "cache", gigabytes=2.5 * PIXELS / 1e9)
    dataset = Dataset(server.url, cache=cache)
    for episode in (0, 3, 0, 6, 0, 3, 0):  # of shards 0, 1, 0, 2, 0, 1, 0
        dataset.episode("pixels", episode)
        assert cached(cache) <= cache.limit
    fetched = [server.http.asked[f"/shard-{shard:05d}/pixels.npy"] for shard in range(SHARDS)]
    assert fetched == [1, 2, 1, 0]


def test_a_column_larger_than_the_cache_is_refused_by_its_size(server, tmp_path):
    cache = Cache(tmp_path / "cache", gigabytes=0.5 * PIXELS / 1e9)
    with pytest.raises(UserError, match=r"pixels.npy has 1.86e-05 GB; raise --cache-gigabytes"):
        everything(Dataset(server.url, cache=cache))


def test_a_copy_that_was_damaged_here_is_fetched_again(folder, server, tmp_path):
    everything(Dataset(server.url, cache=Cache(tmp_path / "cache")))
    for path in (tmp_path / "cache" / "files").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    dataset = Dataset(server.url, cache=Cache(tmp_path / "cache"))
    np.testing.assert_array_equal(everything(dataset), everything(Dataset(folder)))


def test_processes_that_share_a_cache_too_small_for_both_do_not_disturb_each_other(
    folder, server, tmp_path
):
    code = f"""
import sys
from pathlib import Path
import numpy as np
from mujepa.rollouts.remote import Cache
from mujepa.rollouts.store import Dataset
cache = Cache(Path({str(tmp_path / "cache")!r}), gigabytes=1.5 * {PIXELS} / 1e9)
there, here = Dataset({server.url!r}, cache=cache), Dataset(Path({str(folder)!r}))
for episode in np.random.default_rng(int(sys.argv[1])).integers(len(here), size=40):
    assert (there.episode("pixels", episode) == here.episode("pixels", episode)).all()
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, seed]) for seed in "01"]
    assert [process.wait() for process in processes] == [0, 0]
    assert cached(Cache(tmp_path / "cache")) == PIXELS


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache().folder == tmp_path / "mujepa"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache().folder == tmp_path / ".cache" / "mujepa"


def test_a_full_disk_is_reported_with_the_options_that_help(server, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="another folder with --cache or a smaller size"):
        Dataset(server.url, cache=Cache(tmp_path / "cache"))


# ------------------------------------------------------------------------------ command line


@pytest.fixture(scope="module")
def reacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("collected") / "reacher"
    assert list(collect_shards(folder, make_spec("reacher", 0, 12), 6, Pool(1))) == [6 * 13]
    return folder


@pytest.fixture
def reacher_url(reacher):
    running = Server(reacher)
    yield running.url
    running.stop()


def test_an_agent_learns_the_same_from_a_url(reacher, reacher_url, tmp_path):
    local = f"train reacher --out {tmp_path}/local --data {reacher} --episodes 6 {TOY}"
    distant = f"train reacher --out {tmp_path}/distant --data {reacher_url}/ {TOY}"
    assert main(local.split()) == 0
    assert main([*distant.split(), "--cache", str(tmp_path / "cache")]) == 0
    one, other = (load_checkpoint(tmp_path / run) for run in ("local", "distant"))
    assert one.provenance["data"] == other.provenance["data"]
    left, right = one.networks.state_dict(), other.networks.state_dict()
    assert all((left[name] == right[name]).all() for name in left)
    assert json.loads((tmp_path / "distant" / "train.json").read_text())["data"] == reacher_url


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ("train reacher --episodes 7", "holds 6, and none can be added from here"),
        ("train two_room", "was collected with task='reacher', not 'two_room'; choose another wi"),
        ("train reacher --vary mass=2", "was collected with variation={}, not {'mass'"),
        ("train reacher --cache-gigabytes 0", "--cache-gigabytes must be positive, got 0.0"),
        ("train reacher --cache-gigabytes 1e-9", "; raise --cache-gigabytes 1e-09"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    reacher_url, tmp_path, capfd, flags, answer, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    cache = str(tmp_path / "cache")
    command = [*flags.split(), "--out", "run", "--data", reacher_url, "--cache", cache]
    assert main(command) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert answer in line


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("train reacher --out run --data no-such-protocol://x", "Protocol not known: no-such-pro"),
        ("train reacher --out run --data http://127.0.0.1:1/x", "cannot read http://127.0.0.1:1/x"),
        ("collect reacher --out s3://bucket/reacher", "are collected into a folder of this mach"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_in_one_line(
    tmp_path, capfd, monkeypatch, command, answer
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert answer in line
    assert not list(tmp_path.rglob("*.tmp"))
