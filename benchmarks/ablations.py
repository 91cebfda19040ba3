"""What each part is worth: the shipped agents with one thing changed at a time.

    python benchmarks/ablations.py [--tasks reacher point_maze] [--parts cost planner]

The shipped agent and its variants act in the same episodes, by their planners alone: beside an
actor that can do the task, no part of the planner would seem to matter. McNemar's exact test
compares each variant with the planner as it is shipped, episode by episode. Variants of the world
model's loss are trained anew, which takes as long as the task's training;
variants of the critic are trained on the shipped world model. Writes the figures as JSON and
docs/ablations.md, after each variant.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import torch

from mujepa.agent.checkpoint import ActorMode, Checkpoint, load_checkpoint
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.world import World
from mujepa.evaluation.diagnostics import make_ranking_benchmark
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import Manifest, make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.statistics import paired, success_rate
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, sha256, write_json, write_text
from mujepa.runtime.provenance import machine, versions
from mujepa.train import train
from mujepa.training.config import TrainConfig
from mujepa.training.data import RANKED_PAIRS
from mujepa.training.recipes import apply_recipe
from mujepa.training.validation import CLEARLY, COSTS, rank_cost

ROOT = Path(__file__).parents[1]
PARTS = "cost", "ensemble", "planner", "horizon", "actor", "loss", "critic"
"""What is varied, in the order of the table."""
KEY = "variant", "weights", "episodes", "seed"
"""What a table's first row says of what all of its rows have in common."""
LOSSES: dict[tuple[str, str], dict[str, Any]] = {
    ("loss", "variance and covariance in place of SIGReg"): {
        "loss": {"sigreg": 0.0, "variance": 1.0, "covariance": 0.1},
    },
    ("loss", "no regulariser"): {"loss": {"sigreg": 0.0}},
    ("loss", "no inverse dynamics"): {"loss": {"inverse_dynamics": 0.0}},
}
"""Settings of the variants of the world model."""
HEADS: dict[tuple[str, str], dict[str, Any]] = {
    ("critic", "temporal and Bellman"): {"critic_loss": {"bellman": 1.0}},
    ("critic", "Bellman alone"): {"critic_loss": {"bellman": 1.0, "temporal": 0.0}},
    ("critic", "temporal and contrastive"): {"critic_loss": {"contrastive": 1.0}},
    ("critic", "seen starts alone"): {"imagined": 0.0},
}
"""Settings of the variants of what is trained on the world model."""


@dataclass(frozen=True)
class AblationsConfig:
    """Judge variants of the shipped agents, and write a table."""

    tasks: tuple[str, ...] = ("reacher", "two_room", "point_maze", "pendulum", "push_t", "cube")
    """Which tasks' checkpoints."""
    episodes: int = 200
    """Episodes for each variant."""
    seed: int = 0
    """Of the episodes."""
    parts: tuple[str, ...] = PARTS[:5]
    """What is varied; loss and critic have to be trained."""
    out: Path = ROOT / "benchmarks" / "results" / "ablations.json"
    """The figures; what is in the file already and not asked for is kept, other parts of the same
    checkpoint included."""
    page: Path = ROOT / "docs" / "ablations.md"
    """The table."""

    def __post_init__(self) -> None:
        for what, asked, known in ("task", self.tasks, TASKS), ("part", self.parts, PARTS):
            unknown = [name for name in asked if name not in known]
            if unknown:
                raise UserError(f"no {what} {unknown[0]!r}; {what}s: {', '.join(known)}")
        if self.episodes < 1:
            raise UserError(f"--episodes must be at least 1, got {self.episodes}")


@dataclass(frozen=True)
class Variant:
    """A shipped agent with one thing changed: `of` names the part, `text` the change."""

    of: str
    text: str
    cost: str | None = None
    planner: tuple[tuple[str, Any], ...] = ()
    mode: ActorMode = "planner"


def variants(checkpoint: Checkpoint) -> Iterator[Variant]:
    """Yield what is tried with a checkpoint; what it is shipped with is left out."""
    config = checkpoint.config
    weights = checkpoint.networks.cost(config.cost).weights
    aggregate = next(iter(weights)).rpartition(".")[2]
    for cost in COSTS:
        if checkpoint.networks.cost(cost).weights != weights:
            yield Variant("cost", cost, cost=cost)
    if aggregate != "last":
        last = {name.replace(f".{aggregate}", ".last"): w for name, w in weights.items()}
        yield Variant("cost", expression(last), cost=expression(last))
    for weight in (1, 10):
        cost = f"{config.cost} + {weight}*uncertainty"
        yield Variant("ensemble", cost, cost=cost)
    many = (("samples", 128), ("elites", 16))
    yield Variant("planner", "CEM, 128 x 4", planner=(("kind", "cem"), *many))
    yield Variant("planner", "MPPI, 128 x 4", planner=(("kind", "mppi"), *many))
    yield Variant("planner", "random, 256 x 1", planner=(
        ("kind", "random"), ("samples", 256), ("iterations", 1)))  # fmt: skip
    horizon = config.planner.horizon
    for other in (max(1, horizon // 2), 2 * horizon):
        yield Variant("horizon", f"{other} instead of {horizon}", planner=(("horizon", other),))
    yield Variant("actor", "actor and planner", mode="proposing")
    yield Variant("actor", "actor alone", mode="reactive")


def expression(weights: dict[str, float]) -> str:
    """Return the cost of named terms, as a person would write it."""
    parts = (f"{w:g}*{name}" if w != 1 else name for name, w in weights.items())
    return " + ".join(parts).replace(".mean", "")


def main(config: AblationsConfig) -> None:
    """Judge, print, and write after each row."""
    torch.set_num_threads(1)
    done = read_json(config.out, "delete it")["tasks"] if config.out.is_file() else {}
    for name in config.tasks:
        kept, rows = done.get(name, []), []
        for row in judge(name, config):
            rows.append(row)
            if kept and any(kept[0][key] != rows[0][key] for key in KEY):
                kept = []
            others = [old for old in kept[1:] if old["of"] not in config.parts]
            done[name] = sorted(rows + others, key=lambda row: ("shipped", *PARTS).index(row["of"]))
            about = {"machine": machine(), "versions": versions()}
            write_json(config.out, {"tasks": done} | about)
            write_text(config.page, page(done))


def judge(name: str, config: AblationsConfig) -> Iterator[dict[str, Any]]:
    """Yield a row for the shipped agent and for each variant."""
    world = World(find_task(name))
    manifest = make_manifest(world, config.episodes, config.seed)
    folder = ROOT / "pretrained" / name
    shipped = load_checkpoint(folder, "cpu")
    held = None
    fresh = make_manifest(world, RANKED_PAIRS, config.seed + 1).episodes
    observes, horizon = shipped.networks.jepa.observes, shipped.config.planner.horizon
    trials = make_ranking_benchmark(world, observes, fresh, horizon)
    cost = shipped.config.cost
    tried = itertools.chain(
        [(Variant("shipped", f"{cost}, planner alone", cost), shipped)],
        ((variant, shipped) for variant in variants(shipped) if variant.of in config.parts),
        retrained(name, pick(LOSSES, config.parts)),
        retrained(name, pick(HEADS, config.parts), folder),
    )
    for variant, checkpoint in tried:
        outcome = act(checkpoint, variant, manifest)
        held = outcome.held if held is None else held
        rate = success_rate(int(outcome.held.sum()), len(manifest.episodes))
        test = paired(outcome.held, held)
        row = {"of": variant.of, "variant": variant.text, "episodes": len(manifest.episodes)}
        if variant.of == "shipped":
            row |= {"seed": config.seed, "weights": sha256(folder / "model.safetensors")}
        if variant.cost and variant.of != "ensemble":
            row["rank"] = round(rank_cost(trials, checkpoint.networks, variant.cost), 3)
        yield row | {"success_at_end": asdict(rate)} | asdict(test)
        console.print(
            f"{name:<12}{variant.of:<12}{variant.text:<44}{rate.rate:.3f} "
            f"[{rate.low:.3f}, {rate.high:.3f}]  +{test.gained} -{test.lost}  p {test.p_value:.3f}"
        )


def act(checkpoint: Checkpoint, variant: Variant, manifest: Manifest) -> Any:  # noqa: ANN401
    """Return how a variant of a checkpoint does."""
    planner = replace(checkpoint.config.planner, **dict(variant.planner))
    agent = checkpoint.agent(planner, variant.cost, variant.mode)
    world = World(find_task(checkpoint.task_name), checkpoint.config.image_size)
    return run_episodes(world, AgentPolicy(agent), manifest)


Settings = dict[tuple[str, str], dict[str, Any]]


def pick(settings: Settings, parts: tuple[str, ...]) -> Settings:
    """Return the settings of the variants of these parts."""
    return {key: more for key, more in settings.items() if key[0] in parts}


def retrained(
    name: str, settings: Settings, world_model: Path | None = None
) -> Iterator[tuple[Variant, Checkpoint]]:
    """Train variants on the data of the shipped checkpoint, perhaps on its world model."""
    for (of, text), more in settings.items():
        with tempfile.TemporaryDirectory() as folder:
            config = TrainConfig(name, Path(folder), threads=1, world_model=world_model)
            yield Variant(of, text), train(apply_recipe(config, more))


def page(tasks: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table as a page."""
    lines = [
        "# What each part is worth",
        "",
        "The shipped agents with one thing changed at a time, on the same episodes. *held* is the "
        "share of goals held at the end, with its 95 % interval. *gained* and *lost* count "
        "episodes that only the variant or only the table's first row held; p is McNemar's. This "
        "is one training seed; with many comparisons, do not rely on a p of .05.",
        "",
        "Where the actor proposes to the planner, the planner matters little: the actor holds most "
        "goals alone. Tables that start with *planner alone* leave the actor out.",
        "",
        "`mujepa train --cost auto`, the default, chooses by *rank*: Spearman's correlation "
        "between a cost and how near 64 simulated random candidates come to the goal. The critic "
        f"is kept unless another cost ranks {CLEARLY} better.",
        "",
        "Made by `make ablations`; missing rows were not measured.",
    ]
    for name, rows in tasks.items():
        lines += ["", f"## {name}, n = {rows[0]['episodes']}", ""]
        lines += [
            "| part | variant | rank | held | gained | lost | p |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            rate = row["success_at_end"]
            held = f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"
            change = f"{row['gained']} | {row['lost']} | {row['p_value']:.3f}"
            if row is rows[0]:
                held, change = f"**{held}**", " | | "
            rank = f"{row['rank']:.2f}" if "rank" in row else ""
            lines.append(f"| {row['of']} | {row['variant']} | {rank} | {held} | {change} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(run(main, AblationsConfig))
