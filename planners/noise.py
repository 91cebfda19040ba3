"""Noise correlated over time: neighbouring actions move together, as bodies with inertia need."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def correlated_noise(
    generators: Sequence[torch.Generator], samples: int, horizon: int, size: int, correlation: float
) -> Tensor:
    """Draw first-order autoregressive noise of unit variance (B, N, H, A) on the CPU.

    n_0 = e_0, n_t = c n_{t-1} + sqrt(1 - c^2) e_t with e ~ N(0, 1), written as one triangular
    product. Row b depends on `generators[b]` alone.
    """
    white = torch.stack([torch.randn(samples, horizon, size, generator=g) for g in generators])
    if correlation == 0:
        return white
    return torch.einsum("hk,bnka->bnha", _autoregression(horizon, correlation), white)


@functools.cache
def _autoregression(horizon: int, correlation: float) -> Tensor:
    lag = torch.arange(horizon)[:, None] - torch.arange(horizon)[None, :]
    weights = torch.where(lag >= 0, correlation ** lag.clamp(min=0), torch.zeros(()))
    weights[:, 1:] *= (1 - correlation**2) ** 0.5
    return weights
