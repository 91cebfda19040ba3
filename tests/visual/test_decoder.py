"""The decoder of embeddings to images."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mujepa.agent.encoder import EncoderConfig
from mujepa.agent.jepa import JEPAConfig
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluation.held_out import sample_episodes
from mujepa.runtime.errors import UserError
from mujepa.visual.decoder import Decoder, DecoderConfig, find_decoder, load_decoder, train_decoder

FEW = DecoderConfig(frames=1000, updates=100, batch=16, learning_rate=4e-3, emphasis=0)


def test_invalid_settings_of_a_decoder_are_refused():
    with pytest.raises(UserError, match="--updates must be at least 1, got 0"):
        DecoderConfig(updates=0)


def test_decoded_images_are_nearer_to_the_real_ones_than_the_mean_image_is(checkpoint, world):
    _, scores = train_decoder(checkpoint, world, config=FEW)
    assert scores["psnr"] > scores["psnr_mean_image"]
    assert scores["psnr_moving"] > scores["psnr_moving_mean_image"] + 1


def test_training_a_decoder_leaves_the_agent_and_the_random_stream_as_they_were(
    checkpoint, world, toy
):
    before = {name: value.clone() for name, value in checkpoint.networks.state_dict().items()}
    checkpoint.networks.requires_grad_(True)
    random = torch.get_rng_state()
    decoder, _ = train_decoder(checkpoint, world, config=toy)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in checkpoint.networks.parameters())
    for name, value in checkpoint.networks.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


def test_a_decoder_is_trained_once_and_found_again(checkpoint, world, toy):
    updates = []
    assert find_decoder(checkpoint) is None
    trained = load_decoder(checkpoint, world, lambda: updates.append(1), toy)
    found = load_decoder(checkpoint, world, lambda: updates.append(1), toy)
    assert len(updates) == toy.updates
    embeddings = torch.randn(3, 2, checkpoint.networks.jepa.dim)
    images = found.decode(embeddings)
    assert images.shape == (3, 2, 64, 64, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, trained.decode(embeddings))
    assert (checkpoint.folder / "decoder.safetensors").stat().st_size < 1.5e6


@pytest.mark.parametrize("damage", ["other weights", "torn file", "no object", "not there"])
def test_a_decoder_that_does_not_fit_is_trained_anew(checkpoint, world, damage, toy):
    load_decoder(checkpoint, world, config=toy)
    weights, description = (checkpoint.folder / f"decoder.{end}" for end in ("safetensors", "json"))
    good = weights.read_bytes(), description.read_text()
    if damage == "other weights":
        description.write_text(json.dumps(json.loads(good[1]) | {"model_sha256": "0" * 64}))
    elif damage == "torn file":
        weights.write_bytes(good[0][:1000])
    elif damage == "no object":
        description.write_text("[]")
    else:
        weights.unlink()
    assert find_decoder(checkpoint) is None
    load_decoder(checkpoint, world, config=toy)
    assert (weights.read_bytes(), description.read_text()) == good  # the same seed, the same bytes


def test_where_the_folder_cannot_be_written_the_decoder_is_kept_in_memory(
    checkpoint, world, monkeypatch, toy
):
    def full(path: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("mujepa.runtime.files._sync", full)
    decoder = load_decoder(checkpoint, world, config=toy)
    assert decoder.decode(torch.zeros(1, checkpoint.networks.jepa.dim)).shape == (1, 64, 64, 3)
    assert not list(checkpoint.folder.glob("*decoder*"))


def test_an_agent_that_reads_joints_is_decoded_to_images_too(untrained, tiny, world, toy):
    encoder = EncoderConfig("mlp", dim=8, width=8)
    size = world.proprioception(world.state(world.model.qpos0)).shape[0]
    checkpoint = untrained(tiny(observation_shape=(size,), jepa=JEPAConfig(encoder)))
    decoder, scores = train_decoder(checkpoint, world, config=toy)
    assert decoder.decode(torch.zeros(2, 8)).shape == (2, 64, 64, 3)
    assert np.isfinite(list(scores.values())).all()


@pytest.mark.parametrize("size", [32, 48, 64, 80])
def test_images_of_any_size_are_decoded(size):
    assert Decoder(8, size).decode(torch.zeros(1, 8)).shape == (1, size, size, 3)


def test_fresh_frames_are_the_same_again_and_none_of_those_that_a_decoder_learned_from(untrained):
    world, jepa = World(find_task("reacher"), 32), untrained().networks.jepa
    one, again, other = (sample_episodes(jepa, world, 102, 0, kind) for kind in (0, 0, 1))
    assert torch.equal(one.images, again.images)
    torch.testing.assert_close(one.embeddings[1, 3:4], jepa.encode(one.images[1, 3:4]))
    starts = np.concatenate([one.states[:, 0], other.states[:, 0]])
    assert len(np.unique(starts, axis=0)) == 4
