"""Trainable cost: how many model steps it takes from here to there.

A quasimetric head on frozen embeddings,
d(s, g) = ||phi(s) - phi(g)|| + max_i relu(psi_i(s) - psi_i(g))
(metric residual network, arXiv 2208.08133): zero from a state to itself, triangle inequality, not
symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CriticConfig:
    """The temporal-distance critic.

    Attributes:
        width: hidden units.
        features: size of phi and of psi.
        expectile: weight of overestimates, over that of underestimates 1 - expectile; above .5 it
            learns the shortest of the times seen.
        apart_weight: weight of the hinge that keeps frames of different episodes apart.
        apart_steps: model steps that such frames are kept apart.
    """

    width: int = 128
    features: int = 32
    expectile: float = 0.9
    apart_weight: float = 0.05
    apart_steps: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must be between 0 and 1, got {self.expectile}")
        if self.width < 1 or self.features < 1:
            raise ValueError(f"critic needs width and features of at least 1, got {self}")


class Critic(nn.Module):
    """Temporal distance from embeddings (..., D) to goal embeddings (..., D) [model steps]."""

    def __init__(self, config: CriticConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Sequential(
            nn.Linear(dim, config.width),
            nn.LayerNorm(config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
            nn.SiLU(),
            nn.Linear(config.width, 2 * config.features),
        )

    def features(self, embeddings: Tensor) -> Tensor:
        """Return phi and psi side by side, (..., D) -> (..., 2F).

        A goal's can be kept for a whole episode.
        """
        return self.embed(embeddings)

    def distance(self, features: Tensor, goal_features: Tensor) -> Tensor:
        """Return the distance between features, (..., 2F) and (..., 2F) -> (...) [model steps]."""
        phi, psi = (features - goal_features).chunk(2, dim=-1)
        return (phi.square().sum(dim=-1) + 1e-8).sqrt() + psi.relu().amax(dim=-1)

    def forward(self, embeddings: Tensor, goals: Tensor) -> Tensor:
        """Return the distance to goals, (..., D) and (..., D) -> (...) [model steps]."""
        return self.distance(self.features(embeddings), self.features(goals))


def critic_terms(
    critic: Critic, starts: Tensor, goals: Tensor, strangers: Tensor, steps: Tensor
) -> dict[str, Tensor]:
    """Compute the two terms that the critic learns from.

    Args:
        critic: the critic.
        starts: embeddings (N, D).
        goals: embeddings (N, D) reached `steps` later in the same episode.
        strangers: embeddings (N, D) of other episodes.
        steps: (N,) model steps.

    Returns:
        `temporal`, the expectile regression to the steps, and `apart`, the hinge to strangers.
    """
    config = critic.config
    from_start = critic.features(starts)
    error = critic.distance(from_start, critic.features(goals)) - steps
    side = torch.where(error > 0, config.expectile, 1 - config.expectile)
    away = critic.distance(from_start, critic.features(strangers))
    return {
        "temporal": (side * error.square()).mean(),
        "apart": (config.apart_steps - away).relu().mean(),
    }
