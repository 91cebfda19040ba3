"""Does the ensemble know where the world model errs? A calibration figure.

    python benchmarks/uncertainty.py [--tasks reacher point_maze] [--episodes 64]

On fresh episodes of the behaviour policy the world model imagines what the actions lead to, open
loop, and the images say what they did lead to. Imagined steps that are equally far ahead are sorted
by the ensemble's disagreement into ten bins of equal size; where the mean squared error of the
world model grows with the bins' disagreement, the disagreement is worth something. That both grow
with the distance is not counted for it: figures are means over the distances.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import matplotlib as mpl
import numpy as np
import torch

from mujepa.agent.checkpoint import Checkpoint, load_checkpoint
from mujepa.agent.cost import Trajectory
from mujepa.agent.memory import Memory
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.world import World
from mujepa.evaluation.diagnostics import distance_correlation
from mujepa.evaluation.report import write_png
from mujepa.rollouts.collection import behave
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import write_json
from mujepa.runtime.provenance import machine, versions

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
STREAM = 5
"""Second word of the random streams: apart from collection, training and evaluation."""
BINS = 10


@dataclass(frozen=True)
class UncertaintyConfig:
    """Compare the ensemble's disagreement with the world model's error."""

    tasks: tuple[str, ...] = ("reacher", "point_maze", "cartpole", "push_t")
    """Which tasks' checkpoints."""
    episodes: int = 64
    """Fresh episodes of each."""
    horizon: int = 5
    """Model steps imagined open loop."""
    seed: int = 0
    """Of the episodes."""
    out: Path = ROOT / "benchmarks" / "results" / "uncertainty.json"
    """The figures."""
    picture: Path = ROOT / "docs" / "uncertainty.png"
    """The curves."""

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or self.episodes < 1 or self.horizon < 1:
            raise UserError(
                f"tasks must be among {', '.join(TASKS)}, episodes and horizon at least 1, got "
                f"{', '.join(unknown) or self}"
            )


def main(config: UncertaintyConfig) -> None:
    """Imagine, compare, print, draw and write."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"horizon": config.horizon, "tasks": {}}
    for task in config.tasks:
        checkpoint = load_checkpoint(ROOT / "pretrained" / task, "cpu")
        disagreement, error = compare(checkpoint, config)
        figures["tasks"][task] = calibration(disagreement, error)
        row = figures["tasks"][task]
        console.print(
            f"{task:<12} rank correlation {row['rank_correlation']:.2f}, error in the last bin "
            f"{row['error'][-1] / max(row['error'][0], 1e-12):.0f} times that in the first"
        )
    draw(figures["tasks"], config.picture)
    write_json(config.out, figures | {"machine": machine(), "versions": versions()})


@torch.no_grad()
def compare(checkpoint: Checkpoint, config: UncertaintyConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the disagreement about imagined steps, and their squared errors, (N, H) each."""
    task, networks = find_task(checkpoint.task_name), checkpoint.networks
    jepa, world = networks.jepa, World(task, checkpoint.config.image_size)
    rng = np.random.default_rng([config.seed, STREAM])
    steps = task.episode_steps or 2 * -(-task.budget_steps // task.frame_skip)
    starts = np.stack(
        [world.state(*task.sample_anywhere(world.model, rng)) for _ in range(config.episodes)]
    )
    size = len(world.action_low) + task.extra_noise_dims
    noise = np.stack([task.behaviour.draw(rng, steps, size) for _ in range(config.episodes)])
    states, actions = behave(world, starts, noise)
    embeddings = torch.stack(
        [jepa.encode(torch.from_numpy(world.observe(path, jepa.observes))) for path in states]
    )
    unit = torch.from_numpy(world.to_unit(actions))
    disagreements, errors = [], []
    for now in range(jepa.history - 1, steps - config.horizon, config.horizon):
        past = slice(now + 1 - jepa.history, now + 1)
        memory = Memory(embeddings[:, past], unit[:, past][:, :-1])
        ahead = unit[:, None, now : now + config.horizon]
        imagined = jepa.rollout(memory, ahead)
        trajectory = Trajectory(imagined, ahead, memory)
        disagreements.append(networks.ensemble.disagreement(trajectory.memories(), ahead)[:, 0])
        real = embeddings[:, now + 1 : now + 1 + config.horizon]
        errors.append((imagined[:, 0] - real).square().mean(dim=-1))
    # An imagined state inherits the doubts about all steps that lead to it.
    doubt = torch.cat(disagreements).cumsum(dim=1).numpy()
    return doubt, torch.cat(errors).numpy()


def calibration(disagreement: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """Return the mean disagreement and the mean error of bins of equal size, and their ranks."""
    order = np.argsort(disagreement, axis=0, kind="stable")
    pairs = zip(disagreement.T, error.T, strict=True)
    ranks = [distance_correlation(doubt, miss) for doubt, miss in pairs]

    def by_bin(values: np.ndarray) -> list[float]:
        parts = np.array_split(np.take_along_axis(values, order, axis=0), BINS)
        return [float(part.mean()) for part in parts]

    return {
        "steps": error.size,
        "rank_correlation": float(np.mean(ranks)),
        "disagreement": by_bin(disagreement),
        "error": by_bin(error),
    }


def draw(tasks: dict[str, Any], picture: Path) -> None:
    """Write the error over the disagreement, a line for each task."""
    figure, axis = plt.subplots(figsize=(5.2, 4.4))
    for task, row in tasks.items():
        label = f"{task} (rank correlation {row['rank_correlation']:.2f})"
        axis.plot(row["disagreement"], row["error"], "o-", markersize=4, label=label)
    ends = [value for row in tasks.values() for value in (*row["disagreement"], *row["error"])]
    axis.plot((min(ends), max(ends)), (min(ends), max(ends)), ":", color="grey", label="calibrated")
    axis.set(xscale="log", yscale="log", xlabel="disagreement of the ensemble, summed over steps")
    axis.set_ylabel("squared error of the imagined embedding")
    axis.legend(fontsize=8)
    figure.tight_layout()
    write_png(picture, figure)
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(run(main, UncertaintyConfig))
