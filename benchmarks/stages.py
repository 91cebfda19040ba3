"""Speed of every stage on this machine: collection, drawing, window reads, training, planning.

    python benchmarks/stages.py [--checkpoint FOLDER] [--out FILE]

Rates are medians of repeats taken in alternation, so that a disturbance hits all of them alike;
`ratios` compares figures of this one run with each other.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported, for mujoco.Renderer

import mujoco
import numpy as np
import torch
from timing import alternate, medians

from mujepa.agent.checkpoint import Networks, load_checkpoint
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.summaries import time_decisions
from mujepa.rollouts.collection import collect_shards, make_spec
from mujepa.rollouts.store import Dataset
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.files import write_json
from mujepa.runtime.malloc import keep_freed_memory
from mujepa.runtime.parallel import Pool
from mujepa.runtime.provenance import machine, versions
from mujepa.training.config import TrainConfig
from mujepa.training.data import LatentDataset, load_training_data
from mujepa.training.losses import weighted_sum
from mujepa.training.stages import Stage
from mujepa.training.trainer import make_stage

FRAMES = 1000


@dataclass(frozen=True)
class BenchConfig:
    """Measure the speed of every stage and write it as JSON."""

    checkpoint: Path = Path("pretrained/reacher")
    """Checkpoint whose decisions and training are timed."""
    out: Path = Path("benchmarks/results/stages.json")
    """The result."""


def bench(config: BenchConfig) -> None:
    """Measure, print and write."""
    keep_freed_memory()
    checkpoint = load_checkpoint(config.checkpoint, "cpu")
    task = find_task(checkpoint.task_name)
    world = World(task)
    states = np.stack([world.sample_episode(np.random.default_rng(i)).start for i in range(FRAMES)])
    with tempfile.TemporaryDirectory() as folder:
        rates: dict[str, float] = {}
        for workers in (1, os.cpu_count() or 1):
            rates[f"collect_frames_per_s_{workers}_processes"] = _collect(Path(folder), workers)
        data = Path(folder) / "1"
        stage, dataset = _stage(data, checkpoint.networks), Dataset(data)
        random = np.random.default_rng(0)

        def read_windows() -> int:
            episodes = random.integers(len(dataset), size=512)
            dataset.gather("pixels", episodes, random.integers(0, 10, size=512), 16)
            return 512

        slow, close = _plain_renderer(world)
        measured: dict[str, Callable[[], int]] = {
            "render_frames_per_s_1_core": lambda: len(world.render(states)),
            "render_frames_per_s_mujoco_defaults": lambda: slow(states[:20]),
            "physics_steps_per_s": lambda: _physics(world, states),
            "window_reads_per_s_16_frames": read_windows,
            "train_frames_per_s": lambda: _train(stage),
        }
        counts = {name: function() for name, function in measured.items()}
        rates |= {name: counts[name] / time for name, time in medians(alternate(measured)).items()}
        close()
    agent = load_checkpoint(config.checkpoint, "cpu").agent()  # the other one is in training mode
    decisions = time_decisions(agent, world, make_manifest(world, 1, 0))
    ratios = {
        "render over MuJoCo's defaults": rates["render_frames_per_s_1_core"]
        / rates["render_frames_per_s_mujoco_defaults"],
    }
    result = {"rates": rates, "plan_ms": asdict(decisions), "ratios": ratios}
    write_json(config.out, result | {"versions": versions(), "machine": machine()})
    for name, value in rates.items():
        console.print(f"{name:<42}{value:>12,.0f}")
    console.print(f"{'plan_ms, one environment, one thread':<42}{decisions.median:>12.1f}")


def _collect(folder: Path, workers: int) -> float:
    """Return frames per second over the whole command but for the start of the processes."""
    arrivals = []
    for frames in collect_shards(
        folder / str(workers), make_spec("reacher", 0), 2000, Pool(workers)
    ):
        arrivals.append((time.perf_counter(), frames))
    first, last = arrivals[0][0], arrivals[-1][0]
    return sum(frames for _, frames in arrivals[1:]) / (last - first)


def _physics(world: World, states: np.ndarray) -> int:
    actions = np.zeros((len(states), 20, len(world.action_low)))
    world.rollout(states, actions)
    return len(states) * 20 * world.task.substeps


def _plain_renderer(world: World) -> tuple[Callable[[np.ndarray], int], Callable[[], None]]:
    """Draw the same camera with MuJoCo's own renderer and its default quality."""
    model = mujoco.MjModel.from_xml_path(str(world.task.mjcf))
    data, renderer = mujoco.MjData(model), mujoco.Renderer(model, 64, 64)

    def draw(states: np.ndarray) -> int:
        for state in states:
            mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, world.task.observation_camera)
            renderer.render()
        return len(states)

    return draw, renderer.close


def _stage(folder: Path, networks: Networks) -> Stage:
    networks.requires_grad_(requires_grad=True)
    data = load_training_data(folder, 0.02, 0, torch.device("cpu"))
    config, latents = TrainConfig("reacher", folder / "run"), LatentDataset(data, networks.jepa)
    return make_stage("world model", config, latents, networks)


def _train(stage: Stage) -> int:
    stage.modules().train()
    for update in range(3):
        weighted_sum(stage.terms(update), stage.weights).backward()
    return 3 * 128 * 6


if __name__ == "__main__":
    raise SystemExit(run(bench, BenchConfig))
