"""The decoder, and the pictures that explain an agent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.agent.encoder import EncoderConfig
from mujepa.agent.jepa import JEPAConfig
from mujepa.cli.main import main
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.sampling import sample_episodes
from mujepa.evaluation.trace import trace_episode
from mujepa.visual import decoder as decoders
from mujepa.visual.decoder import DecoderConfig, find_decoder, load_decoder, train_decoder
from mujepa.visual.pictures import draw_plan, measure_surprise
from mujepa.visual.video import record_episode

PRETRAINED = Path(__file__).parents[2] / "pretrained"
FEW = DecoderConfig(frames=1500, updates=120, batch=16, learning_rate=4e-3, emphasis=0)
TOY = DecoderConfig(frames=150, updates=2, batch=4)


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the shipped reacher, without a decoder."""
    folder = tmp_path / "reacher"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "provenance.json"):
        shutil.copy(PRETRAINED / "reacher" / name, folder)
    return load_checkpoint(folder, "cpu")


# --------------------------------------------------------------------------------- decoder


def test_decoded_images_are_nearer_to_the_real_ones_than_the_mean_image_is(checkpoint, world):
    _, scores = train_decoder(checkpoint, world, config=FEW)
    assert scores["psnr"] > scores["psnr_mean_image"]
    assert scores["psnr_moving"] > scores["psnr_moving_mean_image"] + 1


def test_training_a_decoder_leaves_the_agent_and_the_random_stream_as_they_were(checkpoint, world):
    before = {name: value.clone() for name, value in checkpoint.networks.state_dict().items()}
    checkpoint.networks.requires_grad_(True)
    random = torch.get_rng_state()
    decoder, _ = train_decoder(checkpoint, world, config=TOY)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in checkpoint.networks.parameters())
    for name, value in checkpoint.networks.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


def test_a_decoder_is_trained_once_and_found_again(checkpoint, world):
    updates = []
    assert find_decoder(checkpoint) is None
    trained = load_decoder(checkpoint, world, lambda: updates.append(1), TOY)
    found = load_decoder(checkpoint, world, lambda: updates.append(1), TOY)
    assert len(updates) == TOY.updates
    embeddings = torch.randn(3, 2, checkpoint.networks.jepa.dim)
    images = found.decode(embeddings)
    assert images.shape == (3, 2, 64, 64, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, trained.decode(embeddings))
    files = {path.name: path.stat().st_size for path in checkpoint.folder.glob("decoder.*")}
    assert files.keys() == {"decoder.safetensors", "decoder.json"}
    assert files["decoder.safetensors"] < 1.5e6


@pytest.mark.parametrize("damage", ["other weights", "torn file", "no object", "not there"])
def test_a_decoder_that_does_not_fit_is_trained_anew(checkpoint, world, damage):
    load_decoder(checkpoint, world, config=TOY)
    weights, description = (checkpoint.folder / f"decoder.{end}" for end in ("safetensors", "json"))
    good = weights.read_bytes(), description.read_text()
    if damage == "other weights":
        other = json.loads(good[1]) | {"model_sha256": "0" * 64}
        description.write_text(json.dumps(other))
    elif damage == "torn file":
        weights.write_bytes(good[0][:1000])
    elif damage == "no object":
        description.write_text("[]")
    else:
        weights.unlink()
    assert find_decoder(checkpoint) is None
    load_decoder(checkpoint, world, config=TOY)
    assert (weights.read_bytes(), description.read_text()) == good  # the same seed, the same bytes


def test_where_the_folder_cannot_be_written_the_decoder_is_kept_in_memory(
    checkpoint, world, monkeypatch
):
    def full(path: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("mujepa.runtime.files._sync", full)
    decoder = load_decoder(checkpoint, world, config=TOY)
    assert decoder.decode(torch.zeros(1, checkpoint.networks.jepa.dim)).shape == (1, 64, 64, 3)
    assert not list(checkpoint.folder.glob("*decoder*"))


def test_an_agent_that_reads_joints_is_decoded_to_images_too(untrained, tiny, world):
    encoder = EncoderConfig("mlp", dim=8, width=8)
    size = world.proprioception(world.state(world.model.qpos0)).shape[0]
    checkpoint = untrained(tiny(observation_shape=(size,), jepa=JEPAConfig(encoder)))
    decoder, scores = train_decoder(checkpoint, world, config=TOY)
    assert decoder.decode(torch.zeros(2, 8)).shape == (2, 64, 64, 3)
    assert np.isfinite(list(scores.values())).all()


@pytest.mark.parametrize("size", [32, 48, 64, 80])
def test_images_of_any_size_are_decoded(size):
    assert decoders.Decoder(8, size).decode(torch.zeros(1, 8)).shape == (1, size, size, 3)


def test_fresh_frames_are_the_same_again_and_none_of_those_that_a_decoder_learned_from(untrained):
    world, jepa = World(find_task("reacher"), 32), untrained().networks.jepa
    one, again, other = (sample_episodes(jepa, world, 102, 0, kind) for kind in (0, 0, 1))
    assert torch.equal(one.images, again.images)
    torch.testing.assert_close(one.embeddings[1, 3:4], jepa.encode(one.images[1, 3:4]))
    starts = np.concatenate([one.states[:, 0], other.states[:, 0]])
    assert len(np.unique(starts, axis=0)) == 4


# -------------------------------------------------------------------------------- pictures


@pytest.fixture
def folder(checkpoint, world, monkeypatch):
    """A checkpoint with a decoder of a moment's training, and small figures behind pictures."""
    load_decoder(checkpoint, world, config=TOY)
    monkeypatch.setattr("mujepa.visual.pictures.FRAMES", 200)
    return checkpoint.folder


@pytest.mark.parametrize(
    ("show", "ending", "change"),
    [
        ("episode", "gif", "--episode 1"),
        ("plan", "png", "--step 40"),
        ("map", "png", "--episode 1"),
        ("surprise", "png", "--vary gain=0.3"),
    ],
)
def test_a_picture_is_the_same_for_the_same_and_another_for_another(
    folder, tmp_path, show, ending, change
):
    def picture(name: str, more: str) -> bytes:
        path = tmp_path / f"{name}.{ending}"
        every = "--every 25" if show == "episode" else ""
        command = f"visualize {folder} --show {show} --out {path} --device cpu {every} {more}"
        assert main(command.split()) == 0
        return path.read_bytes()

    first = picture("first", "")
    assert picture("again", "") == first
    assert picture("other", change) != first


def test_a_film_has_three_panels_and_below_them_the_cost(folder, tmp_path):
    out = tmp_path / "a.gif"
    assert main(f"visualize {folder} --out {out} --every 25 --device cpu".split()) == 0
    film = iio.imread(out)
    assert film.shape == (5, 256 + 56, 3 * 256 + 16, 3)
    assert (film[0, 256:] != film[-1, 256:]).any()  # the cursor moves


@pytest.mark.parametrize(
    ("show", "name", "remedy"),
    [
        ("episode", "a.png", "name it .mp4 or .gif, or choose a picture with --show plan, map"),
        ("episode", "a", "ends in .mp4 or .gif"),
        ("plan", "a.mp4", "choose a name with --out plan.png"),
        ("map", "a.gif", "choose a name with --out map.png"),
        ("surprise", "a.svg", "choose a name with --out surprise.png"),
    ],
)
def test_a_name_that_does_not_fit_is_refused_before_anything_is_done(
    checkpoint, tmp_path, capfd, show, name, remedy
):
    out = tmp_path / "out" / name
    assert main(f"visualize {checkpoint.folder} --show {show} --out {out}".split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert remedy in line
    assert not out.parent.exists()
    assert find_decoder(checkpoint) is None


def test_a_step_after_the_end_of_the_episode_is_refused(folder, tmp_path, capfd):
    out = tmp_path / "plan.png"
    assert main(f"visualize {folder} --show plan --step 100 --out {out}".split()) == 2
    assert "an episode has steps 0 to 99" in capfd.readouterr().err.splitlines()[-1]
    assert not out.exists()


@pytest.fixture
def episode(world):
    manifest = make_manifest(world, 1, 0)
    return manifest.episodes[0], manifest.seeds[0]


def test_a_filmstrip_shows_what_the_simulator_makes_of_the_plan(checkpoint, world, episode):
    agent = checkpoint.agent()
    decoder, _ = train_decoder(checkpoint, world, config=TOY)
    figure = draw_plan(agent, decoder, world, *episode, step=9)  # the decision was at 8
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert len(shown) == 2 * (1 + agent.planner.horizon + 1)
    walked = trace_episode(agent, world, *episode, steps=13)
    now, after = walked.images(walked.states[[8, 12]])  # it does the first action of the plan
    np.testing.assert_array_equal(shown[0], now)
    np.testing.assert_array_equal(shown[1], after)
    np.testing.assert_array_equal(
        shown[agent.planner.horizon + 1], walked.images(walked.goal[None])[0]
    )
    mind = walked.agent_states[8]
    expected = decoder.decode(agent.predict(mind)[0][0])
    np.testing.assert_array_equal(np.stack(shown[-6:-1]), expected)


def test_what_was_imagined_for_now_is_unrolled_from_a_horizon_ago(checkpoint, world, episode):
    agent = checkpoint.agent()
    decoder, _ = train_decoder(checkpoint, world, config=TOY)
    recording = record_episode(agent, checkpoint.networks.probe, world, *episode, decoder, fan=True)
    assert recording.ago[:28:4].tolist() == [0, 1, 2, 3, 4, 5, 5]
    walked = trace_episode(agent, world, *episode)
    memory = walked.decisions[1].memory
    for mind in walked.decisions[1:6]:
        memory = memory.push(mind.action, agent.jepa.predictor(memory, mind.action))
    expected = decoder.decode(memory.embeddings[:, -1])[0]
    np.testing.assert_array_equal(recording.decoded[24], expected)


def test_the_fan_holds_the_cheapest_candidates_and_ends_where_they_lead(checkpoint, world, episode):
    agent, probe = checkpoint.agent(), checkpoint.networks.probe
    recording = record_episode(agent, probe, world, *episode, fan=True)
    assert record_episode(agent, probe, world, *episode).fan == []
    plan = trace_episode(agent, world, *episode, steps=1).agent_states[0].plan
    assert recording.fan[0].shape == (32, agent.planner.horizon + 1, 2)
    cheapest = plan.trace.candidates[:, plan.trace.costs[0].argmin()][:, None]
    mind = trace_episode(agent, world, *episode, steps=1).agent_states[0]
    end = probe(agent.configurator.rollout(mind.memory, cheapest)[0, 0, -1])
    place = world.project(end.double().numpy())
    np.testing.assert_allclose(recording.fan[0][0, -1], place, atol=1e-5)


def test_the_world_model_is_more_surprised_where_the_arm_is_heavier(checkpoint, world, episode):
    varied = World(world.task, variation=read_variation("mass=4"))
    heavy = make_manifest(varied, 1, 0).episodes[0]
    agent = checkpoint.agent()
    usual, surprised = (
        measure_surprise(trace_episode(agent, where, one, episode[1], steps=40), 1.0).ratio.mean()
        for where, one in ((world, episode[0]), (varied, heavy))
    )
    assert surprised > 1.5 * usual


# ------------------------------------------------------------------------ live and recorded


def test_a_rerun_recording_holds_the_episode_and_verifies(checkpoint, tmp_path):
    path = tmp_path / "new" / "episode.rrd"
    command = f"visualize {checkpoint.folder} --rerun {path} --decoder-updates 0 --device cpu"
    assert main(command.split()) == 0
    assert {file.name for file in path.parent.iterdir()} == {"episode.rrd"}
    rerun = Path(sysconfig.get_path("scripts")) / "rerun"
    verify = subprocess.run([rerun, "rrd", "verify", path], capture_output=True, text=True)
    assert verify.returncode == 0, verify.stderr
    printed = subprocess.run([rerun, "rrd", "print", path], capture_output=True, text=True).stdout
    for entity in ("/goal", "/camera", "/camera/plan", "/cost", "/distance_cm"):
        assert entity in printed


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--rerun episode.mp4", ".rrd"),
        ("--rerun episode.rrd --show map --out map.png", "--show map"),
        ("--viewer --vary wings=2", "wings"),
        ("--viewer", "display"),
    ],
)
def test_what_cannot_be_shown_live_or_recorded_is_refused(
    flags, said, checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["visualize", str(checkpoint.folder), *flags.split()]) == 2
    assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"reacher"}
