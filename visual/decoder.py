"""A decoder from embeddings to images, for people.

It is trained after the world model, on the embeddings of held-out frames. No gradient of it reaches
the world model, and the agent never uses it: it shows what the embeddings keep.

    decoder.safetensors   weights
    decoder.json          checksums, sizes, settings, and errors on held-out frames

Letters: B batch, N frames, D embedding, P image size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mujepa.agent.checkpoint import Checkpoint, save_tensors
from mujepa.envs.world import World
from mujepa.evaluation.held_out import sample_episodes
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import replacing_file, sha256, write_json
from mujepa.runtime.settings import Count, NonNegative, Positive, Seed, settings
from mujepa.training.schedule import schedule

WIDTH = 64  # channels of the coarsest feature map
DECODE_BATCH = 1024
FOREGROUND = 25
"""A pixel is foreground where a colour differs from the background's by more, of 255."""


@settings
class DecoderConfig:
    """Training of a decoder."""

    frames: Count = 6000
    """Held-out frames for training and for the errors."""
    updates: Count = 2000
    batch: Count = 32
    """Frames per update."""
    learning_rate: Positive = 2e-3
    """The highest one."""
    emphasis: NonNegative = 4.0
    """Additional weight of the error at foreground pixels."""
    seed: Seed = 0


DEFAULT = DecoderConfig()


class Decoder(nn.Module):
    """Two linear layers, then transposed convolutions (arXiv 1511.06434), from D to P."""

    def __init__(self, dim: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        doublings = max(1, math.ceil(math.log2(image_size / 4)))
        grid = math.ceil(image_size / 2**doublings)
        channels = [WIDTH] * doublings + [WIDTH // 2, WIDTH // 4, 3]
        layers: list[nn.Module] = [nn.Linear(dim, 3 * WIDTH), nn.SiLU()]
        layers += [nn.Linear(3 * WIDTH, WIDTH * grid * grid), nn.Unflatten(1, (WIDTH, grid, grid))]
        for inputs, outputs in pairwise(channels[-doublings - 1 :]):
            layers += [nn.SiLU(), nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)]
        self.net = nn.Sequential(*layers)

    @torch.no_grad()
    def initialise(self, colour: Tensor) -> None:
        """Make the output close to one colour (3), from 0 to 1, at every pixel."""
        last = self.net[-1]
        assert isinstance(last, nn.ConvTranspose2d)
        assert last.bias is not None
        last.bias.copy_(colour - 0.5)
        last.weight.mul_(0.1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return images with values of about 0 to 1, (B, D) -> (B, P, P, 3)."""
        images = self.net(embeddings)[..., : self.image_size, : self.image_size]
        return images.permute(0, 2, 3, 1) + 0.5

    @torch.no_grad()
    def decode(self, embeddings: Tensor) -> NDArray[np.uint8]:
        """Return images to show, (..., D) -> (..., P, P, 3) uint8."""
        flat = embeddings.reshape(-1, embeddings.shape[-1])
        images = torch.cat([self(part) for part in flat.split(DECODE_BATCH)])
        images = (255 * images.clamp(0, 1)).round().byte().cpu().numpy()
        return images.reshape(*embeddings.shape[:-1], *images.shape[1:])


def train_decoder(
    checkpoint: Checkpoint,
    world: World,
    on_update: Callable[[], object] = lambda: None,
    config: DecoderConfig = DEFAULT,
) -> tuple[Decoder, dict[str, float]]:
    """Train a decoder of a checkpoint's embeddings; the checkpoint's networks stay unchanged.

    The loss is the squared error, weighted at foreground pixels, which differ from the background
    (the median image); otherwise small moving objects would vanish. Also returns peak
    signal-to-noise ratios on held-out frames [dB], of all pixels and of the foreground (`moving`),
    of the decoder and of the mean image.
    """
    jepa, plain = checkpoint.networks.jepa, World(world.task, world.image_size)
    episodes = sample_episodes(jepa, plain, config.frames, config.seed, kind=0)
    assert episodes.images is not None
    held_out = max(1, len(episodes.states) // 10)
    embeddings = episodes.embeddings[held_out:].flatten(0, 1)
    images = episodes.images[held_out:].flatten(0, 1)
    background = images[:: max(1, len(images) // 256)].median(dim=0).values.float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        decoder = Decoder(jepa.dim, world.image_size)
    decoder.initialise(background.mean(dim=(0, 1)) / 255)
    device, generator = embeddings.device, torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(decoder.to(device).parameters(), config.learning_rate)
    for update in range(config.updates):
        share = schedule(update, config.updates, update / config.updates)
        optimizer.param_groups[0]["lr"] = config.learning_rate * share
        rows = torch.randint(len(embeddings), (config.batch,), generator=generator)
        target = images[rows].to(device).float()
        weight = 1 + config.emphasis * _foreground(target, background.to(device))
        error = (decoder(embeddings[rows.to(device)]) - target / 255).square().mean(dim=-1)
        optimizer.zero_grad()
        (weight * error).mean().backward()
        optimizer.step()
        on_update()
    decoder.eval().requires_grad_(requires_grad=False)
    real = episodes.images[:held_out].flatten(0, 1)
    decoded = torch.from_numpy(decoder.decode(episodes.embeddings[:held_out].flatten(0, 1)))
    return decoder, _scores(decoded, real, images.float().mean(dim=0), background)


def find_decoder(checkpoint: Checkpoint) -> Decoder | None:
    """Return the decoder in a checkpoint's folder, if it is intact and belongs to the weights."""
    weights = checkpoint.folder / "decoder.safetensors"
    jepa = checkpoint.networks.jepa
    with torch.random.fork_rng(devices=[]):
        decoder = Decoder(jepa.dim, checkpoint.config.image_size)
    try:
        found = json.loads((checkpoint.folder / "decoder.json").read_text(encoding="utf-8"))
        expected = _identity(checkpoint) | {"decoder_sha256": sha256(weights)}
        if not expected.items() <= found.items():
            return None
        decoder.load_state_dict(safetensors.torch.load_file(weights))
    except (OSError, ValueError, AttributeError, RuntimeError, safetensors.SafetensorError):
        return None
    device = next(jepa.parameters()).device
    return decoder.eval().requires_grad_(requires_grad=False).to(device)


def load_decoder(
    checkpoint: Checkpoint,
    world: World,
    on_update: Callable[[], object] = lambda: None,
    config: DecoderConfig = DEFAULT,
) -> Decoder:
    """Return a checkpoint's decoder; if there is none, train it and save it where possible."""
    found = find_decoder(checkpoint)
    if found is not None:
        return found
    decoder, scores = train_decoder(checkpoint, world, on_update, config)
    path = checkpoint.folder / "decoder.safetensors"
    with suppress(UserError):
        with replacing_file(path) as temporary:
            save_tensors(temporary, decoder.state_dict())
        identity = _identity(checkpoint) | {"decoder_sha256": sha256(path)}
        write_json(checkpoint.folder / "decoder.json", identity | scores | asdict(config))
    return decoder


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "model_sha256": sha256(checkpoint.folder / "model.safetensors"),
        "dim": checkpoint.networks.jepa.dim,
        "image_size": checkpoint.config.image_size,
        "width": WIDTH,
    }


def _foreground(images: Tensor, background: Tensor) -> Tensor:
    """Return 1 at foreground pixels and 0 elsewhere, (N, P, P, 3) -> (N, P, P)."""
    return ((images - background).abs().amax(dim=-1) > FOREGROUND).float()


def _scores(decoded: Tensor, real: Tensor, mean: Tensor, background: Tensor) -> dict[str, float]:
    foreground = _foreground(real, background)
    everywhere = torch.ones_like(foreground)

    def psnr(images: Tensor, weight: Tensor) -> float:
        error = ((images.float() - real) / 255).square().mean(dim=-1)
        average = float((weight * error).sum() / weight.sum().clamp(min=1))
        return round(-10 * math.log10(max(average, 1e-10)), 2)

    return {
        "psnr": psnr(decoded, everywhere),
        "psnr_moving": psnr(decoded, foreground),
        "psnr_mean_image": psnr(mean, everywhere),
        "psnr_moving_mean_image": psnr(mean, foreground),
    }
