"""Where the failures of a shipped agent come from: true parts swapped in, one at a time.

    python benchmarks/attribution.py [--tasks push_t cube] [--failures 20]

The episodes that the agent, its planner alone, fails are tried again with each of the swaps of
`mujepa.evaluation.lab.attribution`. Writes the figures as JSON, after each task.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import torch

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.world import World
from mujepa.evaluation.lab.attribution import attribute, swaps
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.sampling import sample_episodes
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json
from mujepa.runtime.provenance import machine, versions

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class AttributionConfig:
    """Swap true parts into shipped agents."""

    tasks: tuple[str, ...] = ("push_t", "cube")
    """Which tasks' checkpoints."""
    folder: Path = ROOT / "pretrained"
    """Where the checkpoints are, one folder a task."""
    episodes: int = 200
    """Episodes among which failures are looked for."""
    failures: int = 20
    """Failures that are tried again; filming every candidate takes a second for each decision."""
    seed: int = 0
    """Of the episodes."""
    out: Path = ROOT / "benchmarks" / "results" / "attribution.json"
    """The figures; tasks that are in the file already and are not asked for are kept."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown:
            raise UserError(f"no task {unknown[0]!r}; tasks: {', '.join(TASKS)}")
        if self.episodes < 1 or self.failures < 1:
            raise UserError(f"--episodes and --failures must be at least 1, got {self}")


def main(config: AttributionConfig) -> None:
    """Judge, print and write."""
    torch.set_num_threads(1)
    done = read_json(config.out, "delete it")["tasks"] if config.out.is_file() else {}
    for name in config.tasks:
        done[name] = judge(name, config)
        about = {"seed": config.seed, "machine": machine(), "versions": versions()}
        write_json(config.out, {"tasks": done} | about)


def judge(name: str, config: AttributionConfig) -> dict[str, Any]:
    """Return how many of an agent's failures each swap rescues, and what they owe to."""
    task = find_task(name)
    checkpoint = load_checkpoint(config.folder / name, "cpu")
    planner, jepa = checkpoint.config.planner, checkpoint.networks.jepa
    world = World(task, checkpoint.config.image_size, threads=2)
    manifest = make_manifest(world, config.episodes, config.seed)
    agent = checkpoint.agent(actor="planner")
    outcome = run_episodes(task, world.image_size, AgentPolicy(agent), manifest)
    policies = swaps(checkpoint, world, agent, planner)
    usual = sample_episodes(jepa, world, 4000, config.seed, kind=1)
    with console.progress_bar(len(policies) * task.budget_steps, name, unit="step") as bar:
        found = attribute(
            policies, jepa, world, manifest, outcome, usual, config.failures, bar.update
        )
    for swapped, rate in found["rescued"].items():
        console.print(
            f"{name:<12}{swapped:<20}rescues {rate['rate']:.2f} [{rate['low']:.2f}, "
            f"{rate['high']:.2f}] of {found['failures']} failures"
        )
    console.print(f"{name:<12}cause: {found['cause']}")
    return {"agent": asdict(outcome.summary())} | found


if __name__ == "__main__":
    raise SystemExit(run(main, AttributionConfig))
