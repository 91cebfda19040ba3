"""Optimisers of action sequences. They know `cost(actions)` and nothing else."""

from mujepa.planners.base import Bounds, CostFn, Plan, Planner, Search, Trace
from mujepa.planners.cem import CEM
from mujepa.planners.config import PlannerConfig, make_planner
from mujepa.planners.icem import ICEM
from mujepa.planners.random_shooting import RandomShooting

__all__ = [
    "CEM",
    "ICEM",
    "Bounds",
    "CostFn",
    "Plan",
    "Planner",
    "PlannerConfig",
    "RandomShooting",
    "Search",
    "Trace",
    "make_planner",
]
