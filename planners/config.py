"""Planners by name, with the settings that a checkpoint and the command line hold."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Literal

from mujepa.planners.base import Planner
from mujepa.planners.cem import CEM
from mujepa.planners.gradient import GradientDescent
from mujepa.planners.icem import ICEM
from mujepa.planners.mppi import MPPI
from mujepa.planners.random_shooting import RandomShooting
from mujepa.runtime.settings import settings

PLANNERS: dict[str, type[Planner]] = {
    "cem": CEM,
    "icem": ICEM,
    "mppi": MPPI,
    "gradient": GradientDescent,
    "random": RandomShooting,
}
"""The planners by name. A new planner is one file, a line here and, for a setting that no other
planner has, a field of `PlannerConfig`."""

if TYPE_CHECKING:
    PlannerKind = str
else:
    PlannerKind = Literal[tuple(PLANNERS)]


@settings
class PlannerConfig:
    """The search for action sequences. A planner uses the settings that it has.

    Attributes:
        kind: the algorithm.
        horizon: model steps to look ahead.
        samples: candidates per iteration; the starts of gradient descent.
        iterations: rounds of sampling and refitting; the steps of gradient descent.
        elites: best candidates that CEM and iCEM refit to.
        initial_std: first standard deviation, in half-widths of the action bounds.
        min_std: smallest standard deviation, in half-widths of the action bounds.
        correlation: of the noise between neighbouring model steps, in [0, 1).
        keep: share of the elites that iCEM keeps.
        decay: candidates of an iteration of iCEM over those of the next.
        temperature: of MPPI, in standard deviations of the costs.
        learning_rate: of gradient descent, in half-widths of the action bounds.

    Raises:
        UserError: a setting of the planner is out of range.
    """

    kind: PlannerKind = "icem"
    horizon: int = ICEM.horizon
    samples: int = ICEM.samples
    iterations: int = ICEM.iterations
    elites: int = ICEM.elites
    initial_std: float = ICEM.initial_std
    min_std: float = ICEM.min_std
    correlation: float = ICEM.correlation
    keep: float = ICEM.keep
    decay: float = ICEM.decay
    temperature: float = MPPI.temperature
    learning_rate: float = GradientDescent.learning_rate

    def __post_init__(self) -> None:
        make_planner(self)  # checks the settings that this planner uses


def make_planner(config: PlannerConfig) -> Planner:
    """Build the planner that the settings describe."""
    planner = PLANNERS[config.kind]
    used = {field.name for field in fields(planner)} & {field.name for field in fields(config)}
    return planner(**{name: getattr(config, name) for name in used})


def sampling_config(config: PlannerConfig) -> PlannerConfig:
    """Return settings for a cost without a gradient, such as the simulator's: iCEM if needed."""
    return replace(config, kind="icem") if PLANNERS[config.kind].needs_gradient else config
