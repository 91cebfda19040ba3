"""What each task offers: speed of collection, and success of random actions and of the oracle.

    python benchmarks/tasks.py [--tasks reacher cube] [--oracle-episodes 100]

Collection writes real shards, in one process on one core. Beside it stands the plain way, as
Gymnasium's MujocoEnv goes: `mj_step` in Python and `mujoco.Renderer` with its default quality, one
64x64 image per model step. Rates are medians of repeats taken in alternation. The oracle is the
planner that `mujepa train TASK` would give to the agent; where pretrained/ holds a result of the
task, oracle and random stand in it and are not run again. Tasks that are not asked for keep the
figures they have.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported, for mujoco.Renderer
os.environ.setdefault("LP_NUM_THREADS", "0")  # before the first context: Mesa keeps to one core

import mujoco
import numpy as np

from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.task import Task
from mujepa.envs.world import World
from mujepa.evaluation.loop import BATCH, run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import OraclePolicy, Policy, RandomPolicy
from mujepa.planners import make_planner
from mujepa.rollouts.collection import EPISODES_PER_SHARD, collect_shard, make_spec
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json
from mujepa.runtime.provenance import machine, versions
from mujepa.training.config import TrainConfig

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class TasksConfig:
    """Measure tasks, and write the result to --out."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Which; all by default."""
    episodes: int = 100
    """Episodes of random actions."""
    oracle_episodes: int = 100
    """Episodes of the oracle; 0 leaves it out."""
    shard_episodes: int = EPISODES_PER_SHARD
    """Episodes per repeat of the collection."""
    plain_frames: int = 300
    """Frames per repeat of the plain way."""
    repeats: int = 5
    """Repeats of which medians are taken."""
    out: Path = ROOT / "benchmarks" / "results" / "tasks.json"
    """The result."""

    def __post_init__(self) -> None:
        for name in ("episodes", "shard_episodes", "plain_frames", "repeats"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1")
        if self.oracle_episodes < 0:
            raise UserError("--oracle-episodes must not be negative")


def bench(config: TasksConfig) -> None:
    """Measure one task after the other; each is written as soon as it is known."""
    for task in [find_task(name) for name in config.tasks]:
        speed = measure_speed(task, config)
        success = judged(task) or measure_success(task, config)
        ratio = speed["collect_frames_per_s"] / speed["plain_frames_per_s"]
        _merge(config, task.name, speed | success, ratio)
        rates = {name: success[name]["rate"] for name in ("oracle", "random") if name in success}
        console.print(
            f"{task.name:<12}{speed['collect_frames_per_s']:>8,.0f} frames/s, {ratio:.1f} x plain, "
            f"success {rates}"
        )


def measure_speed(task: Task, config: TasksConfig) -> dict[str, float]:
    """Return the frames per second of collection and of the plain way, medians."""
    recipe = make_spec(task.name, seed=0)
    draw, close = _plain(task)
    with tempfile.TemporaryDirectory() as folder:
        measured: dict[str, Callable[[], int]] = {
            "collect_frames_per_s": lambda: collect_shard(
                Path(folder) / "shard", recipe, 0, config.shard_episodes
            ),
            "plain_frames_per_s": lambda: draw(config.plain_frames),
        }
        rates: dict[str, list[float]] = {name: [] for name in measured}
        draw(2)  # what is compiled and loaded once is not measured
        collect_shard(Path(folder) / "shard", recipe, 0, 1)
        for _ in range(config.repeats):
            for name, function in measured.items():
                began = time.perf_counter()
                frames = function()
                rates[name].append(frames / (time.perf_counter() - began))
    close()
    return {name: round(float(np.median(values)), 1) for name, values in rates.items()}


def _plain(task: Task) -> tuple[Callable[[int], int], Callable[[], None]]:
    """Step and draw one simulation in Python, under random actions."""
    model = task.compile()
    data, renderer = mujoco.MjData(model), mujoco.Renderer(model, 64, 64)
    rng = np.random.default_rng(0)
    low, high = model.actuator_ctrlrange.T
    episode = task.episode_steps or 2 * task.budget_steps // task.frame_skip

    def draw(frames: int) -> int:
        for frame in range(frames):
            if frame % (episode + 1) == 0:
                mujoco.mj_resetData(model, data)
                data.qpos[:], data.qvel[:] = task.sample_anywhere(model, rng)
                mujoco.mj_forward(model, data)
            else:
                data.ctrl[:] = rng.uniform(low, high)
                for _ in range(task.frame_skip):
                    mujoco.mj_step(model, data, nstep=task.substeps)
            renderer.update_scene(data, task.observation_camera)
            renderer.render()
        return frames

    return draw, renderer.close


def judged(task: Task) -> dict[str, Any] | None:
    """Return what the result of the shipped checkpoint says of random actions and the oracle."""
    path = ROOT / "pretrained" / task.name / "result.json"
    if not path.exists():
        return None
    result = read_json(path, "evaluate the checkpoint")
    bounds = {name: result["baselines"][name] for name in ("random", "oracle")}
    success = {n: b["success_at_end"] | {"episodes": b["episodes"]} for n, b in bounds.items()}
    return success | {"planner": result["planner"]}


def measure_success(task: Task, config: TasksConfig) -> dict[str, Any]:
    """Return the success at the end of random actions and of the oracle, and its planner."""
    planner = TrainConfig(task.name, Path("unused")).resolved().planner
    world = World(task, threads=2)
    manifest = make_manifest(world, max(config.episodes, config.oracle_episodes), seed=0)
    policies: dict[str, tuple[Policy[Any], int]] = {
        "random": (RandomPolicy(world), config.episodes),
        "oracle": (OraclePolicy(world, make_planner(planner)), config.oracle_episodes),
    }
    success: dict[str, Any] = {"planner": asdict(planner)}
    for name, (policy, episodes) in policies.items():
        if not episodes:
            continue
        steps = task.budget_steps * -(-episodes // BATCH)
        with console.progress_bar(steps, f"{task.name}, {name}", unit="step") as bar:
            part = manifest.first(episodes)
            outcome = run_episodes(world, policy, part, bar.update)
            summary = asdict(outcome.summary())
        success[name] = summary["success_at_end"] | {"episodes": summary["episodes"]}
    return success


def _merge(config: TasksConfig, name: str, figures: dict[str, Any], ratio: float) -> None:
    """Enter a task's figures into the file, and keep those of the others."""
    origin = {"versions": versions(), "machine": machine()}
    result = _there(config.out) or {"tasks": {}, "ratios": {}}
    result["tasks"][name] = figures | origin
    result["ratios"][f"{name}: collection over the plain way"] = round(ratio, 2)
    write_json(config.out, result)


def _there(path: Path) -> dict[str, Any]:
    return read_json(path, f"delete {path}") if path.exists() else {}


if __name__ == "__main__":
    raise SystemExit(run(bench, TasksConfig))
