"""What the tests of pictures share: a checkpoint without a decoder, and one episode."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.evaluation.manifest import make_manifest
from mujepa.visual.decoder import DecoderConfig, load_decoder

REACHER = Path(__file__).parents[2] / "pretrained" / "reacher"


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the shipped reacher, without a decoder."""
    folder = tmp_path / "reacher"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "provenance.json"):
        shutil.copy(REACHER / name, folder)
    return load_checkpoint(folder, "cpu")


@pytest.fixture(scope="session")
def toy():
    """Settings of a decoder that is trained in a moment."""
    return DecoderConfig(frames=150, updates=2, batch=4)


@pytest.fixture
def decoder(checkpoint, world, toy):
    """A decoder, which lies in the checkpoint's folder."""
    return load_decoder(checkpoint, world, config=toy)


@pytest.fixture(scope="session")
def episode(world):
    """The first episode of an evaluation, and its seed."""
    manifest = make_manifest(world, 1, 0)
    return manifest.episodes[0], manifest.seeds[0]
