"""Optimisers of action sequences. They know `cost(actions)` and nothing else."""

from mujepa.planners.base import Bounds, CostFn, Plan, Planner, Search, Slope, Trace
from mujepa.planners.cem import CEM
from mujepa.planners.config import PLANNERS, PlannerConfig, make_planner
from mujepa.planners.gradient import GradientDescent, Hybrid
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
    "Hybrid",
    "Plan",
    "Planner",
    "PlannerConfig",
    "RandomShooting",
    "Search",
    "Slope",
    "Trace",
    "make_planner",
]
