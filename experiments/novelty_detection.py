"""Does an agent notice that its world has changed, and does it act better for it?

    python experiments/novelty_detection.py            # docs/experiments/novelty-detection.md
    python experiments/novelty_detection.py --smoke

Agents trained in one world act in others: heavier, slippery, darker. At each decision, surprise is
the squared error of the one-step prediction, and disagreement is the variance of the ensemble's
predictions of the same step. Then an alarm, set off by surprise, makes the agent slow down or
replan.

Letters: E episodes, T decisions.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from alarm import Alarm, AlarmedAgent, AlarmState, Response, WatchedPolicy, usual_threshold
from experiment import (
    Estimate,
    Experiment,
    ExperimentConfig,
    Finding,
    as_json,
    map_parts,
    over_seeds,
    train_agents,
)
from matplotlib.figure import Figure
from scipy.stats import mannwhitneyu

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs.factors import FACTORS
from mujepa.envs.registry import find_task
from mujepa.envs.variation import Variation
from mujepa.envs.world import World
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.statistics import paired
from mujepa.runtime.settings import Count, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from mujepa.agent.checkpoint import Checkpoint

    Array = NDArray[np.float64]
    Condition = tuple[str, float] | None

EXPERIMENT = Experiment(
    "novelty-detection",
    "An agent detects changes of physics and of appearance by its surprise and by the "
    "disagreement of its ensemble, and acts better for it",
)
TASKS = ("point_maze", "reacher")
EVERY = 5
"""Model steps through which a plan is followed, if nothing is wrong."""
LEVELS = {
    "mass": (2.0, 4.0), "damping": (0.4, 0.2), "gain": (1.4, 2.0), "friction": (0.3, 3.0),
    "gravity": (0.5, 2.0), "light": (0.75, 0.5), "colour": (0.1, 0.3), "camera": (0.3, 0.6),
    "texture": (0.15, 0.5), "distractors": (1.0, 3.0),
}  # fmt: skip
"""Factors of variation, mild and strong; training has seen none of them."""
CHANGED = (("mass", 4.0), ("damping", 0.2), ("gain", 2.0))
"""Worlds in which the alarm is evaluated, besides one with other colours."""
DECISIONS = (1, 3, 5, 10)
"""Decisions after which an episode is classified; the last number counts for the verdict."""
SIGNALS = {"surprise": "#c8453b", "disagreement": "#3b6fe0", "relative": "#2f9e6e"}
"""And surprise relative to the disagreement, which does not decide."""
RESPONSES: tuple[Response, ...] = ("replan", "slow")
MODES = {
    "never": "#98a2b3", "replan": "#c8453b", "always replan": "#e6a9a4", "slow": "#3b6fe0",
    "always slow": "#a9c0f0",
}  # fmt: skip
DETECTED, FALSE, GAIN, LOSS = 0.9, 0.02, 0.05, 0.02
"""What has to be reached; docs/experiments/novelty-detection.md."""


@settings
class Config(ExperimentConfig):
    """Evaluate agents in changed worlds, with and without an alarm."""

    watched: Count = 100
    """Episodes of each condition in which novelty is to be noticed."""
    episodes: Count = 200
    """Episodes of each condition and response."""


@dataclass(frozen=True)
class Signals:
    """Logarithms of the signals of an agent in E episodes at T decisions, (E, T) each.

    Attributes:
        surprise: squared error of the prediction.
        disagreement: of the ensemble about the same step.
        held: which goals it held, (E,).
        planned: share of the decisions at which it planned.
        alarmed: share of the decisions at which the alarm was active.
    """

    surprise: Array
    disagreement: Array
    held: NDArray[np.bool_]
    planned: float
    alarmed: float

    def of(self, name: str) -> Array:
        """Return a signal by its name."""
        if name == "relative":
            return self.surprise - self.disagreement
        return self.surprise if name == "surprise" else self.disagreement


def measure(config: Config) -> Finding:
    """Train, act and compare."""
    tasks = TASKS
    if config.smoke:
        config = replace(config, watched=4, episodes=4, seeds=config.seeds[:2])
        tasks = ("reacher",)
    folders = train_agents(config, tasks)
    pieces = [(folder, config, seed) for task in tasks for seed, folder in folders[task].items()]
    examined = map_parts(config, examine, pieces)
    names = [task for task in tasks for _ in folders[task]]
    found = {
        task: [examined[index] for index, name in enumerate(names) if name == task]
        for task in tasks
    }
    rows = {task: summarise(results) for task, results in found.items()}
    return conclude(rows, found)


# --------------------------------------------------------------------------------- acting


def examine(folder: Path, config: Config, seed: int) -> dict[str, Any]:
    """Return what one agent noticed, and what it held with each response.

    Returns:
        `auroc`: by condition, signal and number of decisions; `false alarms`; `held`: by condition
        and mode, by episode; `planned` and `alarmed`: shares of the decisions.
    """
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(folder, "cpu")
    checkpoint = replace(checkpoint, config=replace(checkpoint.config, replan_every=EVERY))
    task = find_task(checkpoint.task_name)
    world = World(task, checkpoint.config.image_size)
    conditions = [
        (name, value) for name in LEVELS if name in world.factors for value in LEVELS[name]
    ]
    uses: list[Condition] = [None, *CHANGED, ("colour", 0.3)]
    if config.smoke:
        conditions, uses = [("damping", 0.2), ("light", 0.5)], [None, CHANGED[1]]
    watching = AlarmedAgent(checkpoint.agent(), Alarm(math.inf, "slow"))
    usual = act(checkpoint, watching, None, config.watched, seed)
    found: dict[str, Any] = {"auroc": {}, "held": {}, "planned": {}, "alarmed": {}}
    for condition in conditions:
        other = act(checkpoint, watching, condition, config.watched, seed)
        found["auroc"][named(condition)] = {s: auroc(other.of(s), usual.of(s)) for s in SIGNALS}
    threshold = usual_threshold(watching, world, seed, config.watched)
    found["false alarms"] = float((usual.surprise > math.log(threshold)).mean())
    alarms: dict[str, Alarm] = {"never": Alarm(math.inf, "slow")}
    for response in RESPONSES:
        alarms |= {response: Alarm(threshold, response), f"always {response}": Alarm(0.0, response)}
    for condition in uses:
        for mode, alarm in alarms.items():
            agent = AlarmedAgent(checkpoint.agent(), alarm)
            signals = act(checkpoint, agent, condition, config.episodes, seed)
            for name in ("held", "planned", "alarmed"):
                value = getattr(signals, name)
                found[name].setdefault(named(condition), {})[mode] = np.asarray(value).tolist()
    return found


def act(
    checkpoint: Checkpoint, agent: AlarmedAgent, condition: Condition, episodes: int, seed: int
) -> Signals:
    """Let an agent act in episodes of a world, the same in each, and return what it felt."""
    task, ensemble = find_task(checkpoint.task_name), checkpoint.networks.ensemble
    variation = Variation({condition[0]: (condition[1], condition[1])}) if condition else None
    world = World(task, checkpoint.config.image_size, variation=variation)
    manifest = make_manifest(world, episodes, seed)
    surprise, disagreement, planned, alarmed = [], [], [], []

    def watch(before: AlarmState, after: AlarmState) -> None:
        now = before.step // agent.frame_skip
        if before.memory is None or before.action is None:
            planned.append(1.0)
            return
        assert after.surprise is not None
        assert after.active is not None
        active = (after.active > 0).double().mean().item()
        alarmed.append(active)
        replans = agent.alarm.response == "replan"
        planned.append(1.0 if now % EVERY == 0 else active * replans)
        surprise.append(after.surprise.double().clamp(min=1e-12).log().numpy())
        between = ensemble.disagreement(before.memory, before.action)
        disagreement.append(between.double().clamp(min=1e-12).log().numpy())

    outcome = run_episodes(world, WatchedPolicy(agent, watch), manifest)
    return Signals(
        np.stack(surprise, axis=1),
        np.stack(disagreement, axis=1),
        outcome.held,
        float(np.mean(planned)),
        float(np.mean(alarmed)),
    )


def auroc(other: Array, usual: Array) -> dict[str, float]:
    """Return how well a signal (E, T) tells another world from the usual one.

    Of single decisions (`look`), and of episodes by the mean of their first decisions.
    """
    pairs = {"look": (other.ravel(), usual.ravel())}
    pairs |= {str(n): (other[:, :n].mean(axis=1), usual[:, :n].mean(axis=1)) for n in DECISIONS}
    return {
        name: float(mannwhitneyu(one, two).statistic / len(one) / len(two))
        for name, (one, two) in pairs.items()
    }


def named(condition: Condition) -> str:
    """Return a condition as text."""
    return f"{condition[0]} {condition[1]:g}" if condition else "usual"


# -------------------------------------------------------------------------------- conclusion


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    """Return the figures of a task over its seeds, by name."""
    first = results[0]
    rows = {"false alarms": over_seeds([r["false alarms"] for r in results])}
    for condition, signals in first["auroc"].items():
        for signal, looks in signals.items():
            for look in looks:
                values = [r["auroc"][condition][signal][look] for r in results]
                rows[f"{condition}/{signal}/{look}"] = over_seeds(values)
    for kind in ("physical", "visual"):
        for signal in SIGNALS:
            names = [name for name in strong(first["auroc"]) if kind_of(name) == kind]
            for key, look in ((kind, DECISIONS[-1]), (f"{kind} at once", DECISIONS[0])):
                values = [[r["auroc"][n][signal][str(look)] for n in names] for r in results]
                rows[f"{key}/{signal}"] = over_seeds([float(np.mean(value)) for value in values])
    for condition, modes in first["held"].items():
        for mode in modes:
            held = [np.array(r["held"][condition][mode]) for r in results]
            never = [np.array(r["held"][condition]["never"]) for r in results]
            rows[f"{condition}/{mode}/held"] = over_seeds([one.mean() for one in held])
            gains = [one.mean() - two.mean() for one, two in zip(held, never, strict=True)]
            rows[f"{condition}/{mode}/gained"] = over_seeds(gains)
            planned = [r["planned"][condition][mode] for r in results]
            rows[f"{condition}/{mode}/planned"] = over_seeds(planned)
    changed = [name for name in first["held"] if kind_of(name) == "physical"]
    for mode in MODES:
        values = [[r["held"][name] for name in changed] for r in results]
        gains = [
            np.mean([np.mean(h[mode]) - np.mean(h["never"]) for h in value]) for value in values
        ]
        rows[f"changed/{mode}/gained"] = over_seeds([float(gain) for gain in gains])
    return rows


def strong(names: Sequence[str] | dict[str, Any]) -> list[str]:
    """Return the conditions of strong levels."""
    ends = {named((factor, levels[1])) for factor, levels in LEVELS.items()}
    return [name for name in names if name in ends]


def kind_of(condition: str) -> str:
    """Return `physical` or `visual`, or `usual`."""
    factor = FACTORS.get(condition.split()[0])
    return factor.kind if factor else "usual"


def conclude(
    rows: dict[str, dict[str, Estimate]], found: dict[str, list[dict[str, Any]]]
) -> Finding:
    """Return what was found, by the bar of docs/experiments/novelty-detection.md."""
    calm = all(row["false alarms"].mean <= FALSE for row in rows.values())
    passed = {
        f"{signal} detects {kind} change": calm
        and all(
            row[f"{kind}/{signal}"].mean >= DETECTED and row[f"{kind}/{signal}"].low > 0.5
            for row in rows.values()
        )
        for signal in ("surprise", "disagreement")
        for kind in ("physical", "visual")
    } | {
        f"{response} on alarm helps": all(
            row[f"changed/{response}/gained"].mean >= GAIN
            and row[f"changed/{response}/gained"].low > 0
            and row[f"usual/{response}/gained"].mean >= -LOSS
            for row in rows.values()
        )
        for response in RESPONSES
    }
    verdict = "fails"
    if any(passed.values()):
        verdict = "holds" if all(passed.values()) else "holds in part"
    yes = [name for name, good in passed.items() if good] or ["nothing"]
    no = [name for name, good in passed.items() if not good] or ["nothing"]
    because = f"Reached: {', '.join(yes)}; missed: {', '.join(no)}."
    tests = {
        task: {
            condition: {
                mode: asdict(paired(pooled(results, condition, mode), pooled(results, condition)))
                for mode in MODES
            }
            for condition in results[0]["held"]
        }
        for task, results in found.items()
    }
    data = {"passes": passed, "paired": tests} | {task: as_json(row) for task, row in rows.items()}
    return Finding(verdict, because, data, table(rows), draw(rows))


def pooled(
    results: Sequence[dict[str, Any]], condition: str, mode: str = "never"
) -> NDArray[np.bool_]:
    """Return which goals the agents of all seeds held."""
    return np.concatenate([np.array(result["held"][condition][mode]) for result in results])


def table(rows: dict[str, dict[str, Estimate]]) -> list[list[object]]:
    """Return the main figures."""
    lines: list[list[object]] = [["", *rows]]
    lines.append(
        ["false alarms", *(f"{100 * r['false alarms'].mean:.1f} %" for r in rows.values())]
    )
    for kind in ("physical", "visual"):
        for signal in SIGNALS:
            cells = [row[f"{kind}/{signal}"] for row in rows.values()]
            lines.append([f"AUROC, {kind} change, {signal}", *cells])
    for kind in ("physical", "visual"):
        cells = [row[f"{kind} at once/disagreement"] for row in rows.values()]
        lines.append([f"the same after 1 observation, {kind} change, disagreement", *cells])
    for mode in list(MODES)[1:]:
        cells = [row[f"changed/{mode}/gained"] for row in rows.values()]
        lines.append([f"gained in changed worlds, {mode}", *cells])
    return lines


# -------------------------------------------------------------------------------- drawing


def draw(rows: dict[str, dict[str, Estimate]]) -> Figure:
    """Draw how well novelty is detected, and the success with each response."""
    picture = Figure(figsize=(9.6, 3.6 * len(rows)), layout="constrained")
    axes = picture.subplots(len(rows), 2, squeeze=False, width_ratios=(1, 1.15))
    for line, (task, row) in enumerate(rows.items()):
        draw_detection(axes[line, 0], row)
        axes[line, 0].set_title(f"{task}: detection of changed worlds", size=10)
        held(axes[line, 1], row)
        axes[line, 1].set_title(f"{task}: goals held", size=10)
    axes[-1, 0].legend(fontsize=8, loc="center left")
    axes[0, 1].legend(fontsize=8, ncols=2)
    return picture


def draw_detection(axes: Axes, row: dict[str, Estimate]) -> None:
    """Draw the AUROC of each strong condition, physical ones first."""
    names = strong(list(dict.fromkeys(name.split("/")[0] for name in row)))
    names.sort(key=lambda name: kind_of(name) == "visual")
    for shift, (signal, colour) in enumerate(SIGNALS.items()):
        values = [row[f"{name}/{signal}/{DECISIONS[-1]}"] for name in names]
        places = np.arange(len(names)) + 0.2 * (shift - 1)
        ends = [(min(v.low, v.mean), min(v.high, 1.0)) for v in values]
        axes.hlines(places, *np.transpose(ends), color=colour, lw=1.5)
        axes.plot([v.mean for v in values], places, "o", color=colour, ms=4, label=signal)
    axes.axvline(0.5, color="#98a2b3", lw=0.8)
    axes.set(xlim=(-0.03, 1.03), yticks=range(len(names)), yticklabels=names)
    axes.set_xlabel(f"AUROC of episodes after {DECISIONS[-1]} decisions")
    axes.invert_yaxis()


def held(axes: Axes, row: dict[str, Estimate]) -> None:
    """Draw the share of goals held by condition and mode."""
    conditions = list(dict.fromkeys(name.split("/")[0] for name in row if name.endswith("/held")))
    for shift, (mode, colour) in enumerate(MODES.items()):
        values = [row[f"{name}/{mode}/held"] for name in conditions]
        means = [value.mean for value in values]
        spread = [
            [value.mean - max(value.low, 0.0) for value in values],
            [min(value.high, 1.0) - value.mean for value in values],
        ]
        places = np.arange(len(conditions)) + 0.17 * (shift - 2)
        axes.bar(places, means, 0.16, yerr=spread, color=colour, label=mode, error_kw={"lw": 0.8})
    axes.set(
        ylim=(0, 1.4),
        yticks=np.linspace(0, 1, 6),
        xticks=range(len(conditions)),
        xticklabels=conditions,
    )
    axes.set_ylabel("share held")


if __name__ == "__main__":
    sys.exit(EXPERIMENT.run(measure, Config))
