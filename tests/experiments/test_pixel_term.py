"""The term of the experiment on pixels reads what was seen and what is predicted."""

import sys
from pathlib import Path

import pytest
import torch

from mujepa.agent.encoder import EncoderConfig
from mujepa.agent.jepa import JEPA, JEPAConfig
from mujepa.agent.memory import Memory
from mujepa.agent.predictor import PredictorConfig
from mujepa.training.losses import InverseDynamics, LossConfig, encode_batch

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
from pixel_term import PatchDecoder, pixel_error, window_error


@pytest.fixture
def batch():
    torch.manual_seed(0)
    config = JEPAConfig(EncoderConfig(dim=6, width=8), PredictorConfig(history=2, width=16))
    jepa, inverse = JEPA(config, (32, 32, 3), 2), InverseDynamics(6, 2, 2)
    pictures = torch.randint(0, 256, (4, 6, 32, 32, 3)).to(torch.uint8)
    actions = torch.rand(4, 5, 2) * 2 - 1
    return encode_batch(LossConfig(), jepa, inverse, pictures, actions, torch.Generator())


@torch.no_grad()
def test_images_are_read_from_the_frames_that_were_seen_and_from_those_that_are_predicted(batch):
    """Against an image put together from its patches, and a path made one step at a time."""
    decoder = PatchDecoder(6, 32, width=8)
    path = [batch.embeddings[:, 0], batch.embeddings[:, 1]]
    for step in range(1, 5):
        memory = Memory(torch.stack(path[-2:], dim=1), batch.actions[:, step - 1 : step])
        path.append(batch.jepa.predictor(memory, batch.actions[:, step]))
    errors = []
    for step, embedding in enumerate(path):
        patches = decoder(embedding).unflatten(3, (8, 8, 3)).transpose(2, 3)
        image = patches.reshape(4, 32, 32, 3) / 255
        errors.append((image - batch.observations[:, step] / 255).square().mean())
    torch.testing.assert_close(window_error(decoder, batch), torch.stack(errors).mean())


def test_pixels_teach_encoder_predictor_and_decoder(batch):
    decoder = PatchDecoder(6, 32, width=8)
    window_error(decoder, batch).backward()
    for module in (batch.jepa.encoder.project, batch.jepa.predictor, decoder):
        assert all(weight.grad.abs().max() > 0 for weight in module.parameters())


def test_a_patch_decoder_learns_to_tell_images_apart():
    torch.manual_seed(0)
    decoder = PatchDecoder(2, 32, width=16)
    images = (255 * torch.rand(3, 4, 4, 3)).byte()
    images = images.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    optimizer = torch.optim.AdamW(decoder.parameters(), 1e-2)
    errors = []
    for _ in range(40):
        error = pixel_error(decoder, embeddings, images)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.1 * errors[0]
