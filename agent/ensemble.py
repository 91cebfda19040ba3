"""Uncertainty: what several cheap predictors of the same step do not agree on.

Each member learned from other transitions, from other initial weights. Where the data were dense
they agree; where nobody has been they do not (deep ensembles, arXiv 1612.01474; as a planning cost,
arXiv 1805.12114).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from mujepa.agent.memory import Memory


@dataclass(frozen=True)
class EnsembleConfig:
    """The ensemble.

    Attributes:
        members: E, how many predictors.
        width: hidden units of each.
    """

    members: int = 5
    width: int = 96

    def __post_init__(self) -> None:
        if self.members < 2 or self.width < 1:
            raise ValueError(
                f"ensemble needs at least 2 members and a width of at least 1, got {self}"
            )


class Ensemble(nn.Module):
    """E perceptrons with one hidden layer, each of which predicts how the embedding changes.

    Letters: B batch, E members, K history, D embedding, A action.

    Args:
        config: sizes.
        history: K.
        dim: D.
        action_size: A.

    Attributes:
        scale: squared error of the world model over the members' variance, on held-out steps; it
            gives the disagreement its unit.
    """

    scale: Tensor

    def __init__(self, config: EnsembleConfig, history: int, dim: int, action_size: int) -> None:
        super().__init__()
        self.config = config
        sizes = (history * (dim + action_size), config.width, dim)
        self.weights = nn.ParameterList(
            torch.empty(config.members, i, o).uniform_(-1, 1) / math.sqrt(i)
            for i, o in pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(config.members, 1, size) for size in sizes[1:])
        self.register_buffer("scale", torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return each member's change (E, B, D), for inputs of its own (E, B, ...) or of all."""
        inputs = inputs.expand(self.config.members, -1, -1)
        hidden = nn.functional.silu(torch.baddbmm(self.biases[0], inputs, self.weights[0]))
        return torch.baddbmm(self.biases[1], hidden, self.weights[1])

    def disagreement(self, memory: Memory, action: Tensor) -> Tensor:
        """Return the members' variance, averaged over D, in units of a squared error.

        Args:
            memory: of any shape (...) of steps.
            action: (..., A) taken there.

        Returns:
            (...)
        """
        inputs = memory.inputs(action)
        variance = self._variance(self(inputs.flatten(0, -2)))
        return self.scale * variance.unflatten(0, inputs.shape[:-1])

    @staticmethod
    def _variance(changes: Tensor) -> Tensor:
        return changes.var(dim=0).mean(dim=-1)
