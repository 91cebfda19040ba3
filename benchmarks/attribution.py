"""Causes of failure of the shipped agents: one part at a time is replaced by a true one.

    python benchmarks/attribution.py [--tasks push_t cube] [--failures 20]

The episodes that the planner without its actor fails are repeated with each of the swaps of
`mujepa.evaluation.lab.attribution`. Writes the results as JSON after each task.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import torch

from mujepa.envs.registry import TASKS
from mujepa.evaluation.config import EvaluateConfig
from mujepa.evaluation.held_out import sample_episodes
from mujepa.evaluation.lab.attribution import attribute
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.runner import build
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json
from mujepa.runtime.provenance import machine, versions

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class AttributionConfig:
    """Attribute the failures of shipped agents."""

    tasks: tuple[str, ...] = ("push_t", "cube")
    """Which tasks' checkpoints."""
    folder: Path = ROOT / "pretrained"
    """Folder of the checkpoints, one folder a task."""
    episodes: int = 200
    """Episodes whose failures are counted."""
    failures: int = 20
    """Failures that are repeated; rendering every candidate takes a second for each decision."""
    seed: int = 0
    """Of the episodes."""
    out: Path = ROOT / "benchmarks" / "results" / "attribution.json"
    """The results; other tasks in the file are kept."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown:
            raise UserError(f"no task {unknown[0]!r}; tasks: {', '.join(TASKS)}")
        if self.episodes < 1 or self.failures < 1:
            raise UserError(f"--episodes and --failures must be at least 1, got {self}")


def main(config: AttributionConfig) -> None:
    """Evaluate, print and write."""
    torch.set_num_threads(1)
    done = read_json(config.out, "delete it")["tasks"] if config.out.is_file() else {}
    for name in config.tasks:
        done[name] = evaluate(name, config)
        about = {"seed": config.seed, "machine": machine(), "versions": versions()}
        write_json(config.out, {"tasks": done} | about)


def evaluate(name: str, config: AttributionConfig) -> dict[str, Any]:
    """Return the share of an agent's failures that each swap rescues, and their cause."""
    asked = EvaluateConfig(
        config.folder / name, config.episodes, config.seed, actor="planner", device="cpu"
    )
    setup = build(asked, threads=2)
    world, manifest = setup.world, setup.make_manifest()
    outcome = run_episodes(world, setup.policies["agent"], manifest)
    jepa = setup.checkpoint.networks.jepa
    held_out = sample_episodes(jepa, world, 4000, config.seed, kind=1)
    found = attribute(setup, manifest, outcome, held_out, config.failures)
    for swapped, rate in found["rescued"].items():
        console.print(
            f"{name:<12}{swapped:<20}rescues {rate['rate']:.2f} [{rate['low']:.2f}, "
            f"{rate['high']:.2f}] of {found['failures']} failures"
        )
    console.print(f"{name:<12}cause: {found['cause']}")
    return {"agent": asdict(outcome.summary())} | found


if __name__ == "__main__":
    raise SystemExit(run(main, AttributionConfig))
