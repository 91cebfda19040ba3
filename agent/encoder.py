"""Perception: observations to embeddings.

Every encoder ends in a batch normalisation without learned scale, so that embeddings have zero mean
and unit variance over the data (a LayerNorm would fight the Gaussian that SIGReg asks for,
arXiv 2511.08544).

Letters: B batch, P image size, C patch channels, D embedding size.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mujepa.runtime import distributed

Observes = Literal["pixels", "observation"]
"""Camera images, or joint positions and velocities: keys of the environments' observations."""
PATCH = 8
"""Width and height of a patch [pixels]."""


@dataclass(frozen=True)
class EncoderConfig:
    """How observations become embeddings.

    Attributes:
        kind: `cnn` and `vit` read square images, `mlp` reads state vectors.
        dim: embedding size D.
        width: channels of the CNN, token size of the ViT, hidden units of the MLP.
        depth: residual blocks of the ViT and hidden layers of the MLP; the CNN has a fixed depth.
    """

    kind: Literal["cnn", "vit", "mlp"] = "cnn"
    dim: int = 32
    width: int = 64
    depth: int = 2

    @property
    def observes(self) -> Observes:
        """The part of an environment's observation that the encoder reads."""
        return "observation" if self.kind == "mlp" else "pixels"

    def __post_init__(self) -> None:
        if self.dim < 1 or self.width < 8 or self.depth < 1:
            raise ValueError(f"encoder needs dim >= 1, width >= 8 and depth >= 1, got {self}")


class Encoder(nn.Module):
    """An encoder: `trunk` -> linear projection -> batch normalisation, (B, ...) -> (B, D)."""

    def __init__(self, trunk: nn.Module, features: int, dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.project = nn.Linear(features, dim)
        self.normalise = distributed.BatchNorm(dim)

    def forward(self, observations: Tensor) -> Tensor:
        """Return embeddings (B, D) of uint8 images (B, P, P, 3) or float vectors (B, S)."""
        return self.normalise(self.project(self.trunk(observations)).float())


class PatchEmbedding(nn.Conv2d):
    """Embeds patches of uint8 images without overlap, (B, P, P, 3) -> (B, C, P / 8, P / 8).

    A convolution of images in [-0.5, 0.5], computed as one matrix product on the bytes: scale and
    offset of the pixels are moved into the weights. The result is laid out channels-last.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Cut the bytes into patches, then convert, then multiply."""
        count = input.shape[1] // PATCH
        grid = input.unflatten(1, (count, PATCH)).unflatten(3, (count, PATCH)).transpose(2, 3)
        patches = grid.reshape(-1, 3 * PATCH * PATCH)
        weight = self.weight.view(-1, 3, PATCH, PATCH).permute(0, 2, 3, 1).flatten(1)
        assert self.bias is not None
        embedded = functional.linear(
            patches.float(), weight / 255, self.bias - weight.sum(dim=1) / 2
        )
        return embedded.unflatten(0, (-1, count, count)).permute(0, 3, 1, 2)


class PatchCNN(nn.Sequential):
    """8x8 patches, embedded without overlap, then one strided 3x3 convolution."""

    def __init__(self, image_size: int, width: int) -> None:
        if image_size % 16 or image_size < 32:
            raise ValueError(
                "the CNN encoder needs an image size that is a multiple of 16 from 32 on, "
                f"got {image_size}"
            )
        layers = [
            PatchEmbedding(3 * PATCH * PATCH, width, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
        ]
        # Numbered from 2 on, as checkpoints have them.
        super().__init__(OrderedDict((str(at), layer) for at, layer in enumerate(layers, start=2)))
        self.features = width * (image_size // 16) ** 2
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class ViT(nn.Module):
    """A small vision transformer on 8x8 patches, mean-pooled (arXiv 2010.11929)."""

    def __init__(self, image_size: int, width: int, depth: int) -> None:
        if image_size % PATCH:
            raise ValueError(
                f"the ViT encoder needs an image size that is a multiple of 8, got {image_size}"
            )
        super().__init__()
        self.features = width
        self.patches = nn.Sequential(PatchEmbedding(3, width, PATCH, stride=PATCH), nn.Flatten(2))
        self.position = nn.Parameter(torch.randn(1, (image_size // PATCH) ** 2, width) * 0.02)
        heads = next(n for n in range(max(1, width // 32), 0, -1) if width % n == 0)
        self.blocks = nn.Sequential(
            *[
                nn.TransformerEncoderLayer(
                    width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(depth)
            ]
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """Return pooled features, (B, P, P, 3) uint8 -> (B, width)."""
        tokens = self.patches(images).transpose(1, 2) + self.position
        return self.norm(self.blocks(tokens)).mean(dim=1)


class MLP(nn.Sequential):
    """State vectors (B, S) -> (B, width)."""

    def __init__(self, state_size: int, width: int, depth: int) -> None:
        sizes = [state_size] + [width] * depth
        layers = [nn.Sequential(nn.Linear(i, o), nn.SiLU()) for i, o in pairwise(sizes)]
        super().__init__(*layers)
        self.features = width


def make_encoder(config: EncoderConfig, observation_shape: tuple[int, ...]) -> Encoder:
    """Build the encoder for observations of one shape: (P, P, 3) images or (S,) vectors.

    Raises:
        ValueError: the kind does not read observations of this shape.
    """
    is_image = len(observation_shape) == 3 and observation_shape[0] == observation_shape[1]
    if is_image != (config.kind != "mlp") or len(observation_shape) not in (1, 3):
        raise ValueError(
            f"encoder {config.kind!r} does not read observations of shape {observation_shape}"
        )
    if config.kind == "cnn":
        trunk = PatchCNN(observation_shape[0], config.width)
    elif config.kind == "vit":
        trunk = ViT(observation_shape[0], config.width, config.depth)
    else:
        trunk = MLP(observation_shape[0], config.width, config.depth)
    return Encoder(trunk, trunk.features, config.dim)
