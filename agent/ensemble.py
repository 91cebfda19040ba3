"""Uncertainty: the disagreement of several cheap predictors of the same step.

The members agree where the data are dense and disagree where there are none (deep ensembles,
arXiv 1612.01474; as a planning cost, arXiv 1805.12114).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mujepa.agent.memory import Memory
from mujepa.runtime.settings import Count, settings


@settings
class EnsembleConfig:
    """The ensemble.

    Attributes:
        members: E, number of predictors.
        width: hidden units of each.
    """

    members: Annotated[int, Field(ge=2)] = 5
    width: Count = 96


class Ensemble(nn.Module):
    """E perceptrons with one hidden layer, each of which predicts how the embedding changes.

    Letters: B batch, E members, K history, D embedding, A action.
    """

    scale: Tensor
    """Unit of the disagreement: the world model's squared error over the members' variance."""

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
        """Return each member's change (E, B, D) for inputs (E, B, K * (D + A)), or (B, ...)."""
        inputs = inputs.expand(self.config.members, -1, -1)
        hidden = nn.functional.silu(torch.baddbmm(self.biases[0], inputs, self.weights[0]))
        return torch.baddbmm(self.biases[1], hidden, self.weights[1])

    def disagreement(self, memory: Memory, action: Tensor) -> Tensor:
        """Return the members' variance, averaged over D, in units of a squared error, (...)."""
        inputs = memory.inputs(action)
        variance = self(inputs.flatten(0, -2)).var(dim=0).mean(dim=-1)
        return self.scale * variance.unflatten(0, inputs.shape[:-1])
