"""Success of every planner on the same episodes, beside how often it asks the model.

    python benchmarks/planners.py [--tasks reacher two_room] [--episodes 100]

Each plans with the shipped checkpoint's model, cost and horizon, without the actor; candidates and
rounds are named in the table below. McNemar's exact test compares each with CEM, episode by
episode. Training seed 0 alone, and the episodes are those of the shipped result.json's seed.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import numpy as np
import torch

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.world import World
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.statistics import paired, success_rate
from mujepa.planners import Bounds, Planner, make_planner
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import write_json
from mujepa.runtime.provenance import machine, versions

ROOT = Path(__file__).parents[1]
PLANNERS: dict[str, dict[str, Any]] = {
    "cem": {"kind": "cem", "samples": 128, "iterations": 4, "elites": 16},
    "icem": {"kind": "icem", "samples": 128, "iterations": 4, "elites": 16},
    "icem, a third": {"kind": "icem", "samples": 56, "iterations": 4, "elites": 8},
    "cem, a third": {"kind": "cem", "samples": 42, "iterations": 4, "elites": 8},
    "mppi": {"kind": "mppi", "samples": 128, "iterations": 4},
    "gradient": {"kind": "gradient", "samples": 16, "iterations": 11},
    "random": {"kind": "random", "samples": 128, "iterations": 4},
}
"""What is compared; the first is the distance_metric."""


@dataclass(frozen=True)
class PlannersConfig:
    """Judge every planner on the shipped checkpoints and write the figures as JSON."""

    tasks: tuple[str, ...] = ("reacher", "two_room", "point_maze", "pendulum")
    """Which tasks' checkpoints."""
    episodes: int = 100
    """Episodes for each planner."""
    seed: int = 0
    """Of the episodes."""
    out: Path = ROOT / "benchmarks" / "results" / "planners.json"
    """The result."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown:
            raise UserError(f"no task {unknown[0]!r}; tasks: {', '.join(TASKS)}")
        if self.episodes < 1:
            raise UserError(f"--episodes must be at least 1, got {self.episodes}")


def main(config: PlannersConfig) -> None:
    """Judge, print, and write after each task."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name in config.tasks:
        figures[name] = judge(name, config)
        settings = {"planners": PLANNERS, "episodes": config.episodes, "seed": config.seed}
        about = {"machine": machine(), "versions": versions()}
        write_json(config.out, {"tasks": figures} | settings | about)


def judge(name: str, config: PlannersConfig) -> dict[str, Any]:
    """Return for each planner its success and its evaluations of the model in a decision."""
    checkpoint, world = load_checkpoint(ROOT / "pretrained" / name, "cpu"), World(find_task(name))
    manifest = make_manifest(world, config.episodes, config.seed)
    figures, held = {}, {}
    for label, settings in PLANNERS.items():
        planner = replace(checkpoint.config.planner, **settings)
        outcome = run_episodes(
            world, AgentPolicy(checkpoint.agent(planner, actor="planner")), manifest
        )
        held[label] = outcome.held
        seen, sloped = asked(make_planner(planner))
        figures[label] = {
            "evaluations": seen,
            "gradients": sloped,
            "success_at_end": asdict(success_rate(int(outcome.held.sum()), len(manifest.episodes))),
            "median_final_distance": float(np.median(outcome.distance[:, -1])),
            **asdict(paired(held[label], held[next(iter(PLANNERS))])),
        }
        rate = figures[label]["success_at_end"]
        console.print(
            f"{name:<12}{label:<16}{seen:>4} evaluations {sloped:>4} gradients  "
            f"held {rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]  "
            f"p {figures[label]['p_value']:.2f}"
        )
    return figures


def asked(planner: Planner) -> tuple[int, int]:
    """Return of how many sequences a decision wants the cost, and of how many its gradient."""
    seen = {False: 0, True: 0}

    def cost(actions: torch.Tensor) -> torch.Tensor:
        seen[actions.requires_grad] += actions.shape[0] * actions.shape[1]
        return actions.square().mean(dim=(-1, -2))

    bounds = Bounds(-torch.ones(2), torch.ones(2))
    planner.plan(cost, planner.start(1, bounds), bounds, [torch.Generator().manual_seed(0)])
    return seen[False], seen[True]


if __name__ == "__main__":
    raise SystemExit(run(main, PlannersConfig))
