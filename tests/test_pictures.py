"""The decoder, and the pictures that explain an agent."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.agent.encoder import EncoderConfig
from mujepa.agent.jepa import JEPAConfig
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluation import decoder as decoders
from mujepa.evaluation.decoder import DecoderConfig, find_decoder, load_decoder, train_decoder

PRETRAINED = Path(__file__).parents[1] / "pretrained"
FEW = DecoderConfig(frames=1500, updates=60)
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

    monkeypatch.setattr("mujepa.files._sync", full)
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


def test_frames_to_learn_from_are_none_of_those_that_were_collected_or_are_judged_on(untrained):
    world = World(find_task("reacher"), 32)
    frames = decoders._collect(untrained().networks.jepa, world, TOY)
    again = decoders._collect(untrained().networks.jepa, world, TOY)
    assert torch.equal(frames.images, again.images)
    assert frames.held_out == 51
    assert decoders.STREAM not in (0, 1, 2, 3, 5)
