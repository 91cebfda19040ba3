"""Precision of what autocast must not shorten."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def full_precision(
    function: Callable[Concatenate[Tensor, Rest], Result],
) -> Callable[Concatenate[Tensor, Rest], Result]:
    """Compute a function of a tensor without autocast.

    Sums over a batch and embeddings kept for later stages need the precision (--precision).
    """

    @functools.wraps(function)
    def precise(tensor: Tensor, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        with torch.autocast(tensor.device.type, enabled=False):
            return function(tensor, *args, **kwargs)

    return precise
