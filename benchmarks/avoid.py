"""A region in metres that the fingertip keeps out of: violations, success, and a picture of both.

    python benchmarks/avoid.py [--episodes 200] [--weights 0 30 100]

The same checkpoint and the same episodes with `critic + WEIGHT*avoid(REGION)` as the cost; judged
by the true state on the episodes whose start and goal lie outside the region. The first weight is
the distance_metric; the picture shows the paths of the first and of the last one.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import matplotlib as mpl
import numpy as np
import torch

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluation.loop import Outcome, run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.report import write_png
from mujepa.evaluation.statistics import paired
from mujepa.evaluation.summaries import outside, violations
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import write_json
from mujepa.runtime.provenance import machine, versions

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
LIMIT, SHOWN = 0.1, 0.3
"""Where the region begins, and half the width of the picture [m]."""


@dataclass(frozen=True)
class AvoidConfig:
    """Measure how well the reacher keeps its fingertip out of y > 0.1 m."""

    episodes: int = 200
    """Episodes; about half of them count."""
    weights: tuple[float, ...] = (0, 30, 100)
    """Of the term; the first is what the others are compared with."""
    seed: int = 0
    """Of the episodes."""
    out: Path = ROOT / "benchmarks" / "results" / "avoid.json"
    """The figures."""
    picture: Path = ROOT / "docs" / "avoid.png"
    """The paths."""

    def __post_init__(self) -> None:
        if self.episodes < 1 or len(self.weights) < 2:
            raise UserError(f"avoid needs an episode and two weights, got {self}")


def main(config: AvoidConfig) -> None:
    """Judge, print, draw and write."""
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(ROOT / "pretrained" / "reacher", "cpu")
    task = find_task("reacher")
    world = World(task)
    manifest = make_manifest(world, config.episodes, config.seed)
    region, outcomes = f"y>{LIMIT}", {}
    (found,) = checkpoint.agent(cost=f"avoid({region})").configurator.cost.regions
    for weight in config.weights:
        agent = checkpoint.agent(cost=f"critic + {weight:g}*avoid({region})")
        outcomes[f"{weight:g}"] = run_episodes(world, AgentPolicy(agent), manifest)
    judged = violations(found, world, manifest, outcomes)
    names = list(outcomes)
    places = {name: paths(world, outcome) for name, outcome in outcomes.items()}
    counts = outside(found, world, manifest)
    figures: dict[str, Any] = {"region": region, "episodes": judged["episodes"], "weights": {}}
    for name in names:
        figures["weights"][name] = judged[name] | {
            "fewer_violations": 1 - judged[name]["steps"] / max(judged[names[0]]["steps"], 1e-12),
            **asdict(paired(outcomes[name].held[counts], outcomes[names[0]].held[counts])),
        }
        row = figures["weights"][name]
        console.print(
            f"weight {name:>4}: {row['steps']:.2%} of steps in {region}, "
            f"{row['fewer_violations']:.0%} fewer, held {row['success_at_end']['rate']:.3f}"
        )
    shown = counts & (places[names[0]][..., 1] > LIMIT).any(axis=1)
    draw({name: places[name][shown] for name in (names[0], names[-1])}, config.picture)
    write_json(config.out, figures | {"machine": machine(), "versions": versions()})


def paths(world: World, outcome: Outcome) -> np.ndarray:
    """Return where the fingertip was, (E, T + 1, 2) [m]."""
    achieved = world.achieved(outcome.states.reshape(-1, outcome.states.shape[-1]))
    return achieved[:, :2].reshape(*outcome.states.shape[:2], 2)


def draw(places: dict[str, np.ndarray], picture: Path) -> None:
    """Write a panel of paths for each weight."""
    figure, axes = plt.subplots(1, len(places), figsize=(8, 4.4), sharey=True)
    for axis, (weight, lines) in zip(axes, places.items(), strict=True):
        axis.axhspan(LIMIT, SHOWN, color="#d62728", alpha=0.15)
        for line in lines:
            axis.plot(line[:, 0], line[:, 1], color="#1f77b4", alpha=0.5, linewidth=0.8)
            axis.plot(*line[-1], "o", color="#2ca02c", markersize=3)
        axis.set(title=f"critic + {weight}*avoid(y>{LIMIT})", xlabel="x [m]", aspect="equal")
        axis.set(xlim=(-SHOWN, SHOWN), ylim=(-SHOWN, SHOWN))
    axes[0].set_ylabel("y [m]")
    figure.tight_layout()
    write_png(picture, figure)
    plt.close(figure)


if __name__ == "__main__":
    raise SystemExit(run(main, AvoidConfig))
