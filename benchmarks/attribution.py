"""Where the failures of a shipped agent come from: true parts swapped in, one at a time.

    python benchmarks/attribution.py [--tasks push_t cube] [--failures 20]

The episodes that the agent fails are tried again: with other noise for the search (what luck
alone would rescue), with four times the candidates (search), with what the camera would see in
place of what the world model imagines (dynamics), with the goal's distance as a probe reads it in
place of the cost (cost), with both, and with everything true (the oracle). Writes the figures as
JSON, after each task.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import numpy as np
import torch

from mujepa.agent.checkpoint import Checkpoint, load_checkpoint
from mujepa.cli import run
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.world import World
from mujepa.errors import UserError
from mujepa.evaluation.attribution import SimulatedPolicy
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy, OraclePolicy, Policy
from mujepa.evaluation.statistics import success_rate
from mujepa.files import read_json, write_json
from mujepa.planners import make_planner
from mujepa.provenance import machine, versions
from mujepa.screen import progress_bar, say

ROOT = Path(__file__).parents[1]
YARDSTICKS = {
    "push_t": "20*state(block).min + 2.9*state(block_axis).min",  # 5 cm and 20 degrees count alike
    "cube": "state(cube).min",
}
"""What the tasks judge by, as costs; the others judge by all that their sensors say."""


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
    """Return how many of an agent's failures each swap rescues."""
    task = find_task(name)
    checkpoint = load_checkpoint(config.folder / name, "cpu")
    world = World(task, checkpoint.config.image_size)
    manifest = make_manifest(world, config.episodes, config.seed)
    tried = policies(checkpoint, world)
    outcome = run_episodes(task, world.image_size, tried["luck"], manifest)
    failed = np.flatnonzero(~outcome.held)[: config.failures]
    found: dict[str, Any] = {"agent": outcome.summary(), "failures": len(failed), "rescued": {}}
    again = replace(
        manifest,
        episodes=[manifest.episodes[index] for index in failed],
        seeds=[manifest.seeds[index] + 1 for index in failed],
    )
    for swapped, policy in tried.items() if len(failed) else ():
        with progress_bar(task.budget_steps, f"{name}: {swapped}", unit="step") as bar:
            outcome = run_episodes(task, world.image_size, policy, again, bar.update)
        rate = success_rate(int(outcome.held.sum()), len(failed))
        found["rescued"][swapped] = asdict(rate)
        say(
            f"{name:<12}{swapped:<20}rescues {rate.rate:.2f} [{rate.low:.2f}, {rate.high:.2f}] "
            f"of {len(failed)} failures"
        )
    return found


def policies(checkpoint: Checkpoint, world: World) -> dict[str, Policy[Any]]:
    """Return what the agent, without its actor, becomes by each swap; by `luck` it stays itself."""
    planner = checkpoint.config.planner
    wide = replace(planner, samples=4 * planner.samples, elites=4 * planner.elites)
    everything = f"state({', '.join(checkpoint.networks.probe.names)})"
    probed = YARDSTICKS.get(checkpoint.config.task, everything)
    agent = checkpoint.agent(mode="planner")
    direct = checkpoint.agent(cost=probed, mode="planner")
    return {
        "luck": AgentPolicy(agent),
        "search": AgentPolicy(checkpoint.agent(wide, mode="planner")),
        "cost": AgentPolicy(direct),
        "everything": OraclePolicy(world, make_planner(planner)),
        "dynamics": SimulatedPolicy(agent, world),
        "dynamics and cost": SimulatedPolicy(direct, world),
    }


if __name__ == "__main__":
    raise SystemExit(run(main, AttributionConfig))
