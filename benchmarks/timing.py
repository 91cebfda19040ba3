"""How the benchmarks take time: in turn, so that a disturbance hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

REPEATS = 5


def alternate(
    measured: Mapping[str, Callable[[], Any]], repeats: int = REPEATS
) -> dict[str, list[float]]:
    """Return how long each function took [s], over repeats in turn, after one run to warm up."""
    for function in measured.values():
        function()
    spent: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(repeats):
        for name, function in measured.items():
            began = time.perf_counter()
            function()
            spent[name].append(time.perf_counter() - began)
    return spent


def medians(spent: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each function's times [s]."""
    return {name: float(np.median(times)) for name, times in spent.items()}
