"""Loss terms of the world model: small named scalars, which `weighted_sum` weights and sums.

To add a term, write its function, enter it in `LossConfig.table`, and give `LossConfig` a weight of
the same name. A term of weight 0 is not computed.

Letters: B batch, T time, D embedding, A action, R predicted steps, K history.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mujepa.agent.jepa import JEPA
from mujepa.agent.memory import Memory
from mujepa.runtime import distributed
from mujepa.runtime.errors import UserError
from mujepa.runtime.settings import Count, Finite, settings
from mujepa.training.precision import full_precision


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the one scalar that is minimised: the only place where weights meet terms."""
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum()


class Weights:
    """Settings with a weight for each term of a table, under the term's name."""

    table: ClassVar[Mapping[str, Callable[[Any], Tensor]]]

    def __post_init__(self) -> None:
        if not self.weights():
            raise UserError(f"a loss needs a term of some weight, got {self}")

    def weights(self) -> dict[str, float]:
        """Return the weights that are not 0, by name of the term."""
        return {name: weight for name in self.table if (weight := getattr(self, name))}

    def terms(self, batch: object) -> dict[str, Tensor]:
        """Compute the terms with a weight: scalars by name, unweighted."""
        return {name: self.table[name](batch) for name in self.weights()}


@settings
class LossConfig(Weights):
    """Weights of the world model's terms.

    Without a term against it, a constant embedding predicts itself. SIGReg, or variance and
    covariance, prevent that; inverse dynamics keeps what actions change.

    Attributes:
        prediction: squared error of the open-loop prediction.
        sigreg: distance of the embeddings from an isotropic Gaussian.
        variance: hinge that keeps every dimension's standard deviation at 1 or above.
        covariance: squared correlation between dimensions.
        inverse_dynamics: squared error of the action read from the embeddings around it.
        temporal_similarity: squared change from one embedding to the next.
        directions: random directions that SIGReg tests, drawn anew for each update.
    """

    prediction: Finite = 1.0
    sigreg: Finite = 0.05
    variance: Finite = 0.0
    covariance: Finite = 0.0
    inverse_dynamics: Finite = 1.0
    temporal_similarity: Finite = 0.0
    directions: Count = 64


def prediction_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of (B, R, D); the target is not detached (arXiv 2603.19312)."""
    return (predicted - target).square().mean()


@full_precision
def sigreg(embeddings: Tensor, directions: int, generator: torch.Generator) -> Tensor:
    """Epps-Pulley statistic of random projections against N(0, 1) (SIGReg, arXiv 2511.08544).

    For unit directions u and the empirical characteristic function f of the projections,
    N * integral over t in [-3, 3] of |f(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, averaged over
    directions; the integrand is even, so that the trapezoid rule uses 17 knots of [0, 3]. Of
    several processes, f is that of all their rows, as in the paper. Embeddings (N, D) need N of at
    least 128, over all processes, for a useful statistic.
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


@dataclass(frozen=True)
class WorldModelBatch:
    """A batch of windows of T = K + R frames, encoded: the share of this process.

    Observations (B, T, ...), actions (B, T - 1, A) in [-1, 1], embeddings (B, T, D); `memory` holds
    the first K, `around` the K + 1 around each action from the K-th on, (B, R, K + 1, D).
    """

    config: LossConfig
    jepa: JEPA
    inverse: InverseDynamics
    observations: Tensor
    actions: Tensor
    embeddings: Tensor
    memory: Memory
    around: Tensor
    generator: torch.Generator

    @functools.cached_property
    def predicted(self) -> Tensor:
        """Embeddings predicted open loop from the memory, (B, R, D)."""
        return self.jepa.unroll(self.memory, self.actions[:, self.jepa.history - 1 :])

    @property
    def rows(self) -> Tensor:
        """All embeddings of all processes, (rows, D)."""
        return distributed.gathered(self.embeddings.flatten(0, 1))


def _prediction(batch: WorldModelBatch) -> Tensor:
    return prediction_error(batch.predicted, batch.embeddings[:, batch.jepa.history :])


def _sigreg(batch: WorldModelBatch) -> Tensor:
    """Test the embeddings of each time step by themselves."""
    steps, directions = batch.embeddings.unbind(1), batch.config.directions
    return torch.stack([sigreg(step, directions, batch.generator) for step in steps]).mean()


def _inverse_dynamics(batch: WorldModelBatch) -> Tensor:
    wanted = batch.actions[:, batch.jepa.history - 1 :].flatten(0, 1)
    return (batch.inverse(batch.around.flatten(0, 1)) - wanted).square().mean()


LossConfig.table = {
    "prediction": _prediction,
    "sigreg": _sigreg,
    "variance": lambda batch: variance_hinge(batch.rows),
    "covariance": lambda batch: covariance_penalty(batch.rows),
    "inverse_dynamics": _inverse_dynamics,
    "temporal_similarity": lambda batch: temporal_similarity(batch.embeddings),
}


@dataclass(frozen=True)
class ExtraTerm:
    """A term that an experiment adds to the world model's loss.

    `head` makes a network that is trained with the world model and then dropped; `term` computes
    the term from it and a batch.
    """

    name: str
    weight: float
    head: Callable[[JEPA], nn.Module]
    term: Callable[[nn.Module, WorldModelBatch], Tensor]


def encode_batch(
    config: LossConfig,
    jepa: JEPA,
    inverse: InverseDynamics,
    observations: Tensor,
    actions: Tensor,
    generator: torch.Generator,
) -> WorldModelBatch:
    """Encode windows (B, T, ...) with the actions (B, T - 1, A) between their frames."""
    history, embeddings = jepa.history, jepa.encode_windows(observations)
    memory = Memory(embeddings[:, :history], actions[:, : history - 1])
    around = embeddings.unfold(1, history + 1, 1).transpose(2, 3)
    return WorldModelBatch(
        config, jepa, inverse, observations, actions, embeddings, memory, around, generator
    )
