"""A linear probe that reads physical quantities from embeddings, for people and costs only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LinearProbe(nn.Module):
    """Embeddings (..., D) -> quantities (..., G), fitted by least squares on frozen embeddings."""

    def __init__(self, dim: int, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.weight = nn.Parameter(torch.zeros(dim, len(names)), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(len(names)), requires_grad=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the quantities."""
        return embeddings @ self.weight + self.bias

    @torch.no_grad()
    def fit(self, embeddings: Tensor, quantities: Tensor) -> None:
        """Fit to embeddings (N, D) and quantities (N, G), with a small ridge for collinear ones."""
        centre, target = embeddings.mean(dim=0), quantities.mean(dim=0)
        inputs = (embeddings - centre).double()
        gram = inputs.T @ inputs
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        ridge = 1e-6 * gram.diagonal().mean().clamp(min=1e-12) * identity
        solution = torch.linalg.solve(gram + ridge, inputs.T @ (quantities - target).double())
        self.weight.copy_(solution)
        self.bias.copy_(target - centre @ self.weight)

    @torch.no_grad()
    def r2(self, embeddings: Tensor, quantities: Tensor) -> float:
        """Return the share of explained variance, averaged over quantities that vary."""
        variance = quantities.var(dim=0, unbiased=False)
        moving = variance > 1e-8
        if not moving.any():
            return 1.0
        error = (self(embeddings) - quantities).square().mean(dim=0)
        return float((1 - error[moving] / variance[moving]).mean())
