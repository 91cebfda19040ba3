"""Planners by name, with settings that a file can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mujepa.planners.base import Planner
from mujepa.planners.cem import CEM
from mujepa.planners.icem import ICEM
from mujepa.planners.random_shooting import RandomShooting


@dataclass(frozen=True)
class PlannerConfig:
    """How action sequences are searched.

    Attributes:
        kind: `cem`, the cross-entropy method, `icem`, which keeps elites, or `random` shooting.
        horizon: model steps to look ahead.
        samples: candidates per iteration.
        iterations: rounds of sampling and refitting.
        elites: best candidates that CEM refits to.
        initial_std: CEM's first standard deviation, in half-widths of the action bounds.
        min_std: CEM's smallest standard deviation, in half-widths of the action bounds.
        correlation: of the noise between neighbouring model steps, in [0, 1).
    """

    kind: Literal["cem", "icem", "random"] = "cem"
    horizon: int = 5
    samples: int = 128
    iterations: int = 4
    elites: int = 16
    initial_std: float = 0.7
    min_std: float = 0.05
    correlation: float = 0.5

    def __post_init__(self) -> None:
        make_planner(self)  # the planner knows which numbers it can work with


def make_planner(config: PlannerConfig) -> Planner:
    """Build the planner.

    Raises:
        ValueError: a number is out of range.
    """
    shared = {
        "horizon": config.horizon, "samples": config.samples, "iterations": config.iterations,
    }  # fmt: skip
    if config.kind == "random":
        return RandomShooting(**shared, correlation=config.correlation)
    algorithm = ICEM if config.kind == "icem" else CEM
    return algorithm(
        **shared,
        elites=config.elites,
        initial_std=config.initial_std,
        min_std=config.min_std,
        correlation=config.correlation,
    )
