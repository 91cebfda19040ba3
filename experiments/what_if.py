"""Does a world model answer "what happens if I do this"?

    python experiments/what_if.py            # docs/experiments/what-if.md
    python experiments/what_if.py --smoke

From one state of an episode, N alternatives: what the behaviour policy might do next. The world
model predicts where each leads, the simulator says where it does, and the probe translates the
prediction into metres.

Letters: B states, N alternatives, H horizon in model steps, G quantities, A action.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from experiment import (
    Estimate,
    Experiment,
    ExperimentConfig,
    Finding,
    as_json,
    over_seeds,
    train_agents,
)
from matplotlib.figure import Figure
from scipy.stats import rankdata

from mujepa.agent.checkpoint import Checkpoint, load_checkpoint
from mujepa.agent.memory import Memory
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluation.held_out import Episodes, rollout_episodes
from mujepa.rollouts.collection import behave
from mujepa.runtime import console
from mujepa.runtime.settings import Count, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

EXPERIMENT = Experiment(
    "what-if",
    "A world model answers counterfactual questions: how far things move, which of several "
    "action sequences leads where, and what would have happened",
)
TASKS = {"reacher": "fingertip", "point_maze": "agent", "push_t": "block"}
"""What each moves: the first three quantities of its goal."""
LONGEST = ("push_t", "point_maze", "reacher")
"""By how long training takes."""
WORLD_MODEL = ("--ensemble-updates", "1", "--critic-updates", "1", "--actor-updates", "1")
"""Flags that leave out what comes after the world model: nobody asks it."""
STREAM = 8
"""Second word of the random streams; nobody else has it."""
NOW = 6
"""Model step of an episode at which the question is asked."""
NEAREST = 3
"""Alternatives, the best ones by the model, that should contain the truly best one."""
DIRECTIONS = 4
"""Random directions along which the alternatives of a state are ordered."""
SHOWN = 4
"""Alternatives that are drawn."""
SPREAD = 0.01
"""How far alternatives lie apart, root mean square, where their order is asked for [m]."""
ERROR, ORDER = 0.5, 0.8
"""What has to be reached; docs/experiments/what-if.md."""
CONTROLS = {"still": "frozen world", "linear": "same change as before", "others": "wrong actions"}
COLOURS = {"model": "#3b6fe0", "still": "#98a2b3", "linear": "#2f9e6e", "others": "#c8453b"}


@settings
class Config(ExperimentConfig):
    """Compare the answers of a world model with the simulator."""

    states: Count = 200
    """Of each task, in episodes of its behaviour policy."""
    alternatives: Count = 32
    """From each state."""


@dataclass(frozen=True)
class Answers:
    """Where alternatives lead, in metres.

    Attributes:
        before: the true position one model step earlier, (B, 3).
        now: the true position, (B, 3).
        real: where they lead, (B, N, H, 3).
        predicted: where the model says they lead, (B, N, H, 3).
        read: what the probe reads of the present, (B, 3).
        states: the present state of the simulator, (B, S).
        world: whose states.
    """

    before: Array
    now: Array
    real: Array
    predicted: Array
    read: Array
    states: Array
    world: World


def measure(config: Config) -> Finding:
    """Train, ask and compare."""
    torch.set_num_threads(1)
    tasks = dict(TASKS)
    if config.smoke:
        config = replace(config, states=24, alternatives=8, seeds=config.seeds[:2])
        tasks = {"reacher": TASKS["reacher"]}
    folders = train_agents(
        config, sorted(tasks, key=LONGEST.index), *WORLD_MODEL, name="-world-model"
    )
    found: dict[str, list[dict[str, float]]] = {}
    shown: dict[str, Answers] = {}
    for task in tasks:
        for seed, folder in folders[task].items():
            answers, measured = ask(load_checkpoint(folder, "cpu"), config, seed)
            found.setdefault(task, []).append(measured)
            shown.setdefault(task, answers)
            ends = {name: round(value, 3) for name, value in measured.items() if "@" not in name}
            console.print(f"{task}, seed {seed}: {ends}")
    figures = {task: over(rows) for task, rows in found.items()}
    return conclude(figures, list(tasks), draw(figures, shown))


# ------------------------------------------------------------------------------- asking


@torch.no_grad()
def ask(checkpoint: Checkpoint, config: Config, seed: int) -> tuple[Answers, dict[str, float]]:
    """Ask a model what alternatives would lead to, and compare with what they do lead to."""
    networks, horizon = checkpoint.networks, checkpoint.config.planner.horizon
    world = World(find_task(checkpoint.task_name), checkpoint.config.image_size)
    streams = [np.random.default_rng([seed, STREAM, index]) for index in range(config.states)]
    episodes = rollout_episodes(networks.jepa, world, streams, NOW + horizon)
    rng = np.random.default_rng([seed, STREAM])
    memory, present = memory_at_now(episodes, networks.jepa.history), episodes.states[:, NOW]
    states, actions = alternatives(world, present, config.alternatives, horizon, rng)

    def read(embeddings: Tensor) -> Array:
        return networks.probe(embeddings)[..., :3].double().numpy()

    answers = Answers(
        place(world, episodes.states[:, NOW - 1]),
        place(world, present),
        place(world, states),
        read(networks.jepa.rollout(memory, torch.from_numpy(actions))),
        read(episodes.embeddings[:, NOW]),
        present,
        world,
    )
    seen = np.linalg.norm(
        read(episodes.embeddings[:, NOW + 1 :]) - place(world, episodes.states[:, NOW + 1 :]),
        axis=-1,
    )
    return answers, {
        **errors(answers),
        **{f"reading@{step + 1}": float(value) for step, value in enumerate(seen.mean(axis=0))},
        **orders(answers, rng),
        **counterfactual(checkpoint, world, episodes, rng),
    }


def memory_at_now(episodes: Episodes, history: int) -> Memory:
    """Return what the model remembers of the episodes (B) at the moment of the question."""
    past = slice(NOW + 1 - history, NOW + 1)
    return Memory(episodes.embeddings[:, past], episodes.actions[:, past][:, :-1])


def alternatives(
    world: World, present: Array, count: int, horizon: int, rng: np.random.Generator
) -> tuple[Array, NDArray[np.float32]]:
    """Let the behaviour policy go on from states (B, S) in several ways.

    Returns:
        The states that follow, (B, N, H, S), and what was done, (B, N, H, A), in [-1, 1].
    """
    starts = np.repeat(present, count, axis=0)
    width = len(world.action_low) + world.task.extra_noise_dims
    noise = np.stack([world.task.behaviour.draw(rng, horizon, width) for _ in starts])
    states, actions = behave(world, starts, noise)
    shape = (len(present), count, horizon, -1)
    return states[:, 1:].reshape(shape), world.to_unit(actions).reshape(shape)


def place(world: World, states: Array) -> Array:
    """Return the first position of the goal that states (..., S) achieve, (..., 3) [m]."""
    achieved = world.achieved(states.reshape(-1, states.shape[-1]))
    return achieved[:, :3].reshape(*states.shape[:-1], 3)


def guesses(answers: Answers) -> dict[str, Array]:
    """Return the positions (B, N, H, 3) that the model and each control expect.

    Those that know nothing of the model start from the true present.
    """
    steps = np.arange(1, answers.real.shape[2] + 1)[:, None]
    step = (answers.now - answers.before)[:, None, None]
    now = np.broadcast_to(answers.now[:, None, None], answers.real.shape)
    return {
        "model": answers.predicted,
        "still": now,
        "linear": now + steps * step,
        "others": np.roll(answers.predicted, 1, axis=1),
    }


def errors(answers: Answers) -> dict[str, float]:
    """Return the mean distance from the truth by step [m], and at the horizon over the still's."""
    found = {}
    for name, guess in guesses(answers).items():
        away = np.linalg.norm(guess - answers.real, axis=-1).mean(axis=(0, 1))
        found |= {f"{name}@{step + 1}": float(value) for step, value in enumerate(away)}
        found[f"{name} error"] = float(away[-1])
    still = found["still error"]
    ratios = {f"{name} share": found[f"{name} error"] / still for name in COLOURS}
    return found | ratios


def orders(answers: Answers, rng: np.random.Generator) -> dict[str, float]:
    """Return how well the order of the alternatives is known, where they lie apart.

    `order`: Spearman's correlation along random directions. `goal`: of the distance to where the
    last alternative leads, among the others; `best`: how often the truly nearest to it is among
    the `NEAREST` of the model.
    """
    real = answers.real[:, :, -1]
    apart = np.sqrt((real - real.mean(axis=1, keepdims=True)).var(axis=1).sum(axis=-1)) >= SPREAD
    goal = real[apart][:, -1:]
    along = rng.standard_normal((int(apart.sum()), 3, DIRECTIONS))

    def away(places: Array) -> Array:
        return np.linalg.norm(places[:, :-1] - goal, axis=-1)[..., None]

    found = {"apart": float(apart.mean())}
    for name in ("model", "others"):
        guess = guesses(answers)[name][apart][:, :, -1]
        found[f"{name} order"] = rank_correlation(guess @ along, real[apart] @ along)
        near, truly = away(guess), away(real[apart])
        found[f"{name} goal"] = rank_correlation(near, truly)
        chosen = near[..., 0].argsort(axis=1)[:, :NEAREST]
        best = truly[..., 0].argmin(axis=1)[:, None]
        found[f"{name} best"] = float((chosen == best).any(axis=1).mean())
    return found


def rank_correlation(guess: Array, real: Array) -> float:
    """Return the mean of Spearman's correlations over axis 1 of (B, N, M)."""
    ranks = [rankdata(values, axis=1) for values in (guess, real)]
    ranks = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    spread = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    return float(((ranks[0] * ranks[1]).sum(axis=1) / np.maximum(spread, 1e-12)).mean())


def counterfactual(
    checkpoint: Checkpoint, world: World, episodes: Episodes, rng: np.random.Generator
) -> dict[str, float]:
    """Predict the end of a recorded episode if its first action had been another.

    All later actions are the recorded ones. The prediction is corrected by the error of the model
    about the episode that did happen (abduction, action, prediction; Pearl 2009), or, as `naive`,
    is not. The control, `as it was`: it would have made no difference.
    """
    networks = checkpoint.networks
    memory = memory_at_now(episodes, networks.jepa.history)
    done = episodes.actions[:, NOW:]
    other = done.clone()
    other[:, 0] = torch.from_numpy(rng.uniform(-1, 1, other[:, 0].shape)).to(other)
    controls = world.from_unit(other.numpy())
    real = place(world, world.rollout(episodes.states[:, NOW], controls, world.task.frame_skip)[0])
    was = place(world, episodes.states[:, NOW + 1 :])

    def read(embeddings: Tensor) -> Array:
        return networks.probe(embeddings)[..., :3].double().numpy()

    predicted = read(networks.jepa.unroll(memory, other))
    moved = was - read(networks.jepa.unroll(memory, done))
    guess = {"had": predicted + moved, "naive": predicted, "as it was": was}
    found = {}
    for name, places in guess.items():
        away = np.linalg.norm(places - real, axis=-1).mean(axis=0)
        found |= {f"{name}@{step + 1}": float(value) for step, value in enumerate(away)}
    last = len(real[0])
    found["had share"] = found[f"had@{last}"] / found[f"as it was@{last}"]
    found["naive share"] = found[f"naive@{last}"] / found[f"as it was@{last}"]
    return found


# -------------------------------------------------------------------------------- conclusion


def over(rows: Sequence[dict[str, float]]) -> dict[str, Estimate]:
    """Return each figure over the seeds."""
    return {name: over_seeds([row[name] for row in rows]) for name in rows[0]}


def conclude(
    figures: dict[str, dict[str, Estimate]], tasks: Sequence[str], picture: Figure
) -> Finding:
    """Return what was found, by the bar of docs/experiments/what-if.md."""
    good = {task: passes(figures[task]) for task in tasks}
    full = [task for task in tasks if all(good[task].values())]
    some = [task for task in tasks if good[task]["error"] and good[task]["order"]]
    verdict = "holds" if len(full) == len(good) else "holds in part" if some else "fails"
    said = [
        f"{task} {row['model share']} of the frozen world's error, "
        f"rank correlation {row['model order']}, "
        f"counterfactual error {row['had share']}"
        for task, row in figures.items()
        if task in tasks
    ]
    names = {"error": "error", "order": "rank correlation", "otherwise": "counterfactual error"}
    failed = [(task, name) for task in tasks for name, ok in good[task].items() if not ok]
    missed = [f"{names[name]} on {task}" for task, name in failed]
    because = "; ".join(said) + (f"; missed: {', '.join(missed)}." if missed else ".")
    heads = ["", "error at the horizon, model", *CONTROLS.values(), "order", "wrong actions",
             f"best among {NEAREST}", "counterfactual error"]  # fmt: skip
    rows = [
        [
            task,
            *(f"{100 * row[f'{name} error'].mean:.1f} cm" for name in COLOURS),
            row["model order"], row["others order"], row["model best"], row["had share"],
        ]
        for task, row in figures.items()
    ]  # fmt: skip
    data: dict[str, Any] = {task: as_json(row) for task, row in figures.items()}
    data["passes"] = good
    return Finding(verdict, because, data, [heads, *rows], picture)


def passes(row: dict[str, Estimate]) -> dict[str, bool]:
    """Return whether a task passes each part of the bar."""
    controls = min(row["linear share"].low, row["others share"].low)
    return {
        "error": row["model share"].mean <= ERROR and row["model share"].high < min(1, controls),
        "order": row["model order"].mean >= ORDER
        and row["model order"].low > row["others order"].high,
        "otherwise": row["had share"].mean <= ERROR and row["had share"].high < 1,
    }


# -------------------------------------------------------------------------------- drawing


def draw(figures: dict[str, dict[str, Estimate]], shown: dict[str, Answers]) -> Figure:
    """Return the futures of one state of each task, and the errors by step."""
    picture = Figure(figsize=(3.4 * len(shown), 7), layout="constrained")
    axes = picture.subplots(2, len(shown), squeeze=False, height_ratios=(1.15, 1))
    for column, (task, answers) in enumerate(shown.items()):
        fan(axes[0, column], answers)
        axes[0, column].set_title(f"{task}: {TASKS[task]}", size=10)
        by_step(axes[1, column], figures[task], answers.real.shape[2])
    axes[1, 0].set_ylabel("error [cm]")
    handles = [*axes[0, 0].get_lines()[:4:2], *axes[1, 0].get_lines()]
    names = [str(handle.get_label()) for handle in handles]
    picture.legend(handles, names, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return picture


def fan(axes: Axes, answers: Answers) -> None:
    """Draw alternatives of the first state whose own lie farther apart than most."""
    apart = answers.real[:, :, -1].std(axis=1).sum(axis=-1)
    index = int(np.flatnonzero(apart >= np.quantile(apart, 0.8))[0])
    picture = answers.world.enlarge(answers.states[index])
    axes.imshow(picture)
    size, points = len(picture), []
    for future in range(SHOWN):
        for paths, start, style, label in (
            (answers.real, answers.now, "o-", "the world"),
            (answers.predicted, answers.read, "x--", "predicted"),
        ):
            path = np.concatenate([start[index, None], paths[index, future]])
            points.append(size * answers.world.project(path))
            colour = f"C{future}"
            axes.plot(*points[-1].T, style[1:], color=colour, lw=2, label=label)
            axes.plot(*points[-1][-1], style[0], color=colour, ms=7, mew=2)
    low, high = np.min(np.concatenate(points), axis=0), np.max(np.concatenate(points), axis=0)
    half = max(60, (high - low).max() / 2 + 20)
    (x, y), ends = (low + high) / 2, np.array([-half, half])
    axes.set(xlim=x + ends, ylim=y - ends, xticks=[], yticks=[], facecolor="black")


def by_step(axes: Axes, row: dict[str, Estimate], horizon: int) -> None:
    """Draw the errors by model step, with their intervals."""
    steps = np.arange(1, horizon + 1)
    names = {"model": "the model", **CONTROLS}
    for name, label in names.items():
        values = [row[f"{name}@{step}"] for step in steps]
        axes.plot(steps, [100 * v.mean for v in values], color=COLOURS[name], label=label)
        low, high = ([100 * getattr(v, end) for v in values] for end in ("low", "high"))
        axes.fill_between(steps, low, high, color=COLOURS[name], alpha=0.2, lw=0)
    reading = [100 * row[f"reading@{step}"].mean for step in steps]
    axes.plot(steps, reading, ":", color="black", label="the probe, of what is seen")
    top = max(100 * row[f"{name}@{horizon}"].mean for name in ("still", "others"))
    axes.set(xlabel="model steps ahead", xticks=steps, ylim=(0, 1.25 * top))


if __name__ == "__main__":
    sys.exit(EXPERIMENT.run(measure, Config))
