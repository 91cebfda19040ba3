"""Perception: observations to embeddings; a new encoder is a trunk here and a line in `TRUNKS`.

Every encoder ends in a batch normalisation without learned scale, so that embeddings have zero mean
and unit variance over the data (a LayerNorm would work against SIGReg's Gaussian target,
arXiv 2511.08544). Letters: B batch, P image size, C patch channels, F features, D embedding,
S state size.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mujepa.agent.batch_norm import BatchNorm
from mujepa.runtime.errors import UserError
from mujepa.runtime.settings import Count, settings

Observes = Literal["pixels", "observation"]
"""Camera images, or joint positions and velocities: keys of the environments' observations."""
PATCH = 8  # width and height of a patch [pixels]


class Trunk(nn.Sequential):
    """What differs between the encoders, (B, ...) -> (B, F); built from (P or S, config)."""

    observes: ClassVar[Observes] = "pixels"  # what it reads
    step: ClassVar[int] = PATCH  # the image size P is a multiple of it [pixels]
    smallest: ClassVar[int] = PATCH  # the smallest P [pixels]
    features: int  # F

    def __init__(self, size: int, config: EncoderConfig, *layers: nn.Module) -> None:
        super().__init__(*layers)


class PatchEmbedding(nn.Conv2d):
    """Embeds patches of uint8 images without overlap, (B, P, P, 3) -> (B, C, P / 8, P / 8).

    A convolution of images in [-0.5, 0.5], computed as one matrix product on the bytes: scale and
    offset of the pixels are moved into the weights. The result is laid out channels-last.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Cut the bytes into patches, convert them, and multiply."""
        count = input.shape[1] // PATCH
        grid = input.unflatten(1, (count, PATCH)).unflatten(3, (count, PATCH)).transpose(2, 3)
        patches = grid.reshape(-1, 3 * PATCH * PATCH)
        weight = self.weight.view(-1, 3, PATCH, PATCH).permute(0, 2, 3, 1).flatten(1)
        assert self.bias is not None
        embedded = functional.linear(
            patches.float(), weight / 255, self.bias - weight.sum(dim=1) / 2
        )
        return embedded.unflatten(0, (-1, count, count)).permute(0, 3, 1, 2)


class PatchCNN(Trunk):
    """8x8 patches, embedded without overlap, then one strided 3x3 convolution."""

    step, smallest = 16, 32

    def __init__(self, size: int, config: EncoderConfig) -> None:
        width = config.width
        super().__init__(
            size,
            config,
            PatchEmbedding(3 * PATCH * PATCH, width, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
        )
        self.features = width * (size // 16) ** 2
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class ViT(Trunk):
    """A small vision transformer on 8x8 patches, mean-pooled (arXiv 2010.11929)."""

    def __init__(self, size: int, config: EncoderConfig) -> None:
        super().__init__(size, config)
        width = self.features = config.width
        self.patches = nn.Sequential(PatchEmbedding(3, width, PATCH, stride=PATCH), nn.Flatten(2))
        self.position = nn.Parameter(torch.randn(1, (size // PATCH) ** 2, width) * 0.02)
        heads = next(n for n in range(max(1, width // 32), 0, -1) if width % n == 0)
        settings = {"activation": "gelu", "batch_first": True, "norm_first": True}
        blocks = (
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, **settings)
            for _ in range(config.depth)
        )
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)

    def forward(self, input: Tensor) -> Tensor:
        """Return pooled features, (B, P, P, 3) uint8 -> (B, F)."""
        tokens = self.patches(input).transpose(1, 2) + self.position
        return self.norm(self.blocks(tokens)).mean(dim=1)


class MLP(Trunk):
    """State vectors (B, S) -> (B, F)."""

    observes = "observation"

    def __init__(self, size: int, config: EncoderConfig) -> None:
        sizes = [size] + [config.width] * config.depth
        layers = [nn.Sequential(nn.Linear(i, o), nn.SiLU()) for i, o in pairwise(sizes)]
        super().__init__(size, config, *layers)
        self.features = config.width


TRUNKS: dict[str, type[Trunk]] = {"cnn": PatchCNN, "vit": ViT, "mlp": MLP}  # the encoders by name
if TYPE_CHECKING:
    EncoderKind = str
else:
    EncoderKind = Literal[tuple(TRUNKS)]


@settings
class EncoderConfig:
    """How observations become embeddings.

    Attributes:
        kind: `cnn` and `vit` read square images, `mlp` reads state vectors.
        dim: embedding size D.
        width: channels of the CNN, token size of the ViT, hidden units of the MLP.
        depth: residual blocks of the ViT and hidden layers of the MLP; the CNN has a fixed depth.
    """

    kind: EncoderKind = "cnn"
    dim: Count = 32
    width: Annotated[int, Field(ge=8)] = 64
    depth: Count = 2

    @property
    def observes(self) -> Observes:
        """The part of an environment's observation that the encoder reads."""
        return TRUNKS[self.kind].observes


class Encoder(nn.Module):
    """An encoder: `trunk` -> linear projection -> batch normalisation, (B, ...) -> (B, D)."""

    def __init__(self, trunk: Trunk, dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.project = nn.Linear(trunk.features, dim)
        self.normalise = BatchNorm(dim)

    def forward(self, observations: Tensor) -> Tensor:
        """Return embeddings (B, D) of uint8 images (B, P, P, 3) or float vectors (B, S)."""
        return self.normalise(self.project(self.trunk(observations)).float())


def make_encoder(config: EncoderConfig, observation_shape: tuple[int, ...]) -> Encoder:
    """Build the encoder of (P, P, 3) images or (S,) vectors; `UserError` if it cannot read them."""
    trunk, size = TRUNKS[config.kind], observation_shape[0]
    if trunk.observes == "observation":
        fits, reads = observation_shape == (size,), "vectors (S,)"
    else:
        fits = observation_shape == (size, size, 3)
        fits &= size % trunk.step == 0 and size >= trunk.smallest
        reads = f"images (P, P, 3), P a multiple of {trunk.step} from {trunk.smallest} on"
    if not fits:
        raise UserError(
            f"the {config.kind} encoder reads {reads}; got observations of shape "
            f"{tuple(observation_shape)}"
        )
    return Encoder(trunk(size, config), config.dim)
