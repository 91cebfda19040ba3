"""What is collected is what happened; interruption and damage are noticed and mended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.world import World
from mujepa.evaluation.manifest import make_manifest
from mujepa.rollouts import collection
from mujepa.rollouts.collection import (
    CollectConfig,
    behave,
    collect,
    collect_shard,
    collect_shards,
    make_spec,
    shard_sizes,
)
from mujepa.rollouts.store import COLUMNS, Dataset, DatasetSpec, read_meta
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import sha256
from mujepa.runtime.parallel import Pool

STEPS = 3


class InThisProcess:
    """Replaces worker processes, which take time to start."""

    def map(self, function, pieces, **_):
        yield from ((index, function(*piece)) for index, piece in enumerate(pieces))


@pytest.fixture(autouse=True, scope="module")
def small_shards():
    """Ten episodes in a shard."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "EPISODES_PER_SHARD", 10)
        yield


def gather(folder: Path, episodes: int, workers: int = 0, seed: int = 0) -> Dataset:
    pool = Pool(workers) if workers else InThisProcess()
    list(collect_shards(folder, make_spec("reacher", seed, STEPS), episodes, pool))
    return Dataset(folder)


def content(folder: Path) -> dict[str, str]:
    """Checksum of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture(scope="module")
def collected(tmp_path_factory, small_shards) -> Path:
    """13 wanted episodes: two shards."""
    folder = tmp_path_factory.mktemp("data") / "reacher"
    gather(folder, 13)
    return folder


@pytest.fixture
def copy(collected, tmp_path) -> Path:
    return shutil.copytree(collected, tmp_path / "copy")


@given(st.integers(0, 1000), st.floats(0, 50))
def test_actions_stay_within_the_bounds_however_strong_the_noise(world, seed, strength):
    noise = strength * np.random.default_rng(seed).standard_normal((2, 3, 2))
    start = world.sample_episode(np.random.default_rng(seed)).start
    states, actions = behave(world, np.stack([start, start]), noise)
    assert states.shape == (2, 4, world.state_size)
    assert actions.shape == (2, 3, 2)
    assert actions.dtype == np.float32
    assert (actions >= world.action_low.astype(np.float32)).all()
    assert (actions <= world.action_high.astype(np.float32)).all()


# ----------------------------------------------------------------------------- collection


def test_a_dataset_holds_what_happened(collected):
    """From the stored start, the stored actions lead through the stored states and images."""
    dataset, task = Dataset(collected), TASKS["reacher"]
    world = World(task)
    assert len(dataset) == 20
    assert set(dataset.lengths) == {STEPS + 1}
    for episode in (0, 5, 9, 10, 19):
        states, actions = dataset.episode("state", episode), dataset.episode("action", episode)
        replayed, _ = world.rollout(states[:1], actions[None, :-1], hold=task.frame_skip)
        np.testing.assert_array_equal(replayed[0], states[1:])
        np.testing.assert_array_equal(dataset.episode("pixels", episode), world.render(states))
        np.testing.assert_array_equal(dataset.episode("achieved", episode), world.achieved(states))
        assert (np.clip(actions, world.action_low, world.action_high) == actions).all()
        assert (actions[:-1] != 0).any()
        np.testing.assert_array_equal(actions[-1], 0)
    assert len({dataset.episode("state", episode)[0].tobytes() for episode in range(20)}) == 20


def test_evaluation_episodes_are_not_among_the_collected_ones(collected):
    dataset = Dataset(collected)
    starts = {dataset.episode("state", episode)[0].tobytes() for episode in range(20)}
    evaluated = make_manifest(World(TASKS["reacher"]), 20, dataset.spec.seed).episodes
    assert not starts & {episode.start.tobytes() for episode in evaluated}


def test_the_number_of_workers_does_not_change_the_data(collected, tmp_path):
    gather(tmp_path, 13, workers=2)
    assert content(tmp_path) == content(collected)


def test_another_seed_gives_other_data(collected, tmp_path):
    other = gather(tmp_path, 2, seed=1)
    assert (other.episode("state", 0)[0] != Dataset(collected).episode("state", 0)[0]).any()


def test_images_have_the_size_asked_for(tmp_path, capsys):
    out = tmp_path / "data"
    config = CollectConfig("reacher", out, episodes=1, steps=2, workers=1, image_size=32)
    dataset = collect(config)
    assert "1 episodes, 3 frames (3 new)" in capsys.readouterr().out
    assert dataset.spec.image_size == 32
    world = World(find_task("reacher"), 32)
    images = world.render(dataset.episode("state", 0))
    np.testing.assert_array_equal(dataset.episode("pixels", 0), images)
    with pytest.raises(UserError, match="was collected with image_size=32, not 64"):
        collect(replace(config, image_size=64))


def test_more_episodes_append_and_leave_complete_shards_untouched(collected, tmp_path):
    gather(tmp_path, 10)
    before, changed = content(tmp_path / "shard-00000"), times(tmp_path / "shard-00000")
    assert len(gather(tmp_path, 30)) == 30
    assert content(tmp_path / "shard-00000") == before
    assert times(tmp_path / "shard-00000") == changed
    assert content(tmp_path / "shard-00001") == content(collected / "shard-00001")


def test_a_small_shard_grows_into_a_full_one(collected, tmp_path):
    small = gather(tmp_path, 4)
    assert len(small) == 4
    first = small.episode("pixels", 3)
    np.testing.assert_array_equal(gather(tmp_path, 13).episode("pixels", 3), first)
    assert content(tmp_path) == content(collected)


def test_what_is_there_already_is_neither_collected_again_nor_touched(copy):
    """Several trainings may start at once from the same data."""
    another = copy / ".meta.json.elsewhere-1.tmp"
    another.write_text("{")
    before, changed = content(copy), times(copy)
    for wanted in (13, 20, 1):
        assert not list(collect_shards(copy, make_spec("reacher", 0, STEPS), wanted, Pool(2)))
    assert (content(copy), times(copy)) == (before, changed)


def test_leftovers_of_a_crash_are_removed(copy):
    before = content(copy)
    (copy / ".shard-00001.123.tmp").mkdir()
    (copy / ".shard-00001.123.tmp" / "pixels.npy").write_bytes(b"half")
    gather(copy, 13)
    assert content(copy) == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 7}, "seed=0, not 7"),
        ({"steps": 9}, f"steps={STEPS}, not 9"),
        ({"image_size": 32}, "image_size=64, not 32"),
        ({"behaviour": {"strength": (0.1, 0.2), "correlation": (0.0, 0.9)}}, "behaviour="),
    ],
)
def test_another_spec_in_the_same_folder_is_refused_by_name(copy, change, field):
    before = content(copy)
    spec = replace(make_spec("reacher", 0, STEPS), **change)
    with pytest.raises(UserError, match=f"was collected with {field}.*choose another folder"):
        list(collect_shards(copy, spec, 30, Pool(1)))
    assert content(copy) == before


def test_shards_of_an_unknown_spec_are_not_kept(copy, tmp_path):
    """Without meta.json nobody knows how a shard was collected."""
    (copy / "meta.json").unlink()
    gather(copy, 13, seed=1)
    gather(tmp_path / "new", 13, seed=1)
    assert content(copy) == content(tmp_path / "new")


def test_the_spec_is_on_disk_before_the_first_shard(tmp_path):
    """A collection that continues after a crash must have the same spec."""

    class NoProcess:
        def map(self, *_, **__):
            raise RuntimeError("no process today")

    spec = make_spec("reacher", 0, STEPS)
    with pytest.raises(RuntimeError, match="no process today"):
        list(collect_shards(tmp_path, spec, 5, NoProcess()))
    assert read_meta(tmp_path)[1] == {}
    with pytest.raises(UserError, match="was collected with seed=0, not 1"):
        list(collect_shards(tmp_path, replace(spec, seed=1), 5, NoProcess()))
    with pytest.raises(UserError, match="holds no complete shard"):
        Dataset(tmp_path)


@pytest.mark.parametrize("episodes", [1, 9, 10, 11, 25])
def test_shards_hold_at_least_what_is_wanted(episodes):
    sizes = shard_sizes(episodes)
    assert sum(sizes) >= episodes
    assert sizes == [episodes] or set(sizes) == {10}
    assert sum(sizes) - episodes < 10


def test_an_unknown_task_is_reported():
    with pytest.raises(UserError, match="did you mean 'reacher'"):
        make_spec("reach", 0)


def die(folder: Path, spec: DatasetSpec, first_episode: int, episodes: int) -> int:
    if first_episode:
        os.kill(os.getpid(), signal.SIGKILL)
    return collect_shard(folder, spec, first_episode, episodes)


def test_a_worker_that_dies_is_reported_and_its_shard_collected_the_next_time(
    collected, tmp_path, monkeypatch
):
    """The kernel kills the one that takes too much memory."""
    spec = make_spec("reacher", 0, STEPS)
    with monkeypatch.context() as patch:
        patch.setattr("mujepa.rollouts.collection.collect_shard", die)
        with pytest.raises(UserError, match="process died; run the same command again"):
            list(collect_shards(tmp_path, spec, 13, Pool(2)))
    gather(tmp_path, 13)
    assert content(tmp_path) == content(collected)


def wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.002)


COMMAND = [sys.executable, "-m", "mujepa.cli", "collect", "reacher", "--workers", "2"]
COMMAND += ["--steps", "3", "--episodes"]


def test_a_collection_killed_in_the_middle_goes_on_to_the_same_data(tmp_path):
    """Kill -9 of the whole process group, twice, and then the same command again."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    collection.EPISODES_PER_SHARD = 100  # as the command has it
    try:
        gather(whole, 400)
    finally:
        collection.EPISODES_PER_SHARD = 10
    for moment in ("meta.json", "shard-*"):
        process = subprocess.Popen(
            [*COMMAND, "400", "--out", str(broken)], start_new_session=True, stderr=-3
        )
        try:
            wait_for(broken, moment)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert len(list(broken.glob("shard-*"))) < 4
        (broken / ".meta.json.1.tmp").write_text("{")  # as if killed while it was written
    command = [*COMMAND, "400", "--out", str(broken)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert Dataset(broken).digest == Dataset(whole).digest
    assert content(broken) == content(whole)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_collects(tmp_path, number):
    command = [*COMMAND, "100000", "--out", str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    try:
        wait_for(tmp_path, "shard-*")
        process.send_signal(number)
        process.communicate(timeout=20)  # to the end of stderr, which workers hold open too
        assert process.returncode == -number
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


# --------------------------------------------------------------------------------- damage


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def change_lengths(path: Path) -> None:
    """Two episodes for one: the columns are as they were."""
    info = json.loads(path.read_text())
    first, *rest = info["lengths"]
    path.write_text(json.dumps(info | {"lengths": [first - 2, 2, *rest]}))


DAMAGES = [
    *[(f"{name}.npy", flip_byte) for name in COLUMNS],
    ("pixels.npy", truncate),
    ("action.npy", Path.unlink),
    ("shard.json", change_lengths),
    ("shard.json", truncate),
    ("shard.json", lambda path: path.write_text("{}")),
    ("shard.json", Path.unlink),
    (".", shutil.rmtree),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_damage_to_a_shard_is_detected_and_mended_by_collecting_again(
    collected, copy, file, damage
):
    """Each shard that is damaged, and no other."""
    damage(copy / "shard-00001" / file)
    with pytest.raises(UserError, match=r"shard-00001.*collect it again with: mujepa") as caught:
        Dataset(copy)
    assert "\n" not in str(caught.value)
    spec = make_spec("reacher", 0, STEPS)
    assert list(collect_shards(copy, spec, 13, InThisProcess())) == [10 * (STEPS + 1)]
    assert content(copy) == content(collected)
