"""What is written is read again; damage and columns that do not fit are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.rollouts.store import COLUMNS, Dataset, DatasetSpec, read_meta, write_meta, write_shard
from mujepa.rollouts.writer import write_dataset
from mujepa.runtime.errors import UserError

SPEC = DatasetSpec("reacher", 0, 3, 2, 9, {}, [-1.0], [1.0])
RNG = np.random.default_rng(0)


def columns(frames: int) -> dict[str, np.ndarray]:
    return {
        "pixels": RNG.integers(256, size=(frames, 3, 3, 3)).astype(np.uint8),
        "action": RNG.standard_normal((frames, 1)).astype(np.float32),
        "state": RNG.standard_normal((frames, 5)),
        "achieved": RNG.standard_normal((frames, 2)),
    }


def write_toy(folder: Path, lengths_by_shard: list[list[int]]) -> dict[str, list[np.ndarray]]:
    """Write shards of random numbers; return the columns by episode."""
    episodes: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    names = [f"shard-{number:05d}" for number in range(len(lengths_by_shard))]
    for name, lengths in zip(names, lengths_by_shard, strict=True):
        shard = columns(sum(lengths))
        write_shard(folder / name, shard, lengths)
        for key, column in shard.items():
            episodes[key] += np.split(column, np.cumsum(lengths)[:-1])
    write_meta(folder, SPEC, names)
    return episodes


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("toy")
    write_toy(folder, [[6, 2], [1, 9]])
    return Dataset(folder, verify=False)


# ------------------------------------------------------------------------ writing, reading


def test_what_is_written_is_read_again(tmp_path):
    episodes = write_toy(tmp_path, [[4, 1, 7], [2], [9, 3]])
    dataset = Dataset(tmp_path)
    assert (len(dataset), dataset.frames, dataset.columns) == (6, 26, COLUMNS)
    assert dataset.lengths.tolist() == [4, 1, 7, 2, 9, 3]
    assert dataset.spec == SPEC
    for name in COLUMNS:
        for index in range(6):
            read = dataset.episode(name, index)
            np.testing.assert_array_equal(read, episodes[name][index], strict=True)
            read[...] = 0  # a copy
            again = dataset.episode(name, index)
            np.testing.assert_array_equal(again, episodes[name][index])


def test_windows_are_slices_of_their_episodes_whatever_shards_they_come_from(tmp_path):
    episodes = write_toy(tmp_path, [[4, 5, 7], [6], [9, 3]])
    dataset = Dataset(tmp_path)
    chosen, offsets = np.array([4, 0, 3, 4, 2, 5]), np.array([6, 1, 0, 2, 4, 0])
    for name in COLUMNS:
        windows = dataset.gather(name, chosen, offsets, 3)
        slices = [episodes[name][e][o : o + 3] for e, o in zip(chosen, offsets, strict=True)]
        np.testing.assert_array_equal(windows, np.stack(slices), strict=True)


@given(episode=st.integers(0, 3), offset=st.integers(-3, 10), length=st.integers(1, 10))
def test_no_window_leaves_its_episode(toy, episode, offset, length):
    longest = int(np.argmax(toy.lengths))
    where = np.array([longest, episode]), np.array([0, offset])
    if offset >= 0 and offset + length <= toy.lengths[episode]:
        assert toy.gather("action", *where, length).shape == (2, length, 1)
    else:
        with pytest.raises(IndexError, match="leaves its episode"):
            toy.gather("action", *where, length)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"pixels": np.zeros((4, 8, 8, 3), np.uint8)}, r"uint8 \(4, 8, 8, 3\), and the dataset ne"),
        ({"pixels": np.zeros((4, 3, 3, 3), np.float32)}, "pixels.npy holds float32"),
        ({"action": np.zeros((4, 2), np.float32)}, r"action.npy holds float32 \(4, 2\)"),
        ({"state": np.zeros((3, 5))}, r"state.npy holds float64 \(3, 5\)"),
        ({"achieved": np.full((4, 2), None)}, "cannot read .*achieved.npy .*objects"),
        ({"state": None}, "has shards with different columns"),
        ({"action": None}, "is damaged"),
    ],
)
def test_columns_that_do_not_fit_are_refused_when_a_dataset_is_opened(tmp_path, changes, answer):
    write_shard(tmp_path / "shard-00000", columns(4), [4])
    second = {name: it for name, it in (columns(4) | changes).items() if it is not None}
    write_shard(tmp_path / "shard-00001", second, [4])
    write_meta(tmp_path, SPEC, ["shard-00000", "shard-00001"])
    with pytest.raises(UserError, match=answer) as caught:
        Dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_column_that_is_cut_short_while_it_is_in_use_is_reported(tmp_path):
    write_toy(tmp_path, [[4], [4]])
    dataset = Dataset(tmp_path)
    path = tmp_path / "shard-00001" / "pixels.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"pixels\.npy was cut short"):
        dataset.episode("pixels", 1)
    assert dataset.episode("pixels", 0).any()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"schema_version": 1, "recipe": {}, "shards": []}',
        '{"schema_version": 2, "spec": {}, "shards": []}',
        '{"schema_version": 2, "spec": [], "shards": []}',
        '{"schema_version": 2, "spec": {}, "shards": 3}',
        '{"schema_version": 2, "spec": {"task": "reacher"}, "shards": [{}]}',
        '{"schema_version": 2, "spec": {"task": "reacher"}, "shards": [{"name": 1, "sha256": 2}]}',
    ],
)
def test_a_damaged_meta_json_is_reported_in_one_line_with_the_remedy(tmp_path, text):
    write_toy(tmp_path, [[4]])
    (tmp_path / "meta.json").write_text(text)
    for use in (Dataset, read_meta):
        with pytest.raises(UserError, match="mujepa collect TASK --out") as caught:
            use(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_dataset_is_reported_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*No such file.*mujepa collect TASK --out"):
        Dataset(tmp_path / "nowhere")


# -------------------------------------------------------------------------------- own data


def episode(steps: int, last: int = 1, size: int = 8, **more: object) -> dict[str, object]:
    images = RNG.integers(256, size=(steps + last, size, size, 3)).astype(np.uint8)
    return {"pixels": images, "action": RNG.uniform(-1, 1, (steps, 2)), "reward": 0.0} | more


def test_images_and_actions_alone_are_a_dataset(tmp_path):
    recorded = [episode(6), episode(4, last=0), episode(9)]
    dataset = write_dataset(
        tmp_path / "own", iter(recorded), action_low=-1.0, action_high=[1.0, 2.0]
    )
    assert dataset.columns == ("pixels", "action")
    assert (dataset.spec.task, dataset.spec.image_size, dataset.spec.frame_skip) == (None, 8, 1)
    assert (dataset.spec.action_low, dataset.spec.action_high) == ([-1, -1], [1, 2])
    assert dataset.lengths.tolist() == [7, 4, 10]
    again = Dataset(tmp_path / "own")
    for index, (one, frames) in enumerate(zip(recorded, dataset.lengths.tolist(), strict=True)):
        np.testing.assert_array_equal(again.episode("pixels", index), one["pixels"])
        actions = again.episode("action", index)
        np.testing.assert_array_equal(actions[:-1], one["action"][: frames - 1].astype(np.float32))
        assert not actions[-1].any()
    with pytest.raises(UserError, match="has no column 'state'; it holds pixels, action"):
        again.episode("state", 0)


def test_arrays_of_any_memory_order_are_stored_row_by_row(tmp_path):
    one = episode(5)
    turned = {name: np.asfortranarray(one[name]) for name in ("pixels", "action")}
    dataset = write_dataset(tmp_path / "own", [turned])
    np.testing.assert_array_equal(dataset.episode("pixels", 0), one["pixels"])
    path = tmp_path / "own" / "shard-00000" / "pixels.npy"
    np.save(path, turned["pixels"])
    with pytest.raises(UserError, match=r"cannot read .*pixels.npy \(its rows are not contiguous"):
        Dataset(tmp_path / "own", verify=False)


def test_bounds_default_to_the_actions_that_occur(tmp_path):
    recorded = [episode(5), episode(5, action=np.array([[3, -4]] * 5))]
    spec = write_dataset(tmp_path / "own", recorded).spec
    assert (spec.action_low[1], spec.action_high[0]) == (-4, 3)
    assert spec.action_low[0] == pytest.approx(recorded[0]["action"][:, 0].min())


def test_episodes_fill_shards_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr("mujepa.rollouts.writer.EPISODES_PER_SHARD", 2)
    dataset = write_dataset(tmp_path / "own", (episode(3) for _ in range(5)))
    assert dataset.names == ["shard-00000", "shard-00001", "shard-00002"]
    assert dataset.shards.tolist() == [0, 0, 1, 1, 2]


def test_states_of_a_task_give_its_bounds_and_goals(tmp_path):
    world = World(find_task("reacher"))
    states = np.stack([world.sample_episode(np.random.default_rng(i)).start for i in range(4)])
    recorded = [episode(3, state=states)]
    dataset = write_dataset(tmp_path / "own", recorded, task="reacher", frame_skip=4)
    assert (dataset.spec.task, dataset.columns) == ("reacher", COLUMNS)
    assert dataset.spec.action_low == world.action_low.tolist()
    np.testing.assert_array_equal(dataset.episode("achieved", 0), world.achieved(states))
    with pytest.raises(UserError, match="frame_skip of reacher is 4, got 1; give 4"):
        write_dataset(tmp_path / "other", recorded, task="reacher")
    wrong = [episode(3, state=np.zeros((4, 3)))]
    with pytest.raises(UserError, match=r"has state \(4, 3\), and reacher needs"):
        write_dataset(tmp_path / "other", wrong, task="reacher", frame_skip=4)


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        (
            {"pixels": np.zeros((4, 8, 8, 3))},
            r"episode 1 has pixels float64 \(4, 8, 8, 3\); give u",
        ),
        ({"pixels": np.zeros((4, 8, 9, 3), np.uint8)}, "episode 1 has pixels uint8"),
        ({"pixels": np.zeros((4, 9, 9, 3), np.uint8)}, "all episodes need the same columns and si"),
        ({"pixels": np.zeros((2, 8, 8, 3), np.uint8)}, r"action float64 \(3, 2\) and 2 images"),
        ({"pixels": np.zeros((1, 8, 8, 3), np.uint8), "action": np.zeros((1, 2))}, "at least 2"),
        ({"action": np.zeros((3, 4))}, "all episodes need the same columns and sizes"),
        ({"action": np.array([[None, 1]] * 3)}, "has action object"),
        ({"action": np.full((3, 2), np.nan)}, "episode 1 holds numbers in action that are not fin"),
        ({"action": np.full((3, 2), 1.5)}, "leave the bounds .*; clip them, or give wider bounds"),
        (
            {"state": np.zeros((3, 5))},
            r"has state float64 \(3, 5\) and 4 images; give numbers \(4, N\)",
        ),
        ({"achieved": np.full((4, 5), np.inf)}, "holds numbers in achieved that are not finite"),
        ({"pixels": None}, "episode 1 has no 'pixels'; every episode needs pixels and action"),
    ],
)
def test_a_wrong_episode_is_refused_in_one_line_and_leaves_nothing(tmp_path, wrong, answer):
    second = {name: it for name, it in (episode(3) | wrong).items() if it is not None}
    with pytest.raises(UserError, match=answer) as caught:
        write_dataset(tmp_path / "own", [episode(3), second], action_low=-1, action_high=1)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_at_all_is_refused(tmp_path):
    for episodes, more, answer in (
        ([], {}, "there are no episodes"),
        (
            [episode(3)],
            {"action_low": [0, 1, 2]},
            "action_low is .*; give 2 finite numbers",
        ),
        ([episode(3)], {"action_low": 1, "action_high": 1}, "give an action_low below action_high"),
        ([episode(3)], {"frame_skip": 0}, "frame-skip must be at least 1, got 0"),
        ([episode(3)], {"task": "raecher"}, "did you mean 'reacher'"),
    ):
        with pytest.raises(UserError, match=answer):
            write_dataset(tmp_path / "own", episodes, **more)
    write_dataset(tmp_path / "own", [episode(3)])
    before = json.loads((tmp_path / "own" / "meta.json").read_text())
    with pytest.raises(UserError, match="exists already; choose another folder"):
        write_dataset(tmp_path / "own", [episode(3)])
    assert json.loads((tmp_path / "own" / "meta.json").read_text()) == before
