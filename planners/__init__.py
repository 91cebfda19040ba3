"""Optimisers of action sequences. They know `cost(actions)` and nothing else."""

from mujepa.planners.base import Bounds, CostFn, Plan, Planner, SamplingState, Trace, advance
from mujepa.planners.cem import CEM
from mujepa.planners.config import (
    PLANNERS,
    PlannerConfig,
    PlannerKind,
    make_planner,
    sampling_config,
)
from mujepa.planners.gradient import GradientDescent
from mujepa.planners.icem import ICEM
from mujepa.planners.mppi import MPPI
from mujepa.planners.random_shooting import RandomShooting

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "PLANNERS",
    "Bounds",
    "CostFn",
    "GradientDescent",
    "Plan",
    "Planner",
    "PlannerConfig",
    "PlannerKind",
    "RandomShooting",
    "SamplingState",
    "Trace",
    "advance",
    "make_planner",
    "sampling_config",
]
