"""A decoder: what an embedding means, as an image for people.

It is trained afterwards, on the embeddings of fresh frames, and no gradient of it reaches the world
model: it shows what the world model keeps, and has no part in what the agent does.

    decoder.safetensors   its weights
    decoder.json          whose embeddings it reads, its sizes, how well it reads held-out frames

Letters: B batch, D embedding, P image size.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mujepa.agent.checkpoint import save_tensors
from mujepa.envs.world import World
from mujepa.evaluation.sampling import sample_episodes
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import replacing_file, sha256, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from mujepa.agent.checkpoint import Checkpoint

WIDTH = 64
"""Channels of the coarsest feature map."""
DECODE = 1024
"""Images that are decoded at once."""
MOVING = 25
"""A pixel shows what moves where a colour is further than this from the background's, of 255."""


@dataclass(frozen=True)
class DecoderConfig:
    """How a decoder is trained.

    Attributes:
        frames: fresh ones that it learns from, and is judged on.
        updates: of its weights.
        batch: frames of an update.
        learning_rate: the first; it falls to nothing.
        emphasis: how much more the error counts where a pixel shows what moves.
        seed: of the frames and of the training.
    """

    frames: int = 6000
    updates: int = 2000
    batch: int = 32
    learning_rate: float = 2e-3
    emphasis: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("frames", "updates", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class Decoder(nn.Module):
    """Embeddings -> images: two linear layers, then deconvolutions (arXiv 1511.06434).

    Args:
        dim: D.
        image_size: P.
    """

    def __init__(self, dim: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        doublings = max(1, math.ceil(math.log2(image_size / 4)))
        grid = math.ceil(image_size / 2**doublings)
        channels = [WIDTH] * doublings + [WIDTH // 2, WIDTH // 4, 3]
        layers: list[nn.Module] = [
            nn.Linear(dim, 3 * WIDTH),
            nn.SiLU(),
            nn.Linear(3 * WIDTH, WIDTH * grid * grid),
            nn.Unflatten(1, (WIDTH, grid, grid)),
        ]
        for before, after in pairwise(channels[-doublings - 1 :]):
            layers += [nn.SiLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.net = nn.Sequential(*layers)

    @torch.no_grad()
    def begin_with(self, colour: Tensor) -> None:
        """Let it draw about this colour (3) everywhere, before it has learned anything."""
        last = self.net[-1]
        assert isinstance(last, nn.ConvTranspose2d)
        assert last.bias is not None
        last.bias.copy_(colour - 0.5)
        last.weight.mul_(0.1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return images as they are learned, (B, D) -> (B, P, P, 3), about from 0 to 1."""
        images = self.net(embeddings)[..., : self.image_size, : self.image_size]
        return images.permute(0, 2, 3, 1) + 0.5

    @torch.no_grad()
    def decode(self, embeddings: Tensor) -> NDArray[np.uint8]:
        """Return images for people, (..., D) -> (..., P, P, 3) uint8."""
        flat = embeddings.reshape(-1, embeddings.shape[-1])
        images = torch.cat([self(part) for part in flat.split(DECODE)])
        images = (255 * images.clamp(0, 1)).round().byte().cpu().numpy()
        return images.reshape(*embeddings.shape[:-1], *images.shape[1:])


def train_decoder(
    checkpoint: Checkpoint,
    world: World,
    on_update: Callable[[], object] = lambda: None,
    config: DecoderConfig = DecoderConfig(),
) -> tuple[Decoder, dict[str, float]]:
    """Train a decoder for a checkpoint's embeddings; its networks stay as they are.

    The loss is the squared error, which counts more where a pixel differs from the background
    (the median image), so that small things that move do not drown in it.

    Args:
        checkpoint: whose embeddings.
        world: its task's; what varies in it is left out, so that images look as the task does.
        on_update: called after each update.
        config: settings.

    Returns:
        The decoder, and its peak signal-to-noise ratio on held-out frames [dB]: `psnr`,
        `psnr_moving` where pixels show what moves, and `psnr_mean_image`, `psnr_moving_mean_image`
        of the mean image in its place.
    """
    jepa, plain = checkpoint.networks.jepa, World(world.task, world.image_size)
    fresh = sample_episodes(jepa, plain, config.frames, config.seed, kind=0)
    assert fresh.images is not None
    held = max(1, len(fresh.states) // 10)
    embeddings, images = fresh.embeddings[held:].flatten(0, 1), fresh.images[held:].flatten(0, 1)
    device = embeddings.device
    sample = images[:: max(1, len(images) // 256)]
    background = sample.median(dim=0).values.float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        decoder = Decoder(jepa.dim, world.image_size)
    decoder.begin_with(background.mean(dim=(0, 1)) / 255)
    decoder.to(device)
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(decoder.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates)
    for _ in range(config.updates):
        rows = torch.randint(len(embeddings), (config.batch,), generator=generator)
        wanted = images[rows].to(device).float()
        weight = 1 + config.emphasis * _moving(wanted, background.to(device))
        error = (decoder(embeddings[rows.to(device)]) - wanted / 255).square().mean(dim=-1)
        optimizer.zero_grad()
        (weight * error).mean().backward()
        optimizer.step()
        schedule.step()
        on_update()
    decoder.eval().requires_grad_(requires_grad=False)
    real = fresh.images[:held].flatten(0, 1)
    decoded = torch.from_numpy(decoder.decode(fresh.embeddings[:held].flatten(0, 1)))
    return decoder, _judge(decoded, real, images.float().mean(dim=0), background)


def find_decoder(checkpoint: Checkpoint) -> Decoder | None:
    """Return the decoder in a checkpoint's folder if it is whole and reads these weights."""
    weights = checkpoint.folder / "decoder.safetensors"
    jepa = checkpoint.networks.jepa
    with torch.random.fork_rng(devices=[]):
        decoder = Decoder(jepa.dim, checkpoint.config.image_size)
    try:
        there = json.loads((checkpoint.folder / "decoder.json").read_text(encoding="utf-8"))
        wanted = _identity(checkpoint) | {"decoder_sha256": sha256(weights)}
        if not wanted.items() <= there.items():
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
    config: DecoderConfig = DecoderConfig(),
) -> Decoder:
    """Return the decoder of a checkpoint; where there is none, train it and leave it there.

    A decoder of other weights is replaced. Where the folder cannot be written, the decoder is
    trained again next time.

    Args:
        checkpoint: whose embeddings.
        world: its task's.
        on_update: called after each update, if it has to be trained.
        config: settings of the training.
    """
    found = find_decoder(checkpoint)
    if found is not None:
        return found
    decoder, scores = train_decoder(checkpoint, world, on_update, config)
    try:
        _write(checkpoint, decoder, scores | asdict(config))
    except UserError:
        return decoder
    return decoder


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what tells whose embeddings a decoder reads, and how it is built."""
    return {
        "model_sha256": sha256(checkpoint.folder / "model.safetensors"),
        "dim": checkpoint.networks.jepa.dim,
        "image_size": checkpoint.config.image_size,
        "width": WIDTH,
    }


def _write(checkpoint: Checkpoint, decoder: Decoder, figures: dict[str, Any]) -> None:
    path: Path = checkpoint.folder / "decoder.safetensors"
    with replacing_file(path) as temporary:
        save_tensors(temporary, decoder.state_dict())
    identity = _identity(checkpoint) | {"decoder_sha256": sha256(path)}
    write_json(checkpoint.folder / "decoder.json", identity | figures)


def _moving(images: Tensor, background: Tensor) -> Tensor:
    """Return 1 where a pixel shows what moves and 0 elsewhere, (N, P, P, 3) -> (N, P, P)."""
    return ((images - background).abs().amax(dim=-1) > MOVING).float()


def _judge(decoded: Tensor, real: Tensor, mean: Tensor, background: Tensor) -> dict[str, float]:
    moving = _moving(real, background)
    everywhere = torch.ones_like(moving)

    def psnr(images: Tensor, weight: Tensor) -> float:
        error = ((images.float() - real) / 255).square().mean(dim=-1)
        average = float((weight * error).sum() / weight.sum().clamp(min=1))
        return round(-10 * math.log10(max(average, 1e-10)), 2)

    return {
        "psnr": psnr(decoded, everywhere),
        "psnr_moving": psnr(decoded, moving),
        "psnr_mean_image": psnr(mean, everywhere),
        "psnr_moving_mean_image": psnr(mean, moving),
    }
