"""Trainable cost: the number of model steps from one embedding to another.

A quasimetric head on frozen embeddings,
d(s, g) = ||phi(s) - phi(g)|| + max_i relu(psi_i(s) - psi_i(g))
(metric residual network, arXiv 2208.08133): zero from a state to itself, triangle inequality, not
symmetric. With a history of two it also reads the last change of the embedding, for tasks whose
state includes velocities that a single image does not show.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mujepa.runtime.settings import Count, settings

ROWS = 1024  # embeddings per pass on a CPU, so that the activations fit its cache


@settings
class CriticConfig:
    """The temporal-distance critic.

    Attributes:
        history: frames that it reads: 1, or 2 for tasks in which velocity matters.
        width: hidden units.
        features: size of phi and of psi.
    """

    history: Literal[1, 2] = 1
    width: Count = 128
    features: Count = 32


class Critic(nn.Module):
    """Temporal distance between embeddings [model steps].

    Each end is an embedding (..., D) and the one before it (..., D); a goal at rest is its own
    past.
    """

    def __init__(self, config: CriticConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Sequential(
            nn.Linear(config.history * dim, config.width),
            nn.LayerNorm(config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
            nn.SiLU(),
            nn.Linear(config.width, 2 * config.features),
        )

    def features(self, embeddings: Tensor, previous: Tensor) -> Tensor:
        """Return phi and psi, concatenated, (..., D) and (..., D) one step earlier -> (..., 2F)."""
        if torch.is_grad_enabled() or embeddings.device.type != "cpu":
            return self._features(embeddings, previous)
        parts = (rows.reshape(-1, rows.shape[-1]).split(ROWS) for rows in (embeddings, previous))
        features = [self._features(*rows) for rows in zip(*parts, strict=True)]
        return torch.cat(features).view(*embeddings.shape[:-1], -1)

    def _features(self, embeddings: Tensor, previous: Tensor) -> Tensor:
        if self.config.history == 1:
            return self.embed(embeddings).float()
        return self.embed(torch.cat([embeddings, embeddings - previous], dim=-1)).float()

    def distance(self, features: Tensor, goal_features: Tensor) -> Tensor:
        """Return the distance between features, (..., 2F) and (..., 2F) -> (...) [model steps]."""
        phi, psi = (features - goal_features).chunk(2, dim=-1)
        return (phi.square().sum(dim=-1) + 1e-8).sqrt() + psi.amax(dim=-1).relu()

    def forward(self, starts: Tensor, goals: Tensor) -> Tensor:
        """Return the distance from pairs of frames to others, (..., 2, D) twice -> (...)."""
        ends = (self.features(it[..., 1, :], it[..., 0, :]) for it in (starts, goals))
        return self.distance(*ends)
