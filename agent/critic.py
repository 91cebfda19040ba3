"""Trainable cost: how many model steps it takes from here to there.

A quasimetric head on frozen embeddings,
d(s, g) = ||phi(s) - phi(g)|| + max_i relu(psi_i(s) - psi_i(g))
(metric residual network, arXiv 2208.08133): zero from a state to itself, triangle inequality, not
symmetric. With a history of two it reads the last change of the embedding as well: where speed
counts, a state is more than what one image shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mujepa.runtime import distributed

RIVALS = 256
"""Pairs that the contrastive term tells apart, of each batch."""


@dataclass(frozen=True)
class CriticConfig:
    """The temporal-distance critic.

    Attributes:
        history: frames that it reads: 1, or 2 for tasks in which speed counts.
        width: hidden units.
        features: size of phi and of psi.
        expectile: weight of overestimates, over that of underestimates 1 - expectile; above .5 it
            learns the shortest of the times seen.
        apart_weight: weight of the hinge that keeps frames of different episodes apart.
        apart_steps: model steps that such frames are kept apart.
        temporal_weight: weight of the regression to the steps seen.
        bellman_weight: weight of the step to the next frame: one more than from there.
        contrastive_weight: weight of telling the own future from those of others.
    """

    history: Literal[1, 2] = 1
    width: int = 128
    features: int = 32
    expectile: float = 0.9
    apart_weight: float = 0.05
    apart_steps: float = 30.0
    temporal_weight: float = 1.0
    bellman_weight: float = 0.0
    contrastive_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must be between 0 and 1, got {self.expectile}")
        if self.history not in (1, 2):
            raise ValueError(f"critic reads a history of 1 or 2 frames, got {self.history}")
        if self.width < 1 or self.features < 1:
            raise ValueError(f"critic needs width and features of at least 1, got {self}")
        if not self.weights():
            raise ValueError("critic needs a term of some weight")

    def weights(self) -> dict[str, float]:
        """Return the weights of the terms in use, by name."""
        names = ("temporal", "apart", "bellman", "contrastive")
        return {name: weight for name in names if (weight := getattr(self, f"{name}_weight")) != 0}


ROWS = 1024
"""Embeddings that a CPU judges at once: what the layers make of them stays in its cache."""


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
        """Return phi and psi side by side, (..., D) and (..., D) one step earlier -> (..., 2F).

        A goal's can be kept for a whole episode.
        """
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
        return self.distance(self._pair_features(starts), self._pair_features(goals))

    def _pair_features(self, pairs: Tensor) -> Tensor:
        return self.features(pairs[..., 1, :], pairs[..., 0, :])


def critic_terms(
    critic: Critic,
    starts: Tensor,
    goals: Tensor,
    strangers: Tensor,
    steps: Tensor,
    following: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the terms that the critic learns from, those of some weight.

    Args:
        critic: the critic.
        starts: embeddings and those before them, oldest first, (N, 2, D).
        goals: such pairs (N, 2, D) reached `steps` later in the same episode.
        strangers: such pairs (N, 2, D) of other episodes, at rest as goals are.
        steps: (N,) model steps.
        following: the pairs (M, 2, D) one step after the last M starts, for `bellman`; where they
            are the starts themselves, an episode has ended, and they do not count.

    Returns:
        `temporal`, the expectile regression to the steps; `apart`, the hinge to strangers;
        `bellman`, the expectile regression to one step more than from the next frame to the same
        stranger; `contrastive`, the cross-entropy of the own goal among those of 256 others.
    """
    config = critic.config

    def expectile(error: Tensor) -> Tensor:
        side = torch.where(error > 0, config.expectile, 1 - config.expectile)
        return distributed.mean(side * error.square())

    def bellman() -> Tensor:
        assert following is not None
        rest = slice(len(starts) - len(following), None)
        here, there = starts[rest], strangers[rest]
        moved = (here != following).flatten(1).any(dim=1)
        beyond = 1 + critic(following, there).detach()
        return expectile((critic(here, there) - beyond) * moved)

    def contrastive() -> Tensor:
        rivals, theirs = (distributed.gathered(pairs)[:RIVALS] for pairs in (starts, goals))
        away = critic(rivals[:, None], theirs[None])
        own = torch.arange(len(away), device=away.device)
        return (
            nn.functional.cross_entropy(-away, own) + nn.functional.cross_entropy(-away.T, own)
        ) / 2

    terms = {
        "temporal": lambda: expectile(critic(starts, goals) - steps),
        "apart": lambda: (config.apart_steps - critic(starts, strangers)).relu().mean(),
        "bellman": bellman,
        "contrastive": contrastive,
    }
    return {name: terms[name]() for name in config.weights()}
