"""Does prediction belong in embedding space? The same world model, trained to predict pixels.

    python experiments/pixels.py

On each of three tasks, in the task's own scene and in two where things move that do not matter
(noise that nobody can predict, and movers that go their own way), two world models are trained on
the same data, with the same encoder, predictor, updates and planner: one predicts embeddings
(prediction and SIGReg), one the pixels of the same frames (pixel_term.py). They are evaluated on
the same episodes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import numpy as np
import torch
from experiment import (
    Estimate,
    Experiment,
    ExperimentConfig,
    Finding,
    Verdict,
    as_json,
    map_parts,
    over_seeds,
    seconds_in,
    timed,
    train_logged,
)
from matplotlib.figure import Figure
from pixel_term import pixels

from mujepa.agent.checkpoint import Checkpoint, load_checkpoint
from mujepa.agent.configurator import Configurator
from mujepa.agent.probe import LinearProbe
from mujepa.envs.distractors import EDGE
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.diagnostics import candidate_ranking, effective_rank, make_ranking_benchmark
from mujepa.evaluation.loop import Outcome, run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy, RandomPolicy
from mujepa.evaluation.statistics import paired
from mujepa.rollouts.collection import rollout_behavior
from mujepa.runtime.command import read
from mujepa.runtime.files import read_json, write_json
from mujepa.runtime.settings import settings
from mujepa.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from mujepa.envs.variation import Variant

EXPERIMENT = Experiment(
    "pixels",
    "Prediction belongs in embedding space: with the same encoder, predictor, data, updates "
    "and planner, a model that predicts embeddings plans at least as well as one that "
    "predicts pixels in a clean scene, and better with distractors, be they unpredictable "
    "noise or independently moving objects.",
)
SCENES: dict[str, tuple[str, ...]] = {
    "clean": (),
    "noise": ("flicker=0.3", "jitter=0.5"),
    "movers": ("drift=1", "intruder=1"),
}
"""What varies, as after `--vary`."""
MODELS = {
    "embeddings": (),
    "pixels": ("--loss.sigreg", "0"),
}
"""Flags of the two kinds of world model."""
WEIGHTS = {"embeddings": 0.0, "pixels": 3000.0}
"""Weights of the term on pixels."""
TASKS = {
    "reacher": ("--cost", "critic"),
    "two_room": ("--cost", "critic"),
    "push_t": (
        *("--cost", "goal.min + 0.02*effort", "--critic-updates", "1"),
        *("--jepa.encoder.dim", "32", "--jepa.predictor.width", "192", "--planner.horizon", "5"),
    ),
}
"""Flags of the tasks. `push_t` has networks of the default size, as its recipe's are for many more
updates than there are here."""
COMMON = (
    *("--ensemble-updates", "1", "--actor-updates", "1", "--mode", "planner"),
    *("--validation", "0.05", "--checkpoint-every", "100000", "--device", "cpu"),
    *("--threads", "1", "--workers", "1", "--resume"),
)
"""Flags of all trainings: the planner acts alone, so that ensemble and actor learn nothing."""
BARS = {"clean": -0.05, "noise": 0.0, "movers": 0.0}
"""What is gained is to lie above, by scene: in the clean one the claim is not to be worse."""
DISTRACTIONS = ("flicker", "jitter", "drift", "intruder")
"""What moves and does not matter, by the factor's name."""
STREAM = 6
"""Second word of the random streams of the probes' episodes: those of `evaluation.sampling`."""


@settings
class PixelsConfig(ExperimentConfig):
    """Train world models that predict embeddings and pixels, and compare what they are worth."""


@dataclass(frozen=True)
class Size:
    """Sizes of training and evaluation.

    Attributes:
        updates: of the world model.
        critic_updates: of the critic, where the task has one.
        batch: windows per update.
        data: episodes of the dataset.
        episodes: that success is measured on.
        probed: held-out episodes to fit probes, and as many to evaluate them.
        problems: in which candidates are ranked.
    """

    updates: int = 360
    critic_updates: int = 400
    batch: int = 128
    data: int = 400
    episodes: int = 100
    probed: int = 60
    problems: int = 64


SMOKE = Size(
    updates=2, critic_updates=2, batch=8, data=4, episodes=2, probed=2, problems=2
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One scene of one task, with one seed: data, and both world models."""

    task: str
    scene: str
    seed: int
    size: Size
    work: Path

    @property
    def folder(self) -> Path:
        """Where data and trainings are."""
        return self.work / f"{self.task}-{self.scene}-{self.seed}"


def measure(config: PixelsConfig) -> Finding:
    """Train, evaluate and compare."""
    if config.smoke:
        config = replace(config, seeds=config.seeds[:1])
    size = SMOKE if config.smoke else Size()
    tasks = list(TASKS)[:1] if config.smoke else list(TASKS)
    work = config.work / ("pixels-smoke" if config.smoke else "pixels")
    cells = [
        Cell(task, scene, seed, size, work)
        for seed, task, scene in product(config.seeds, tasks, SCENES)
    ]
    found = map_parts(config, evaluate_cell, [(cell,) for cell in cells])
    results = {(c.task, c.scene, c.seed): result for c, result in zip(cells, found, strict=True)}
    return conclude(config, tasks, results)


# ------------------------------------------------------------------------------ one cell


def evaluate_cell(cell: Cell) -> dict[str, Any]:
    """Return the figures of both models and the random floor in a cell, made or made before."""
    path = cell.folder / "figures.json"
    settings = [asdict(cell.size), SCENES[cell.scene], MODELS, WEIGHTS, TASKS, COMMON]
    asked = json.loads(json.dumps(settings))
    if path.exists() and (there := read_json(path, f"delete {path}"))["asked"] == asked:
        return there
    cell.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    task = find_task(cell.task)
    world = World(task, variation=read_variation(SCENES[cell.scene]))
    manifest = make_manifest(world, cell.size.episodes, cell.seed)
    figures: dict[str, Any] = {"asked": asked}
    for model in MODELS:
        taken = cell.folder / f"{model}-seconds.json"
        with timed(taken, time.process_time):
            learn(cell, model)
        checkpoint = load_checkpoint(cell.folder / model, "cpu")
        outcome = run_episodes(world, AgentPolicy(checkpoint.agent()), manifest)
        figures[model] = {
            **outcome_of(outcome),
            "minutes": seconds_in(taken) / 60,
            "rank": rank(checkpoint, world, cell.size.problems),
            **probes(checkpoint, world, cell.size.probed, cell.seed),
        }
    floor = run_episodes(world, RandomPolicy(world), manifest)
    figures["random"] = outcome_of(floor)
    write_json(path, figures)
    return figures


def outcome_of(outcome: Outcome) -> dict[str, list[Any]]:
    """Return of each episode whether its goal was held, and how far away it was at the end."""
    ends = outcome.distance[:, -outcome.hold_steps :].mean(axis=1)
    return {"held": outcome.held.tolist(), "ends": ends.tolist()}


def learn(cell: Cell, model: str) -> None:
    """Train one world model of a cell, with what a planner needs of a critic."""
    size = cell.size
    flags = [
        *(cell.task, "--out", str(cell.folder / model), "--data", str(cell.folder / "data")),
        *("--seed", str(cell.seed), "--episodes", str(size.data), "--updates", str(size.updates)),
        *("--batch", str(size.batch), "--critic-updates", str(size.critic_updates)),
        *TASKS[cell.task], *COMMON, *MODELS[model],
    ]  # fmt: skip
    if SCENES[cell.scene]:
        flags += ["--vary", *SCENES[cell.scene]]
    config = read(TrainConfig, flags)
    jepa = replace(config.jepa, predictor=replace(config.jepa.predictor, depth=2))
    terms = [pixels(WEIGHTS[model])] if WEIGHTS[model] else []
    loss = replace(config.loss, prediction=0.0) if terms else config.loss
    train_logged(replace(config, jepa=jepa, loss=loss), cell.folder / f"{model}.log", terms)


def rank(checkpoint: Checkpoint, world: World, problems: int) -> float:
    """Return how well the planner's cost ranks what the simulator has tried, from -1 to 1."""
    config, networks = checkpoint.config, checkpoint.networks
    episodes = make_manifest(world, problems, 1000).episodes
    benchmark = make_ranking_benchmark(world, "pixels", episodes, config.planner.horizon)
    cost = networks.cost(config.cost)
    return candidate_ranking(Configurator(networks.jepa, networks.critic, cost), benchmark)


def probes(checkpoint: Checkpoint, world: World, episodes: int, seed: int) -> dict[str, Any]:
    """Return what can be read linearly from embeddings of held-out episodes, as R2 by name.

    `task` is what goals are about; the others are what moves and does not matter.
    """
    jepa = checkpoint.networks.jepa
    truths, embeddings = [], []
    for index in range(2 * episodes):
        stream = np.random.default_rng([seed, STREAM, index])
        states, _, variants = rollout_behavior(world, [stream], 20)
        variant = variants[0] if variants else None
        images = world.render(states[0], [variant] * len(states[0]) if variant else None)
        with torch.no_grad():
            embeddings.append(jepa.encode(torch.from_numpy(images)))
        truths.append({"task": world.achieved(states[0])} | distractions(variant, states[0, :, 0]))
    fitted, held_out = torch.cat(embeddings[:episodes]), torch.cat(embeddings[episodes:])
    found = {}
    for name in truths[0]:
        values = [torch.from_numpy(truth[name]).float() for truth in truths]
        here, there = torch.cat(values[:episodes]), torch.cat(values[episodes:])
        probe = LinearProbe(jepa.dim, [str(index) for index in range(here.shape[1])])
        probe.fit(fitted, here)
        found[name] = probe.r2(held_out, there)
    return {"r2": found, "effective_rank": effective_rank(held_out)}


def distractions(
    variant: Variant | None, times: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the states of the distractors at given times, (T, ...) each by name."""
    motion = variant and variant.motion
    if motion is None:
        return {}
    found: dict[str, NDArray[np.float64]] = {}
    if motion.flicker:
        found["flicker"] = np.stack([motion.tint(time) for time in times])
    if motion.jitter:
        found["jitter"] = np.stack([motion.shake(time) for time in times])
    if len(motion.drift.radii):
        phase = np.stack([motion.drift.points(time)[0] for time in times]) * np.pi / EDGE
        found["drift"] = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
    if len(motion.intruders.radii):
        found["intruder"] = np.stack([motion.intruders.points(time)[0] for time in times])
    return found


# ------------------------------------------------------------------------- what they say


Results = dict[tuple[str, str, int], dict[str, Any]]
"""The figures of all cells, by task, scene and seed."""


def conclude(config: PixelsConfig, tasks: Sequence[str], results: Results) -> Finding:
    """Compare the models over tasks and seeds, by the rule that the page states."""
    gains = {
        scene: over_seeds([gain(results[t, scene, s]) for t in tasks for s in config.seeds])
        for scene in SCENES
    }
    said = "; ".join(f"{scene} {signed(found)}" for scene, found in gains.items())
    because = (
        "Reduction of the remaining distance by predicting embeddings instead of pixels, "
        f"relative to random actions: {said}."
    )
    rows = list(product(tasks, SCENES))
    figures = {f"{task} {scene}": about(config, results, task, scene) for task, scene in rows}
    table = [
        [
            *(
                "task, scene",
                "remaining distance: embeddings",
                "pixels",
                "held, e / p / random",
                "p",
            ),
            *("R2 of the task, e / p", "of distractors, e / p", "rank", "CPU minutes"),
        ]
    ]
    for task, scene in rows:
        found = figures[f"{task} {scene}"]
        models = [found[model] for model in MODELS]
        others = [name for name in models[0] if name in DISTRACTIONS]
        table.append([
            f"{task}, {scene}", *(str(model["left"]) for model in models),
            f"{both(models, 'held')} / {found['random'].mean:.2f}",
            f"{found['paired']['p_value']:.1g}", both(models, "task"),
            ", ".join(f"{name} {both(models, name)}" for name in others),
            both(models, "rank"), both(models, "minutes", 1),
        ])  # fmt: skip
    record = {"gain": as_json(gains)} | {
        row: {
            key: as_json(value) if key in MODELS else asdict(value) if key == "random" else value
            for key, value in found.items()
        }
        for row, found in figures.items()
    }
    return Finding(decide(gains), because, record, table, draw(tasks, figures))


def left(result: dict[str, Any], model: str) -> float:
    """Return how far away goals are at the end, over the same after random actions."""
    return float(np.mean(result[model]["ends"]) / np.mean(result["random"]["ends"]))


def gain(result: dict[str, Any]) -> float:
    """Return how much less is left by predicting embeddings than by predicting pixels."""
    return left(result, "pixels") - left(result, "embeddings")


def decide(gains: dict[str, Estimate]) -> Verdict:
    """Return whether the claim holds, by the intervals of what is gained in the scenes."""
    said = [gains[scene].low > bar for scene, bar in BARS.items()]
    if any(said):
        return "holds" if all(said) else "holds in part"
    return "fails" if any(gains[scene].high < bar for scene, bar in BARS.items()) else "undecided"


def about(config: PixelsConfig, results: Results, task: str, scene: str) -> dict[str, Any]:
    """Return the figures of a task in a scene, over seeds."""
    cells = [results[task, scene, seed] for seed in config.seeds]
    held = {model: np.concatenate([cell[model]["held"] for cell in cells]) for model in MODELS}
    found: dict[str, Any] = {
        "random": over_seeds([float(np.mean(cell["random"]["held"])) for cell in cells]),
        "paired": asdict(paired(held["embeddings"], held["pixels"])),
    }
    for model in MODELS:
        flat = [
            {"held": float(np.mean(cell[model]["held"])), "left": left(cell, model)}
            | {key: cell[model][key] for key in ("rank", "minutes", "effective_rank")}
            | cell[model]["r2"]
            for cell in cells
        ]
        found[model] = {key: over_seeds([one[key] for one in flat]) for key in flat[0]}
    return found


def both(models: Sequence[dict[str, Estimate]], key: str, digits: int = 2) -> str:
    """Return a figure of both models as text."""
    return " / ".join(f"{model[key].mean:.{digits}f}" for model in models)


def signed(figures: Estimate) -> str:
    """Return a difference as people read it."""
    return f"{figures.mean:+.2f} [{figures.low:+.2f}, {figures.high:+.2f}]"


def draw(tasks: Sequence[str], figures: dict[str, dict[str, Any]]) -> Figure:
    """Return the figure: what is seen, what is held, what is known."""
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    (above,), (below,) = figure.subfigures(2, 1, height_ratios=(1, 1.5), squeeze=False)
    panels = above.subplots(1, len(SCENES) * len(tasks))
    for panel, (title, image) in zip(np.atleast_1d(panels).flat, pictures(tasks), strict=True):
        panel.imshow(image)
        panel.set_title(title.replace(", ", "\n"), fontsize=8)
        panel.set_axis_off()
    near, read = below.subplots(1, 2, width_ratios=(1.5, 1))
    places = np.arange(len(figures))
    names = ["task", *DISTRACTIONS]
    for offset, model in zip((-0.2, 0.2), MODELS, strict=True):
        found = [row[model] for row in figures.values()]
        bars(near, places + offset, [one["left"] for one in found], f"predicts {model}")
        known = [[one[name].mean for one in found if name in one] for name in names]
        read.bar(np.arange(len(names)) + offset, [max(np.mean(one), 0) for one in known], 0.38)
    near.axhline(1, color="black", linewidth=0.8, linestyle=":", label="random actions")
    near.set_xticks(places, [row.replace(" ", "\n") for row in figures], fontsize=7)
    near.set_ylabel("distance to the goal at the end,\nover that after random actions")
    near.margins(y=0.2)
    near.legend(fontsize=8, ncols=3, loc="upper center", frameon=False)
    read.set_xticks(np.arange(len(names)), names, fontsize=9)
    read.set_ylim(0, 1)
    read.set_ylabel("R2 of linear readings,\nmean of the scenes that have it")
    return figure


def bars(axes: Axes, places: NDArray[Any], found: Sequence[Estimate], label: str) -> None:
    """Draw means as bars and seeds as points."""
    axes.bar(places, [one.mean for one in found], 0.38, label=label)
    for place, one in zip(places, found, strict=True):
        axes.scatter([place] * len(one.seeds), one.seeds, s=9, color="black", zorder=3)


def pictures(tasks: Sequence[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield what is seen of each task in each scene."""
    for name, (scene, vary) in product(tasks, SCENES.items()):
        world = World(find_task(name), variation=read_variation(vary))
        states, _, variants = rollout_behavior(world, [np.random.default_rng(0)], 4)
        yield f"{name}, {scene}", world.render(states[0, 3:4], variants and variants[:1])[0]


if __name__ == "__main__":
    sys.exit(EXPERIMENT.run(measure, PixelsConfig))
