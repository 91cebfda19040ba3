"""Planners by name, with settings that a file can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mujepa.planners.base import Planner
from mujepa.planners.cem import CEM
from mujepa.planners.gradient import GradientDescent, Hybrid
from mujepa.planners.icem import ICEM
from mujepa.planners.mppi import MPPI
from mujepa.planners.random_shooting import RandomShooting

Kind = Literal["cem", "icem", "mppi", "gradient", "hybrid", "random"]
"""Cross-entropy method, the one that keeps elites, path integral, gradient descent, elites and
gradient, random shooting."""


@dataclass(frozen=True)
class PlannerConfig:
    """How action sequences are searched. A planner heeds the settings that it has.

    Attributes:
        kind: the algorithm.
        horizon: model steps to look ahead.
        samples: candidates per iteration; the starts of gradient descent.
        iterations: rounds of sampling and refitting; steps of gradient descent.
        elites: best candidates that CEM, iCEM and hybrid refit to.
        initial_std: first standard deviation, in half-widths of the action bounds.
        min_std: smallest standard deviation, in half-widths of the action bounds.
        correlation: of the noise between neighbouring model steps, in [0, 1).
        keep: share of the elites that iCEM and hybrid keep.
        decay: candidates of an iteration of iCEM and hybrid over those of the next.
        temperature: of MPPI, in standard deviations of the costs.
        learning_rate: of gradient descent and hybrid, in half-widths of the action bounds.
        gradient_steps: of hybrid, after each iteration.
    """

    kind: Kind = "icem"
    horizon: int = 5
    samples: int = 64
    iterations: int = 4
    elites: int = 8
    initial_std: float = 0.7
    min_std: float = 0.05
    correlation: float = 0.5
    keep: float = 0.3
    decay: float = 1.25
    temperature: float = 0.2
    learning_rate: float = 0.1
    gradient_steps: int = 2

    def __post_init__(self) -> None:
        make_planner(self)  # the planner knows which numbers it can work with


SHARED = ("horizon", "samples", "iterations", "correlation")
GAUSSIAN = (*SHARED, "elites", "initial_std", "min_std")
PLANNERS: dict[Kind, tuple[type[Planner], tuple[str, ...]]] = {
    "cem": (CEM, GAUSSIAN),
    "icem": (ICEM, (*GAUSSIAN, "keep", "decay")),
    "mppi": (MPPI, (*GAUSSIAN, "temperature")),
    "gradient": (GradientDescent, (*SHARED, "initial_std", "learning_rate")),
    "hybrid": (Hybrid, (*GAUSSIAN, "keep", "decay", "learning_rate", "gradient_steps")),
    "random": (RandomShooting, SHARED),
}
"""Every planner and the settings that it heeds."""


def make_planner(config: PlannerConfig) -> Planner:
    """Build the planner.

    Raises:
        ValueError: a number is out of range.
    """
    planner, settings = PLANNERS[config.kind]
    return planner(**{name: getattr(config, name) for name in settings})
