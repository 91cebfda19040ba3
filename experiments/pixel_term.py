"""The loss term of world models that predict pixels, for experiments/pixels.py.

Letters: B batch, T time, D embedding, P image size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mujepa.agent.encoder import PATCH
from mujepa.agent.jepa import JEPA
from mujepa.training.losses import ExtraTerm, WorldModelBatch


class PatchDecoder(nn.Module):
    """Reads images from embeddings, the CNN encoder backwards, (N, D) -> (N, P / 8, P / 8, 192).

    The last axis holds the 8x8 pixels of a patch, with their colours, from 0 to 255.

    Args:
        dim: D.
        image_size: P.
        width: channels.
    """

    def __init__(self, dim: int, image_size: int, width: int = 64) -> None:
        super().__init__()
        grid = image_size // (2 * PATCH)
        self.spread = nn.Sequential(
            nn.Linear(dim, grid * grid * width), nn.Unflatten(1, (grid, grid, width)), nn.SiLU()
        )
        self.grow = nn.Sequential(
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.SiLU()
        )
        self.patches = nn.Linear(width, 3 * PATCH * PATCH)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the patches."""
        seed = self.spread(embeddings).permute(0, 3, 1, 2)  # channels-last is faster
        features = self.grow(seed).permute(0, 2, 3, 1)
        # As in PatchEmbedding: scale and offset of the pixels are moved into the weights.
        weight, bias = 255 * self.patches.weight, 255 * (self.patches.bias + 0.5)
        return nn.functional.linear(features, weight, bias)


def pixel_error(decoder: nn.Module, embeddings: Tensor, images: Tensor) -> Tensor:
    """Mean squared error of images read from embeddings, (N, D) and (N, P, P, 3) uint8 -> ().

    The error is that of pixels from 0 to 1.
    """
    count = images.shape[1] // PATCH
    grid = images.unflatten(1, (count, PATCH)).unflatten(3, (count, PATCH)).transpose(2, 3)
    return nn.functional.mse_loss(decoder(embeddings), grid.flatten(3).float()) / 255**2


def make_decoder(jepa: JEPA) -> PatchDecoder:
    """Return the decoder for a world model's embeddings."""
    return PatchDecoder(jepa.dim, jepa.observation_shape[0])


def window_error(decoder: nn.Module, batch: WorldModelBatch) -> Tensor:
    """Return the error of the first K frames, read from their embeddings, and of the predicted."""
    path = torch.cat([batch.memory.embeddings, batch.predicted], dim=1)
    return pixel_error(decoder, path.flatten(0, 1), batch.observations.flatten(0, 1))


def pixels(weight: float) -> ExtraTerm:
    """Return the term for the squared error of the images, as in World Models or PlaNet."""
    return ExtraTerm("pixels", weight, make_decoder, window_error)
