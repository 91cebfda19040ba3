"""TrainingData: what is collected is what happened, and damage or interruption is noticed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from mujepa.envs.behaviour import RedNoise
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.world import World
from mujepa.evaluation.manifest import make_manifest
from mujepa.rollouts.collection import behave, collect_shard, collect_shards, make_spec, shard_sizes
from mujepa.rollouts.sampling import sample_windows, split_episodes
from mujepa.rollouts.store import COLUMNS, Dataset, DatasetSpec, read_meta, write_meta, write_shard
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import sha256
from mujepa.runtime.parallel import Pool

STEPS = 4
SPEC = DatasetSpec("toy", 0, 3, 2, 9, {}, [-1.0], [1.0])


def gather_all(folder: Path, episodes: int, workers: int = 2, seed: int = 0) -> Dataset:
    for _ in collect_shards(folder, make_spec("reacher", seed, STEPS), episodes, Pool(workers)):
        pass
    return Dataset(folder)


def content(folder: Path) -> dict[str, str]:
    """Checksum of every file below a folder."""
    return {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_toy(folder: Path, lengths_by_shard: list[list[int]]) -> dict[str, list[np.ndarray]]:
    """Write shards of random numbers; return the columns by episode."""
    rng = np.random.default_rng(0)
    episodes: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    names = []
    for number, lengths in enumerate(lengths_by_shard):
        frames = sum(lengths)
        columns = {
            "pixels": rng.integers(256, size=(frames, 3, 3, 3)).astype(np.uint8),
            "action": rng.standard_normal((frames, 1)).astype(np.float32),
            "state": rng.standard_normal((frames, 5)),
            "achieved": rng.standard_normal((frames, 2)),
        }
        names.append(f"shard-{number:05d}")
        write_shard(folder / names[-1], columns, lengths)
        for name, column in columns.items():
            episodes[name] += np.split(column, np.cumsum(lengths)[:-1])
    write_meta(folder, SPEC, names)
    return episodes


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> Path:
    """130 wanted episodes: two shards."""
    folder = tmp_path_factory.mktemp("data") / "reacher"
    gather_all(folder, 130)
    return folder


@pytest.fixture
def copy(collected, tmp_path) -> Path:
    return shutil.copytree(collected, tmp_path / "copy")


# ------------------------------------------------------------------------ writing, reading


def test_what_is_written_is_read_again(tmp_path):
    lengths = [[4, 1, 7], [2], [9, 3]]
    episodes = write_toy(tmp_path, lengths)
    dataset = Dataset(tmp_path)
    assert len(dataset) == 6
    assert dataset.frames == 26
    assert dataset.lengths.tolist() == [4, 1, 7, 2, 9, 3]
    assert dataset.spec == SPEC
    for name in COLUMNS:
        for index in range(6):
            read = dataset.episode(name, index)
            np.testing.assert_array_equal(read, episodes[name][index], strict=True)


def test_windows_are_slices_of_their_episodes_whatever_shards_they_come_from(tmp_path):
    episodes = write_toy(tmp_path, [[4, 5, 7], [6], [9, 3]])
    dataset = Dataset(tmp_path)
    chosen, offsets = np.array([4, 0, 3, 4, 2, 5]), np.array([6, 1, 0, 2, 4, 0])
    for name in COLUMNS:
        windows = dataset.gather(name, chosen, offsets, 3)
        slices = [episodes[name][e][o : o + 3] for e, o in zip(chosen, offsets, strict=True)]
        np.testing.assert_array_equal(windows, np.stack(slices), strict=True)


@given(episode=st.integers(0, 3), offset=st.integers(-3, 10), length=st.integers(1, 10))
def test_no_window_leaves_its_episode(tmp_path_factory, episode, offset, length):
    dataset = toy(tmp_path_factory)
    longest = int(np.argmax(dataset.lengths))
    where = np.array([longest, episode]), np.array([0, offset])
    if offset >= 0 and offset + length <= dataset.lengths[episode]:
        assert dataset.gather("action", *where, length).shape == (2, length, 1)
    else:
        with pytest.raises(IndexError, match="leaves its episode"):
            dataset.gather("action", *where, length)


def test_a_gathered_window_is_a_copy(tmp_path):
    write_toy(tmp_path, [[5]])
    dataset = Dataset(tmp_path)
    before = dataset.episode("state", 0)
    dataset.episode("state", 0)[...] = 0
    np.testing.assert_array_equal(dataset.episode("state", 0), before)


# ------------------------------------------------------------------------------- sampling


class Everything:
    """A random generator that returns every number below the limit once."""

    def integers(self, limit: int, size: int) -> np.ndarray:
        assert size == limit
        return np.arange(limit)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), data=st.data())
def test_drawn_windows_are_all_those_that_fit_each_as_likely_as_the_others(lengths, data):
    """Number by number, the draws map one to one onto the windows inside the episodes."""
    length = data.draw(st.integers(1, max(lengths)))
    some = data.draw(st.sets(st.sampled_from(range(len(lengths))), min_size=1))
    fitting = [(e, o) for e in sorted(some) for o in range(lengths[e] - length + 1)]
    dataset = SimpleNamespace(lengths=np.array(lengths), folder=Path("data"))
    if not fitting:
        with pytest.raises(UserError, match=f"no episode of data has {length} frames"):
            sample_windows(dataset, np.array(sorted(some)), 3, length, Everything())
        return
    drawn = sample_windows(dataset, np.array(sorted(some)), len(fitting), length, Everything())
    assert list(zip(*(part.tolist() for part in drawn), strict=True)) == fitting


def test_windows_are_drawn_evenly():
    dataset = SimpleNamespace(lengths=np.array([9, 2, 4, 12, 3]), folder=Path("data"))
    episodes = np.array([0, 1, 3, 4])
    drawn = sample_windows(dataset, episodes, 32_000, 3, np.random.default_rng(0))
    counts = Counter(zip(*(part.tolist() for part in drawn), strict=True))
    assert set(counts) == {(e, o) for e in (0, 3, 4) for o in range(dataset.lengths[e] - 2)}
    assert chisquare(list(counts.values())).pvalue > 0.001


@given(st.integers(2, 500), st.floats(0.001, 0.5), st.integers(0, 5))
def test_the_split_is_by_episode_disjoint_and_complete(episodes, fraction, seed):
    split = split_episodes(episodes, fraction, seed)
    both = np.concatenate([split.train, split.validation])
    np.testing.assert_array_equal(np.sort(both), np.arange(episodes))
    assert len(split.train) > 0
    assert len(split.validation) == max(1, round(episodes * fraction))
    again = split_episodes(episodes, fraction, seed)
    np.testing.assert_array_equal(again.validation, split.validation)


def test_another_seed_splits_otherwise():
    one, other = (split_episodes(100, 0.1, seed).validation for seed in (0, 1))
    assert one.tolist() != other.tolist()


@pytest.mark.parametrize(("episodes", "fraction"), [(1, 0.02), (3, 0.9), (2, 1.0)])
def test_too_few_episodes_to_split_are_reported(episodes, fraction):
    with pytest.raises(UserError, match=f"{episodes} episodes cannot be split"):
        split_episodes(episodes, fraction, 0)


# ----------------------------------------------------------------------- behaviour policy


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


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_behaviour_policy_has_the_strength_and_the_correlation_asked_for(correlation):
    policy = RedNoise((0.2, 0.2), (correlation, correlation))
    actions = policy.draw(np.random.default_rng(0), 40_000, 2)
    np.testing.assert_allclose(actions.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(actions.std(axis=0), 0.2, rtol=0.05)
    for column in actions.T:
        assert np.corrcoef(column[:-1], column[1:])[0, 1] == pytest.approx(correlation, abs=0.02)
    assert np.corrcoef(*actions.T)[0, 1] == pytest.approx(0, abs=0.05)


def test_the_first_action_is_as_strong_as_the_later_ones():
    policy = RedNoise((0.2, 0.2), (0.9, 0.9))
    episodes = [policy.draw(np.random.default_rng(s), 10, 1) for s in range(2000)]
    np.testing.assert_allclose(np.std(episodes, axis=0), 0.2, rtol=0.08)


def test_episodes_differ_in_strength_and_memory_over_the_whole_range():
    def measure(seed: int) -> tuple[float, float]:
        policy = RedNoise((0.002, 0.01), (0.1, 0.8))
        actions = policy.draw(np.random.default_rng(seed), 2000, 1)[:, 0]
        return float(actions.std()), float(np.corrcoef(actions[:-1], actions[1:])[0, 1])

    strength, correlation = np.array([measure(seed) for seed in range(200)]).T
    shares = [0.1, 0.5, 0.9]
    np.testing.assert_allclose(np.quantile(strength, shares), [0.0028, 0.006, 0.0092], atol=0.001)
    np.testing.assert_allclose(np.quantile(correlation, shares), [0.17, 0.45, 0.73], atol=0.1)


# ----------------------------------------------------------------------------- collection


def test_a_dataset_holds_what_happened(collected):
    """From the stored start, the stored actions lead through the stored states and pictures."""
    dataset, task = Dataset(collected), TASKS["reacher"]
    world = World(task)
    low, high = world.action_low, world.action_high
    assert len(dataset) == 200
    assert set(dataset.lengths) == {STEPS + 1}
    for episode in (0, 57, 99, 100, 199):
        states, actions = dataset.episode("state", episode), dataset.episode("action", episode)
        replayed, _ = world.rollout(states[:1], actions[None, :-1], hold=task.frame_skip)
        np.testing.assert_array_equal(replayed[0], states[1:])
        np.testing.assert_array_equal(dataset.episode("pixels", episode), world.render(states))
        np.testing.assert_array_equal(dataset.episode("achieved", episode), world.achieved(states))
        assert (actions >= low).all()
        assert (actions <= high).all()
        assert (actions[:-1] != 0).any()
        np.testing.assert_array_equal(actions[-1], 0)
    assert len({dataset.episode("state", episode)[0].tobytes() for episode in range(200)}) == 200


def test_judged_episodes_are_not_among_the_collected_ones(collected):
    dataset = Dataset(collected)
    starts = {dataset.episode("state", episode)[0].tobytes() for episode in range(200)}
    judged = make_manifest(World(TASKS["reacher"]), 200, dataset.spec.seed).episodes
    assert not starts & {episode.start.tobytes() for episode in judged}


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_does_not_change_the_data(collected, tmp_path, workers):
    gather_all(tmp_path, 130, workers)
    assert content(tmp_path) == content(collected)


def test_another_seed_gives_other_data(collected, tmp_path):
    other = gather_all(tmp_path, 5, seed=1)
    same = Dataset(collected)
    assert (other.episode("state", 0)[0] != same.episode("state", 0)[0]).any()


def test_more_episodes_append_and_leave_complete_shards_untouched(collected, tmp_path):
    gather_all(tmp_path, 100)
    before, changed = content(tmp_path / "shard-00000"), _times(tmp_path / "shard-00000")
    assert len(gather_all(tmp_path, 300)) == 300
    assert content(tmp_path / "shard-00000") == before
    assert _times(tmp_path / "shard-00000") == changed
    assert content(tmp_path / "shard-00001") == content(collected / "shard-00001")


def test_a_small_shard_grows_into_a_full_one(collected, tmp_path):
    small = gather_all(tmp_path, 20)
    assert len(small) == 20
    first = small.episode("pixels", 7)
    grown = gather_all(tmp_path, 130)
    np.testing.assert_array_equal(grown.episode("pixels", 7), first)
    assert content(tmp_path) == content(collected)


def test_what_is_there_already_is_not_collected_again(copy):
    before, times = content(copy), _times(copy / "shard-00001")
    for wanted in (130, 200, 1):
        frames = list(collect_shards(copy, make_spec("reacher", 0, STEPS), wanted, Pool(2)))
        assert frames == []
    assert content(copy) == before
    assert _times(copy / "shard-00001") == times


def test_leftovers_of_a_crash_are_removed(copy):
    before = content(copy)
    (copy / ".shard-00001.123.tmp").mkdir()
    (copy / ".shard-00001.123.tmp" / "pixels.npy").write_bytes(b"half")
    gather_all(copy, 130)
    assert content(copy) == before


def test_what_is_complete_is_left_to_others(copy):
    """Several trainings may begin at once from the same data."""
    gather_all(copy, 130)
    another = copy / ".meta.json.elsewhere-1.tmp"
    another.write_text("{")
    written = (copy / "meta.json").stat().st_mtime_ns
    gather_all(copy, 130)
    assert another.exists()
    assert (copy / "meta.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 7}, "seed=0, not 7"),
        ({"steps": 9}, f"steps={STEPS}, not 9"),
        ({"image_size": 32}, "image_size=64, not 32"),
        ({"behaviour": {"strength": (0.1, 0.2), "correlation": (0.0, 0.9)}}, "behaviour="),
    ],
)
def test_another_recipe_in_the_same_folder_is_refused_by_name(copy, change, field):
    before = content(copy)
    spec = replace(make_spec("reacher", 0, STEPS), **change)
    with pytest.raises(UserError, match=f"was collected with {field}.*choose another folder"):
        list(collect_shards(copy, spec, 300, Pool(1)))
    assert content(copy) == before


def test_shards_of_an_unknown_recipe_are_not_taken_over(copy, tmp_path):
    """Without meta.json nobody knows how a shard was collected."""
    (copy / "meta.json").unlink()
    gather_all(copy, 130, seed=1)
    gather_all(tmp_path / "fresh", 130, seed=1)
    assert content(copy) == content(tmp_path / "fresh")


def test_the_recipe_is_on_disk_before_the_first_shard(tmp_path, monkeypatch):
    """So that whoever goes on after a crash goes on with the same one."""
    spec = make_spec("reacher", 0, STEPS)
    monkeypatch.setattr("mujepa.runtime.parallel.ProcessPoolExecutor", _no_process)
    with pytest.raises(RuntimeError, match="no process today"):
        list(collect_shards(tmp_path, spec, 5, Pool(1)))
    assert read_meta(tmp_path)[1] == {}
    with pytest.raises(UserError, match="was collected with seed=0, not 1"):
        list(collect_shards(tmp_path, replace(spec, seed=1), 5, Pool(1)))
    with pytest.raises(UserError, match="holds no complete shard"):
        Dataset(tmp_path)


@pytest.mark.parametrize("episodes", [1, 99, 100, 101, 250])
def test_shards_hold_at_least_what_is_wanted(episodes):
    sizes = shard_sizes(episodes)
    assert sum(sizes) >= episodes
    assert sizes == [episodes] or set(sizes) == {100}
    assert sum(sizes) - episodes < 100


def test_an_unknown_task_is_reported():
    with pytest.raises(UserError, match="did you mean 'reacher'"):
        make_spec("reach", 0)


def test_a_worker_that_dies_is_reported_and_its_shard_collected_the_next_time(
    collected, tmp_path, monkeypatch
):
    """The kernel kills the one that takes too much memory."""
    spec = make_spec("reacher", 0, STEPS)
    with monkeypatch.context() as patch:
        patch.setattr("mujepa.rollouts.collection.collect_shard", _die)
        with pytest.raises(UserError, match="process died; run the same command again"):
            list(collect_shards(tmp_path, spec, 130, Pool(2)))
    gather_all(tmp_path, 130)
    assert content(tmp_path) == content(collected)


def wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[list[str], Path]:
    """The command of a collection, to be followed by a folder, and where it ran undisturbed."""
    command = [sys.executable, "-m", "mujepa.cli", "collect", "reacher", "--episodes", "600"]
    command += ["--workers", "2", "--steps", "6", "--out"]
    folder = tmp_path_factory.mktemp("data") / "whole"
    subprocess.run([*command, str(folder)], check=True, capture_output=True, timeout=120)
    return command, folder


@pytest.mark.parametrize("moment", ["meta.json", "shard-*"])
def test_a_collection_killed_in_the_middle_goes_on_to_the_same_data(
    tmp_path, uninterrupted, moment
):
    """Kill -9 of the whole process group, and then the same command again."""
    command, whole = uninterrupted
    broken = tmp_path / "broken"
    process = subprocess.Popen([*command, str(broken)], start_new_session=True, stderr=-3)
    try:
        wait_for(broken, moment)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert len(list(broken.glob("shard-*"))) < 6
    (broken / ".meta.json.1.tmp").write_text("{")  # as if killed while it was written
    subprocess.run([*command, str(broken)], check=True, capture_output=True, timeout=120)
    assert Dataset(broken).digest == Dataset(whole).digest
    assert content(broken) == content(whole)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_collects(tmp_path, number):
    command = [sys.executable, "-m", "mujepa.cli", "collect", "reacher", "--episodes", "100000"]
    command += ["--workers", "2", "--steps", "6", "--out", str(tmp_path)]
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


def forget(path: Path) -> None:
    path.write_text("{}")


DAMAGES = [
    *[pytest.param(f"{name}.npy", flip_byte, id=f"byte of {name}") for name in COLUMNS],
    pytest.param("pixels.npy", truncate, id="truncated"),
    pytest.param("action.npy", Path.unlink, id="missing"),
    pytest.param("shard.json", change_lengths, id="other lengths"),
    pytest.param("shard.json", truncate, id="torn shard.json"),
    pytest.param("shard.json", forget, id="empty shard.json"),
    pytest.param("shard.json", Path.unlink, id="no shard.json"),
    pytest.param(".", shutil.rmtree, id="no shard"),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_damage_to_a_shard_is_detected_and_mended_by_collecting_again(
    collected, copy, file, damage, monkeypatch
):
    """Each shard that is damaged, and no other."""
    damage(copy / "shard-00001" / file)
    with pytest.raises(UserError, match=r"shard-00001.*collect it again with: mujepa") as caught:
        Dataset(copy)
    assert "\n" not in str(caught.value)
    frames = list(collect_shards(copy, make_spec("reacher", 0, STEPS), 130, InThisProcess()))
    assert frames == [100 * (STEPS + 1)]
    assert content(copy) == content(collected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"schema_version": 2, "spec": {}, "shards": []}',
        '{"schema_version": 1, "spec": {}, "shards": []}',
        '{"schema_version": 1, "spec": [], "shards": []}',
        '{"schema_version": 1, "spec": {}, "shards": 3}',
        '{"schema_version": 1, "spec": {"task": "reacher"}, "shards": [{}]}',
    ],
)
def test_a_damaged_meta_json_is_reported_in_one_line(copy, text):
    (copy / "meta.json").write_text(text)
    for use in (Dataset, lambda folder: gather_all(folder, 130)):
        with pytest.raises(UserError, match=re_escaped(copy)) as caught:
            use(copy)
        assert "\n" not in str(caught.value)


def test_shards_that_meta_json_does_not_list_properly_are_reported(copy):
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps(meta | {"shards": [{"name": "shard-00000"}]}))
    with pytest.raises(UserError, match="damaged"):
        Dataset(copy)


def test_a_missing_dataset_is_reported_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*No such file.*mujepa collect TASK --out"):
        Dataset(tmp_path / "nowhere")


# -------------------------------------------------------------------------------- helpers


def re_escaped(path: Path) -> str:
    return str(path).replace(".", r"\.")


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def _no_process(*_: object, **__: object) -> None:
    raise RuntimeError("no process today")


class InThisProcess:
    """In the place of worker processes, which take time to start."""

    def map(self, function, pieces, **_):
        yield from ((index, function(*piece)) for index, piece in enumerate(pieces))


def _die(folder: Path, spec: DatasetSpec, first_episode: int, episodes: int) -> int:
    if first_episode:
        os.kill(os.getpid(), signal.SIGKILL)
    return collect_shard(folder, spec, first_episode, episodes)


def toy(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.getbasetemp() / "toy"
    if not folder.exists():
        write_toy(folder, [[6, 2], [1, 9]])
    return Dataset(folder, verify=False)


def test_the_registry_and_the_recipe_name_the_same_task():
    assert find_task(make_spec("reacher", 0).task) is TASKS["reacher"]


def test_a_column_that_is_cut_short_while_it_is_in_use_is_reported(copy):
    dataset = Dataset(copy)
    truncate(copy / dataset.names[-1] / "pixels.npy")
    with pytest.raises(UserError, match=r"pixels\.npy was cut short"):
        dataset.episode("pixels", len(dataset) - 1)
    assert dataset.episode("pixels", 0).any()
