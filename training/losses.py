"""What the world model learns from: small named terms, unweighted; `weighted_sum` sums them.

Without a term against it, prediction in embedding space is solved by a constant. SIGReg, or
variance and covariance, forbid that; inverse dynamics keeps what actions change; temporal
similarity keeps the path smooth. Pixels, off by default, are what other world models predict.

Letters: B batch, T time, D embedding, A action, R predicted steps, K history.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mujepa.agent.device import full_precision
from mujepa.agent.encoder import PATCH
from mujepa.agent.jepa import JEPA
from mujepa.agent.memory import Memory
from mujepa.runtime import distributed


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms; a term of weight 0 is not computed.

    Attributes:
        prediction: squared error of the open-loop prediction.
        sigreg: distance of the embeddings from an isotropic Gaussian.
        variance: hinge that keeps every dimension's standard deviation at 1 or above.
        covariance: squared correlation between dimensions.
        inverse_dynamics: squared error of the action read from the embeddings around it.
        temporal_similarity: squared change from one embedding to the next.
        pixels: squared error of the images read from the embeddings, seen and predicted; for
            comparison, as it makes another kind of world model.
        directions: random directions that SIGReg tests, fresh each time.
    """

    prediction: float = 1.0
    sigreg: float = 0.05
    variance: float = 0.0
    covariance: float = 0.0
    inverse_dynamics: float = 1.0
    temporal_similarity: float = 0.0
    pixels: float = 0.0
    directions: int = 64

    def __post_init__(self) -> None:
        if not self.weights() or self.directions < 1:
            raise ValueError(
                f"the loss needs a term of some weight and directions >= 1, got {self}"
            )

    def weights(self) -> dict[str, float]:
        """Return the weights of the terms in use, by name."""
        names = (
            "prediction",
            "sigreg",
            "variance",
            "covariance",
            "inverse_dynamics",
            "temporal_similarity",
            "pixels",
        )
        return {name: weight for name in names if (weight := getattr(self, name)) != 0}


def prediction_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of (B, R, D); the target is not detached (arXiv 2603.19312)."""
    return (predicted - target).square().mean()


@full_precision
def sigreg(embeddings: Tensor, directions: int, generator: torch.Generator) -> Tensor:
    """Epps-Pulley statistic of random projections against N(0, 1) (SIGReg, arXiv 2511.08544).

    For unit directions u and the empirical characteristic function f of the projections,
    N * integral over t in [-3, 3] of |f(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, averaged over
    directions; the integrand is even, so that the trapezoid rule uses 17 knots of [0, 3]. Of
    several processes, f is that of all their rows, as in the paper.

    Args:
        embeddings: (N, D), N at least 128 for a useful statistic, over all processes.
        directions: how many directions to test.
        generator: source of the directions, on the CPU.
    """
    unit = nn.functional.normalize(
        torch.randn(embeddings.shape[1], directions, generator=generator), dim=0
    )
    projected = embeddings @ unit.to(embeddings)
    knots = torch.linspace(0, 3, 17, device=embeddings.device)
    gaussian = torch.exp(-knots.square() / 2)
    weights = torch.full_like(knots, 2 * 3 / 16)
    weights[0] = weights[-1] = 3 / 16
    angles = projected[..., None] * knots
    real, imaginary = distributed.average(
        torch.stack([angles.cos().mean(dim=0), angles.sin().mean(dim=0)])
    )
    error = (real - gaussian).square() + imaginary.square()
    return distributed.count() * len(embeddings) * (error @ (weights * gaussian)).mean()


def variance_hinge(embeddings: Tensor) -> Tensor:
    """Mean of max(0, 1 - std) over dimensions, (N, D) -> () (VICReg, arXiv 2105.04906)."""
    return (1 - (embeddings.var(dim=0) + 1e-4).sqrt()).relu().mean()


@full_precision
def covariance_penalty(embeddings: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances over D, (N, D) -> () (VICReg, arXiv 2105.04906)."""
    centred = embeddings - embeddings.mean(dim=0)
    covariance = centred.T @ centred / (len(embeddings) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / embeddings.shape[1]


def temporal_similarity(embeddings: Tensor) -> Tensor:
    """Mean squared change between neighbouring steps, (B, T, D) -> () (PLDM, arXiv 2502.14819)."""
    return (embeddings[:, 1:] - embeddings[:, :-1]).square().mean()


class InverseDynamics(nn.Module):
    """Reads action a_t from the K embeddings up to t and the one after, (B, K + 1, D) -> (B, A)."""

    def __init__(self, dim: int, history: int, action_size: int, width: int = 128) -> None:
        super().__init__()
        self.read = nn.Sequential(
            nn.Linear((history + 1) * dim, width), nn.SiLU(), nn.Linear(width, action_size)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the actions."""
        return self.read(embeddings.flatten(1))


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
        seed = self.spread(embeddings).permute(0, 3, 1, 2)  # laid out channels-last, as is faster
        features = self.grow(seed).permute(0, 2, 3, 1)
        # As in PatchEmbedding: scale and offset of the pixels are moved into the weights.
        weight, bias = 255 * self.patches.weight, 255 * (self.patches.bias + 0.5)
        return nn.functional.linear(features, weight, bias)


def pixel_error(decoder: PatchDecoder, embeddings: Tensor, images: Tensor) -> Tensor:
    """Mean squared error of images read from embeddings, (N, D) and (N, P, P, 3) uint8 -> ().

    The error is that of pixels from 0 to 1.
    """
    count = images.shape[1] // PATCH
    grid = images.unflatten(1, (count, PATCH)).unflatten(3, (count, PATCH)).transpose(2, 3)
    return nn.functional.mse_loss(decoder(embeddings), grid.flatten(3).float()) / 255**2


def world_model_terms(
    config: LossConfig,
    jepa: JEPA,
    inverse: InverseDynamics,
    observations: Tensor,
    actions: Tensor,
    generator: torch.Generator,
    decoder: PatchDecoder | None = None,
) -> dict[str, Tensor]:
    """Compute the terms in use on a batch of windows.

    Args:
        config: weights; only terms of non-zero weight are computed.
        jepa: the world model.
        inverse: the inverse-dynamics head.
        observations: (B, T, ...), T = K + R; of several processes, the share of this one.
        actions: (B, T - 1, A), in units of the bounds.
        generator: source of SIGReg's directions.
        decoder: reads images, for the term `pixels`.

    Returns:
        Unweighted scalars by name.
    """
    history = jepa.history
    embeddings = jepa.encode_windows(observations)
    everything = embeddings.flatten(0, 1)
    memory = Memory(embeddings[:, :history], actions[:, : history - 1])
    windows = embeddings.unfold(1, history + 1, 1).transpose(2, 3)

    def read_actions() -> Tensor:
        return (
            (inverse(windows.flatten(0, 1)) - actions[:, history - 1 :].flatten(0, 1))
            .square()
            .mean()
        )

    @functools.cache
    def predicted() -> Tensor:
        return jepa.unroll(memory, actions[:, history - 1 :])

    def read_pixels() -> Tensor:
        assert decoder is not None
        path = torch.cat([embeddings[:, :history], predicted()], dim=1)
        return pixel_error(decoder, path.flatten(0, 1), observations.flatten(0, 1))

    terms = {
        "prediction": lambda: prediction_error(predicted(), embeddings[:, history:]),
        "sigreg": lambda: torch.stack(
            [sigreg(step, config.directions, generator) for step in embeddings.unbind(1)]
        ).mean(),
        "variance": lambda: variance_hinge(distributed.gathered(everything)),
        "covariance": lambda: covariance_penalty(distributed.gathered(everything)),
        "inverse_dynamics": read_actions,
        "temporal_similarity": lambda: temporal_similarity(embeddings),
        "pixels": read_pixels,
    }
    return {name: terms[name]() for name in config.weights()}


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the one scalar that is minimised: the only place where weights meet terms."""
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum()
