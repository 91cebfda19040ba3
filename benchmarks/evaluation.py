"""How long the planner takes through 100 episodes of each task, on all cores of this machine.

    python benchmarks/evaluation.py [--tasks reacher cube]

Wall time of what `mujepa evaluate --episodes 100` does for the agent itself: starting the
processes, loading the checkpoint, simulating, drawing, planning. Oracle, baselines and films, which
it adds, are not counted.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

from mujepa.envs.registry import TASKS
from mujepa.evaluation.config import EvaluateConfig
from mujepa.evaluation.loop import join, split
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.runner import build, run_shard
from mujepa.runtime import console
from mujepa.runtime.cluster import connect
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import write_json
from mujepa.runtime.provenance import machine, versions

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class EvaluationConfig:
    """Time evaluations of the shipped agents, and write them as JSON."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Which."""
    episodes: int = 100
    """Of each."""
    out: Path = ROOT / "benchmarks" / "results" / "evaluation.json"
    """The result."""

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or self.episodes < 1:
            raise UserError(
                f"tasks must be among {', '.join(TASKS)}, episodes at least 1, got "
                f"{', '.join(unknown) or self.episodes}"
            )


def main(config: EvaluationConfig) -> None:
    """Measure, print and write."""
    rows: dict[str, Any] = {}
    for task in config.tasks:
        asked = EvaluateConfig(ROOT / "pretrained" / task, config.episodes, oracle=False)
        manifest = make_manifest(build(asked, threads=1).world, config.episodes, asked.seed)
        pieces = [(asked, "agent", part) for part in split(manifest)]
        began = time.perf_counter()
        with connect(None) as workers:
            found = dict(workers.map(run_shard, pieces))
        seconds = time.perf_counter() - began
        held = join([found[index] for index in range(len(pieces))]).held
        rows[task] = {"seconds": seconds, "held": float(held.mean())}
        console.print(f"{task:<18}{seconds:6.1f} s   held {held.mean():.3f}")
    result = {"episodes": config.episodes, "tasks": rows, "load": os.getloadavg()[0]}
    write_json(config.out, result | {"versions": versions(), "machine": machine()})


if __name__ == "__main__":
    raise SystemExit(run(main, EvaluationConfig))
