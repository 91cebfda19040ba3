"""Batch normalisation over the rows of all processes that train together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mujepa.runtime.distributed import average, count


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation without learned scale, (N, D) -> (N, D).

    In training, the statistics are those of all processes. `nn.SyncBatchNorm` has no CPU version.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, affine=False)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise by the statistics of the batch in training, else by the running ones."""
        if count() == 1 or not self.training or not torch.is_grad_enabled():
            return super().forward(input)
        batch_mean = average(input.mean(dim=0))
        variance = average((input - batch_mean).square().mean(dim=0))
        rows = count() * len(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(batch_mean, self.momentum)
            self.running_var.lerp_(variance * rows / (rows - 1), self.momentum)
        return (input - batch_mean) / (variance + self.eps).sqrt()
