"""Exported datasets come back as they were, and Minari's become datasets of a task."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AddRenderObservation

from mujepa.cli.main import main
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.rollouts.collection import collect_shards, make_spec
from mujepa.rollouts.replay import resized
from mujepa.rollouts.store import Dataset, DatasetSpec, write_meta, write_shard
from mujepa.rollouts.writer import write_dataset
from mujepa.runtime.files import sha256
from mujepa.runtime.parallel import Pool

minari = pytest.importorskip("minari", reason="pip install 'mujepa[data]'")
h5py = pytest.importorskip("h5py", reason="pip install 'mujepa[data]'")
EpisodeBuffer = pytest.importorskip("minari.data_collector").EpisodeBuffer

PENDULUM = "gymnasium:InvertedPendulum-v5"
TOY = """--updates 2 --critic-updates 2 --ensemble-updates 2 --actor-updates 2 --batch 4
--threads 1"""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """Where Minari keeps its datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("MUJOCO_GL", "egl")  # Gymnasium would ask for a screen
    monkeypatch.chdir(tmp_path)
    return tmp_path / "minari"


def content(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def complaint(capfd, command: str) -> str:
    capfd.readouterr()
    assert main(command.split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


# --------------------------------------------------------------------------- there and back


@pytest.fixture(scope="module")
def reacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("collected") / "reacher"
    assert list(collect_shards(folder, make_spec("reacher", 0, 12), 6, Pool(1))) == [6 * 13]
    return folder


@pytest.fixture(scope="module")
def exported(reacher) -> Path:
    folder = reacher.parent / "exported"
    assert main(["export", str(reacher), "--out", str(folder), "--id", "mujepa/reacher-v0"]) == 0
    return folder


def test_what_was_exported_comes_back_bit_for_bit(reacher, exported):
    assert main(f"import {exported} --out back".split()) == 0
    assert content(Path("back")) == content(reacher)
    assert Dataset(Path("back")).digest == Dataset(reacher).digest


def test_shards_agents_and_episodes_of_unequal_length_come_back():
    rng, world = np.random.default_rng(0), World(find_task("reacher"))
    behaviour, variation = {"strength": [0.1, 0.2]}, {"mass": [0.5, 2.0]}
    low, high, names = [-1.0, -1.0], [1.0, 1.0], ["on-policy-00001", "shard-00000"]
    spec = DatasetSpec("reacher", 3, 16, 4, 9, behaviour, low, high, variation)
    for name, lengths in zip(names, ([4, 9], [2, 6, 3]), strict=True):
        frames = sum(lengths)
        columns = {
            "pixels": rng.integers(256, size=(frames, 16, 16, 3)).astype(np.uint8),
            "action": rng.uniform(-1, 1, (frames, 2)).astype(np.float32),
            "state": rng.standard_normal((frames, world.state_size)),
            "achieved": rng.standard_normal((frames, 3)),
        }
        columns["action"][np.cumsum(lengths) - 1] = 0  # none after the last frame
        agent = {"weights": "abc"} if name == names[0] else None
        write_shard(Path(f"there/{name}"), columns, lengths, agent)
    write_meta(Path("there"), spec, names)
    assert main(["export", "there", "--out", "exported"]) == 0
    assert main(["import", "exported", "--out", "back"]) == 0
    assert content(Path("back")) == content(Path("there"))


def test_images_and_actions_alone_come_back():
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(5, 8, 8, 3)).astype(np.uint8)
    write_dataset(Path("own"), [{"pixels": images, "action": rng.uniform(-1, 1, (4, 2))}])
    assert main(["export", "own", "--out", "exported"]) == 0
    assert main(["import", "exported", "--out", "back"]) == 0
    assert content(Path("back")) == content(Path("own"))


def test_minari_reads_what_was_exported(reacher, root):
    assert main(["export", str(reacher)]) == 0
    dataset, there = minari.load_dataset("mujepa/reacher-v0"), Dataset(reacher)
    assert (dataset.total_episodes, dataset.total_steps) == (6, 6 * 12)
    for episode in dataset:
        images, actions = (there.episode(name, episode.id) for name in ("pixels", "action"))
        np.testing.assert_array_equal(episode.observations["pixels"], images)
        np.testing.assert_array_equal(episode.actions, actions[:-1])
        assert dataset.action_space.contains(episode.actions[0])
        last = {name: array[-1] for name, array in episode.observations.items()}
        assert dataset.observation_space.contains(last)
        assert episode.truncations.tolist() == 11 * [False] + [True]
    assert main(["import", "mujepa/reacher-v0", "--out", "back"]) == 0


# ------------------------------------------------------------------ recorded by Minari elsewhere


def hold_upright(observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Balance an inverted pendulum for a while, with noise."""
    state = observation["state"] if isinstance(observation, dict) else observation
    feedback = state @ np.array([1.0, 12.0, 1.5, 2.0])
    return np.clip([feedback + rng.normal(0, 0.3)], -3, 3).astype(np.float32)


def record(
    env: gymnasium.Env, name: str, act, lengths: list[int], infos: tuple[str, ...] = (), **kw
) -> list[np.ndarray]:
    """Have Minari record episodes; return the states of MuJoCo that they passed."""
    rng, passed, buffers = np.random.default_rng(0), [], []
    for seed, length in enumerate(lengths):
        observations, actions, data = [env.reset(seed=seed)[0]], [], env.unwrapped.data
        states = [np.r_[data.qpos, data.qvel]]
        for _ in range(length):
            actions.append(act(observations[-1], rng))
            observations.append(env.step(actions[-1])[0])
            states.append(np.r_[data.qpos, data.qvel])
        passed.append(np.stack(states))
        qpos, qvel = np.split(passed[-1], [env.unwrapped.model.nq], axis=1)
        arrays = {"qpos": qpos, "qvel": qvel}
        arrays |= {"x_position": qpos[:, 0], "y_position": qpos[:, 1]}
        buffers.append(buffer(observations, actions, {it: arrays[it] for it in infos} or None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for authors
        minari.create_dataset_from_buffers(name, buffers, env=env, **kw)
    env.close()
    return passed


def buffer(observations: list, actions: list, infos: dict | None):
    if isinstance(keys := observations[0], dict):
        observations = {key: np.stack([it[key] for it in observations]) for key in keys}
    steps = len(actions)
    return EpisodeBuffer(
        observations=observations,
        actions=actions,
        rewards=[0.0] * steps,
        terminations=[False] * steps,
        truncations=[False] * (steps - 1) + [True],
        infos=infos,
    )


def pendulum(*, seen: bool = False) -> gymnasium.Env:
    """An inverted pendulum; `seen` adds rendered images, `pixels`, to the numbers in `state`."""
    more = {"render_mode": "rgb_array", "width": 96, "height": 96} if seen else {}
    env = gymnasium.make("InvertedPendulum-v5", disable_env_checker=True, **more)
    return AddRenderObservation(env, render_only=False) if seen else env


def test_a_dataset_that_minari_recorded_is_learned_from(root, capfd):
    recorded = record(pendulum(seen=True), "pendulum/balance-v0", hold_upright, [41, 40, 30, 8])
    assert main(["import", "pendulum/balance-v0", "--out", "data"]) == 0
    said = capfd.readouterr().out
    assert "states from state; replaying the actions reproduces them" in said
    assert "left out: 1 episodes of less than 10 frames" in said
    assert re.search(r"in 100 % of the model steps \(of 2 environment steps\) the action ch", said)
    dataset, world = Dataset(Path("data")), World(find_task(PENDULUM))
    assert dataset.lengths.tolist() == [21, 21, 16]
    for episode, passed in enumerate(recorded[:3]):
        states = dataset.episode("state", episode)
        np.testing.assert_array_equal(states[:, 1:], passed[::2][: len(states)])
        np.testing.assert_array_equal(dataset.episode("pixels", episode), world.render(states))
        np.testing.assert_array_equal(dataset.episode("achieved", episode), world.achieved(states))
    assert main(f"train {PENDULUM} --out run --data data {TOY}".split()) == 0


def test_recorded_images_are_taken_where_they_are_asked_for(root, capfd):
    env = pendulum(seen=True)
    record(env, "pendulum/balance-v0", hold_upright, [20, 24], jpeg_encoding=False)
    assert main(["import", "pendulum/balance-v0", "--out", "data", "--pixels", "pixels"]) == 0
    said = capfd.readouterr().out
    assert re.search(r"the recorded images differ by \d+\.\d of 255 grey levels", said)
    recorded = minari.load_dataset("pendulum/balance-v0")[1].observations["pixels"]
    taken = Dataset(Path("data")).episode("pixels", 1)
    np.testing.assert_array_equal(taken, resized(recorded[::2], 64))


def test_the_action_of_a_model_step_is_the_mean_of_those_taken_clipped_to_the_bounds(root, capfd):
    def strong(observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return 3 * hold_upright(observation, rng)

    record(pendulum(), "toy/pendulum-v0", strong, [21, 24])
    assert main(["import", "toy/pendulum-v0", "--out", "data"]) == 0
    assert "out of bounds, and clipped: " in capfd.readouterr().out
    actions = Dataset(Path("data")).episode("action", 0)
    taken = minari.load_dataset("toy/pendulum-v0")[0].actions[:20].reshape(10, 2, 1)
    assert np.abs(taken).max() > 3
    means = np.clip(taken.astype(np.float64), -3, 3).mean(axis=1)
    np.testing.assert_allclose(actions[:-1], means, atol=1e-6)
    np.testing.assert_array_equal(actions[-1], 0)


@pytest.mark.parametrize("infos", [("qpos", "qvel"), ("x_position", "y_position")])
def test_states_are_found_under_qpos_and_qvel_and_as_roots_in_infos(root, capfd, infos):
    """As D4RL's mazes and Minari's MuJoCo datasets have them."""

    def act(_: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, 2).astype(np.float32)

    env = gymnasium.make("Swimmer-v5", disable_env_checker=True)
    passed = record(env, "swimmer/random-v0", act, [30, 30], infos)
    assert main(["import", "swimmer/random-v0", "--out", "data", "--shortest", "2"]) == 0
    assert f"states from infos/{infos[0]}, " in capfd.readouterr().out
    dataset = Dataset(Path("data"))
    states = dataset.episode("state", 1)
    expected = passed[1][:: dataset.spec.frame_skip][: len(states)]
    np.testing.assert_array_equal(states[:, 1:], expected)


def test_areas_are_averaged_where_images_are_made_smaller():
    image = np.random.default_rng(0).integers(256, size=(2, 12, 12, 3)).astype(np.uint8)
    means = image.reshape(2, 4, 3, 4, 3, 3).astype(float).mean(axis=(2, 4))
    np.testing.assert_allclose(resized(image, 4), means, atol=1)
    np.testing.assert_array_equal(resized(image, 12), image)


# ------------------------------------------------------------------------------------ refusals


@pytest.fixture
def balanced(root) -> Path:
    """A dataset of Minari's without images."""
    record(pendulum(), "pendulum/balance-v0", hold_upright, [24, 24, 24])
    return root / "pendulum" / "balance-v0" / "data"


def change(folder: Path, **changes: object) -> None:
    path = folder / "metadata.json"
    there = json.loads(path.read_text())
    values = {key: value for key, value in (there | changes).items() if value is not None}
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ("nothing/there-v0", "no Minari dataset 'nothing/there-v0': neither a folder, nor in"),
        ("pendulum/balance-v0 --pixels pixels", "names no square images; there are none"),
        ("pendulum/balance-v0 --task reacher", "actions (1,) of float32, and reacher takes 2"),
        ("pendulum/balance-v0 --task cartpole", "is not of cartpole: replaying its actions fr"),
        ("pendulum/balance-v0 --task gymnasium:Hopper-v5", "takes 3 real numbers"),
        ("pendulum/balance-v0 --task raecher", "unknown task 'raecher'; did you mean 'reacher'?"),
        ("pendulum/balance-v0 --shortest 1", "--shortest must be at least 2, got 1"),
        ("pendulum/balance-v0 --shortest 99", "none of the 3 episodes of pendulum/balance-v0 has"),
        ("pendulum/balance-v0 --camera above", "--camera is for a MuJoCo file of your own"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_one_line(balanced, capfd, flags, answer):
    assert answer in complaint(capfd, f"import {flags} --out data")
    assert not list(Path().glob("*data*"))


def test_a_dataset_without_states_is_refused_by_what_it_holds(root, capfd):
    env = gymnasium.make("HalfCheetah-v5", disable_env_checker=True)

    def act(_: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, 6).astype(np.float32)

    record(env, "cheetah/random-v0", act, [40, 40])
    line = complaint(capfd, "import cheetah/random-v0 --out data")
    assert "does not hold the states of gymnasium:HalfCheetah-v5" in line
    assert "there are observations (17,), actions (6,); record them as infos" in line


def test_no_code_that_a_dataset_names_is_run(balanced, capfd):
    """Minari would make the environment, and import what its entry point says."""
    evil = {"id": "Evil-v0", "entry_point": "evil:Evil", "kwargs": {}, "additional_wrappers": []}
    Path("evil.py").write_text("raise SystemExit('this was run')")
    change(balanced, observation_space=None, env_spec=json.dumps(evil))
    line = complaint(capfd, "import pendulum/balance-v0 --out data")
    assert "has no observation_space, and none is taken from code" in line
    change(balanced, observation_space='{"type": "Discrete", "start": 0, "n": 2}')
    assert "comes from Evil-v0, which is no task here" in complaint(
        capfd, "import pendulum/balance-v0 --out data"
    )


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"minari_version": "0.0.9"}, "does not support the dataset generated by Minari 0.0.9"),
        ({"observation_space": "{"}, "is damaged"),
        ({"observation_space": '{"type": "Graph"}'}, "is damaged"),
        ({"data_format": "zip"}, "is damaged ('zip')"),
        ({"total_episodes": 9}, "is damaged"),
        ({"total_episodes": 0}, "holds no episodes"),
        ({"env_spec": None}, "names no environment; name its task with --task"),
        ({"mujepa": {"spec": {}}}, "is damaged"),
    ],
)
def test_a_damaged_description_is_refused_in_one_line(balanced, capfd, changes, answer):
    change(balanced, **changes)
    assert answer in complaint(capfd, "import pendulum/balance-v0 --out data")
    assert not list(Path().glob("*data*"))


def test_a_damaged_file_is_refused_in_one_line(balanced, capfd):
    path = balanced / "main_data.hdf5"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"nonsense"):
        path.write_bytes(content)
        assert "is damaged" in complaint(capfd, "import pendulum/balance-v0 --out data")
    path.unlink()
    assert "is damaged" in complaint(capfd, "import pendulum/balance-v0 --out data")


def test_numbers_that_are_not_finite_are_refused(balanced, capfd):
    with h5py.File(balanced / "main_data.hdf5", "a") as file:
        file["episode_1/actions"][3] = np.nan
    assert "episode 1 holds actions that are not finite" in complaint(
        capfd, "import pendulum/balance-v0 --out data"
    )
    assert not list(Path().glob("*data*"))


def test_an_export_that_was_changed_since_is_refused(exported, capfd):
    shutil.copytree(exported, "copy")
    change(Path("copy/data"), total_episodes=5)
    assert "holds 5 episodes, and 6 were exported" in complaint(capfd, "import copy --out data")
    line = complaint(capfd, f"import {exported} --out data --task reacher")
    assert "is restored as it was; leave out --task and --pixels" in line


def test_nothing_that_is_there_is_written_over(reacher, exported, balanced, capfd):
    before = content(exported)
    assert "holds a dataset already" in complaint(capfd, f"export {reacher} --out {exported}")
    assert content(exported) == before
    Path("data").mkdir()
    assert "exists already" in complaint(capfd, f"import {exported} --out data")


def test_an_export_is_refused_a_name_that_minari_does_not_take(reacher, capfd):
    for name in ("reacher", "a b-v0"):
        capfd.readouterr()
        assert main(["export", str(reacher), "--id", name, "--out", "out"]) == 2
        assert "Minari calls a dataset NAME-vNUMBER" in capfd.readouterr().err
    assert "cannot read nowhere" in complaint(capfd, "export nowhere --out out")
    assert not Path("out").exists()


def test_none_is_collected_to_imported_episodes(balanced, capfd):
    assert main(["import", "pendulum/balance-v0", "--out", "data"]) == 0
    line = complaint(capfd, f"collect {PENDULUM} --out data")
    assert "data holds imported episodes, to which none can be collected" in line
    line = complaint(capfd, f"train {PENDULUM} --out run --data data --episodes 9")
    assert "--episodes 9: data holds 3, and none can be added" in line
    line = complaint(capfd, "train cartpole --out run --data data")
    assert "data was collected with" in line


def test_without_minari_it_is_said_how_to_install_it(reacher, capfd, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    line = complaint(capfd, "import some/thing-v0 --out data")
    assert "need h5py; install it with: pip install 'mujepa[data]'" in line
