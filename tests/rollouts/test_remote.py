"""Datasets at URLs are read as local ones are, and what was read is kept in the cache folder."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mujepa.cli.main import main
from mujepa.rollouts.remote import cache_folder
from mujepa.rollouts.store import COLUMNS, Dataset, DatasetSpec, write_meta, write_shard
from mujepa.runtime.errors import UserError

SHARDS, EPISODES, FRAMES = 3, 3, 8


class Handler(SimpleHTTPRequestHandler):
    """Counts the requests, and sends half of what the server says is broken."""

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        if not self.path.endswith(self.server.breaks):
            super().do_GET()
            return
        size = (Path(self.directory) / self.path.lstrip("/")).stat().st_size
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(bytes(size // 2))

    def log_message(self, *_: object) -> None:
        pass


class Server:
    """An HTTP server on this machine."""

    def __init__(self, folder: Path) -> None:
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        self.http.asked, self.http.breaks, self.http.daemon_threads = Counter(), "nothing", True
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
            "pixels": rng.integers(256, size=(frames, 32, 32, 3)).astype(np.uint8),
            "action": rng.standard_normal((frames, 1)).astype(np.float32),
            "state": rng.standard_normal((frames, 5)),
            "achieved": rng.standard_normal((frames, 2)),
        }
        write_shard(folder / name, columns, [FRAMES] * EPISODES)
    write_meta(folder, DatasetSpec("reacher", 0, 32, 4, 7, {}, [-1.0], [1.0]), names)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "mujepa"


@pytest.fixture
def folder(tmp_path) -> Path:
    write_toy(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def server(folder):
    running = Server(folder)
    yield running
    running.stop()


def everything(dataset: Dataset, column: str = "pixels") -> np.ndarray:
    return dataset.gather(column, np.arange(len(dataset)), np.zeros(len(dataset), int), FRAMES)


def test_what_is_read_over_http_is_what_lies_there(folder, server):
    here, there = Dataset(folder), Dataset(server.url)
    assert (there.digest, there.spec, there.columns) == (here.digest, here.spec, here.columns)
    assert there.reached
    for column in COLUMNS:
        np.testing.assert_array_equal(
            everything(there, column), everything(here, column), strict=True
        )


def test_what_is_read_from_any_file_system_of_fsspec_is_what_lies_there(folder):
    system = fsspec.filesystem("memory")
    system.put(str(folder), "/bucket/data", recursive=True)
    for url in ("memory://bucket/data", f"file://{folder}"):
        np.testing.assert_array_equal(everything(Dataset(url)), everything(Dataset(folder)))


def test_only_columns_that_are_asked_for_are_fetched_and_each_once(server):
    for _ in range(2):
        dataset = Dataset(server.url)
        everything(dataset, "action")
        everything(dataset, "action")
    columns = {path: count for path, count in server.http.asked.items() if path.endswith("npy")}
    assert columns == {f"/shard-{number:05d}/action.npy": 1 for number in range(SHARDS)}


def test_a_dataset_that_has_grown_there_has_grown_here(folder, server):
    before = len(Dataset(server.url))
    shutil.rmtree(folder)
    write_toy(folder, SHARDS + 1)
    after = Dataset(server.url)
    assert len(after) == before + EPISODES
    np.testing.assert_array_equal(everything(after), everything(Dataset(folder)))


def test_a_column_that_is_damaged_there_is_refused_and_not_kept(folder, server, cache):
    dataset = Dataset(server.url)
    path = folder / "shard-00001" / "pixels.npy"
    for content in (path.read_bytes()[:-100], path.read_bytes()[:-1] + b"?"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"http.*shard-00001/pixels.npy is damaged \(checksum"):
            everything(dataset)
    assert [file.parent.name for file in cache.rglob("*.npy")] == ["shard-00000"]


def test_a_shard_that_has_vanished_is_named(folder, server, cache):
    dataset = Dataset(server.url)
    shutil.rmtree(folder / "shard-00002")
    with pytest.raises(UserError, match=r"00002/pixels.npy does not exist; correct the URL"):
        everything(dataset)
    shutil.rmtree(cache)
    with pytest.raises(UserError, match=r"shard-00002/shard.json does not exist"):
        Dataset(server.url)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 99}', "<html>sign in</html>"])
def test_a_damaged_meta_json_is_named_by_its_url_and_replaces_no_good_copy(folder, server, content):
    everything(Dataset(server.url))
    whole = (folder / "meta.json").read_text()
    (folder / "meta.json").write_text(content)
    with pytest.raises(UserError, match=rf"^{server.url}/meta.json is damaged.*there again$"):
        Dataset(server.url)
    server.stop()
    (folder / "meta.json").write_text(whole)
    np.testing.assert_array_equal(everything(Dataset(server.url)), everything(Dataset(folder)))


def test_a_shard_is_never_written_outside_of_the_cache(folder, server, tmp_path):
    meta = json.loads((folder / "meta.json").read_text())
    meta["shards"][0]["name"] = "../../../../shard-00000"
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"meta.json is damaged"):
        Dataset(server.url)
    with pytest.raises(UserError, match=r"names a shard '\.\./"):
        Dataset(folder)
    assert not list(tmp_path.glob("shard*"))


def test_a_connection_that_breaks_is_reported_and_the_next_attempt_goes_on(folder, server, cache):
    server.http.breaks = "shard-00001/pixels.npy"
    with pytest.raises(UserError, match=r"cannot read http.*pixels.npy .*check the network"):
        everything(Dataset(server.url))
    assert len(list(cache.rglob("pixels.npy"))) == 1
    assert not list(cache.rglob("*.tmp"))
    server.http.breaks = "nothing"
    np.testing.assert_array_equal(everything(Dataset(server.url)), everything(Dataset(folder)))
    assert server.http.asked["/shard-00000/pixels.npy"] == 1


def test_without_a_network_what_was_read_before_is_enough_and_the_rest_is_named(folder, server):
    everything(Dataset(server.url))
    server.stop()
    dataset = Dataset(server.url)
    assert not dataset.reached
    np.testing.assert_array_equal(everything(dataset), everything(Dataset(folder)))
    with pytest.raises(UserError, match=r"cannot read http.*shard-00000/action.npy"):
        everything(dataset, "action")
    shutil.rmtree(cache_folder())
    with pytest.raises(UserError, match=r"cannot read http.*meta.json"):
        Dataset(server.url)


def test_a_copy_that_was_damaged_here_is_fetched_again(folder, server, cache):
    everything(Dataset(server.url))
    for path in cache.rglob("pixels.npy"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    np.testing.assert_array_equal(everything(Dataset(server.url)), everything(Dataset(folder)))


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch, tmp_path, server):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mujepa"
    (tmp_path / ".cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write .*set XDG_CACHE_HOME to another folder"):
        Dataset(server.url)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("train two_room --out run --data URL", "was collected with "),
        ("train reacher --out run --data no-such-protocol://x", "Protocol not known: no-such-pro"),
        ("train reacher --out run --data http://127.0.0.1:1/x", "cannot read http://127.0.0.1:1/x"),
        ("export http://127.0.0.1:1/x --out run", "cannot read http://127.0.0.1:1/x"),
        ("collect reacher --out s3://bucket/reacher", "are collected into a folder of this mach"),
    ],
)
def test_a_url_that_does_not_fit_is_refused_in_one_line(server, capfd, command, answer, tmp_path):
    assert main(command.replace("URL", server.url).split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert answer in line
    assert not list(tmp_path.rglob("*.tmp"))
