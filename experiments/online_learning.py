"""Online learning: does an agent that collects its own data need less of them?

    python experiments/online_learning.py            # docs/experiments/online-learning.md
    python experiments/online_learning.py --smoke

On each task, with each seed: an agent that learns online, an agent that learns from as many
environment steps of random behaviour, and the shipped agent. On one task the world changes after
the last round, and the agent learns on.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from experiment import (
    ROOT,
    Experiment,
    ExperimentConfig,
    Finding,
    Verdict,
    map_parts,
    over_seeds,
    train_logged,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.statistics import Paired, Rate, paired, success_rate
from mujepa.planners import PlannerConfig
from mujepa.rollouts.store import Dataset
from mujepa.runtime.command import read
from mujepa.runtime.files import read_json, write_json
from mujepa.training.config import TrainConfig
from mujepa.training.schedule import rounds_weight

EXPERIMENT = Experiment(
    "online-learning",
    "An agent that learns online needs at most half of the environment steps of an offline "
    "agent for the same success.",
)
TASKS = ("reacher", "pendulum")
CHANGING, CHANGE = "reacher", "gain=4"
"""The task whose world changes, and how."""
SIGNIFICANT = 0.05
Runs = list[dict[str, Any]]
"""Results of an arm, by seed."""
Found = dict[str, dict[str, Runs]]
"""Results by task and arm."""
ARMS = {"online": "#3b6fe0", "random": "#98a2b3", "shipped": "#101828"}
NAMES = {
    "online": "online",
    "random": "the same number of random steps",
    "shipped": "shipped agent",
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of collection, training and evaluation.

    Attributes:
        rounds: rounds of an online run.
        episodes: episodes of each round.
        updates: updates of world model, ensemble, critic and actor, times the rounds' weight.
        after: rounds after the world has changed.
        evaluated: episodes of the main comparison.
        changed: episodes of each evaluation around the change.
        batches: batch sizes of world model and actor.
        planner: planner, if not that of the task.
    """

    rounds: int
    episodes: int
    updates: tuple[int, int, int, int]
    after: int = 2
    evaluated: int = 200
    changed: int = 50
    batches: tuple[int, int] = (64, 128)
    planner: PlannerConfig | None = None


SIZES = {"reacher": Sizes(9, 100, (50, 20, 40, 13)), "pendulum": Sizes(7, 35, (55, 22, 44, 15))}
TINY = PlannerConfig(horizon=2, samples=8, iterations=1, elites=2)
SMOKE = Sizes(1, 2, (1, 1, 1, 1), 1, 4, 4, (8, 8), TINY)


def sizes_of(config: ExperimentConfig) -> dict[str, Sizes]:
    """Return the sizes by task."""
    return dict.fromkeys(TASKS, SMOKE) if config.smoke else SIZES


@dataclass(frozen=True)
class Trial:
    """All arms of one task with one seed.

    Attributes:
        config: flags of the experiment.
        task: name of the task.
        seed: seed of all random numbers.
    """

    config: ExperimentConfig
    task: str
    seed: int

    @property
    def sizes(self) -> Sizes:
        """Sizes of this task."""
        return sizes_of(self.config)[self.task]

    @property
    def changes(self) -> bool:
        """Whether the world changes."""
        return self.task == CHANGING

    def folder(self, arm: str) -> Path:
        """Return the folder of an arm's run."""
        smoke = "smoke-" if self.config.smoke else ""
        return self.config.work / "online-learning" / f"{smoke}{self.task}-{arm}-seed{self.seed}"

    def steps(self, rounds: int) -> int:
        """Return the environment steps that an online run has collected after some rounds."""
        task = find_task(self.task)
        random = task.frame_skip * (task.episode_steps or 2 * task.budget_steps // task.frame_skip)
        return self.sizes.episodes * (random + (rounds - 1) * task.budget_steps)

    def random_episodes(self) -> int:
        """Return how many random episodes have as many steps as the online run, rounded up."""
        each = self.steps(1) // self.sizes.episodes
        return -(-self.steps(self.sizes.rounds) // each)

    def train(self, arm: str) -> None:
        """Train an arm, or continue its training."""
        online, sizes = arm == "online", self.sizes
        more = sizes.after if online and self.changes else 0
        rounds = sizes.rounds + more
        batch, actor_batch = sizes.batches
        out, flags = self.folder(arm), ["--batch", str(batch)]
        if online:
            flags += ["--online", "--online-rounds", str(rounds)]
            flags += ["--online-episodes", str(sizes.episodes)]
        else:
            flags += ["--episodes", str(self.random_episodes()), "--data", str(out / "data")]
        change = {"then_vary": (CHANGE,), "then_at": sizes.rounds} if more else {}
        names = ("updates", "ensemble-updates", "critic-updates", "actor-updates")
        for name, each in zip(names, sizes.updates, strict=True):
            flags += [f"--{name}", str(each * rounds_weight(rounds))]
        flags += ["--seed", str(self.seed), "--threads", "1", "--workers", "1", "--resume"]
        config = read(TrainConfig, [self.task, "--out", str(out), *flags])
        planner = sizes.planner or config.planner
        config = replace(config, actor_batch=actor_batch, planner=planner, **change)
        train_logged(config, out / "training.log")

    def held(self, arm: str, agent: str, count: int, vary: str = "") -> list[bool]:
        """Return the success in each of the first evaluation episodes; evaluated once and kept.

        Args:
            arm: name of the arm.
            agent: folder of the agent within its run.
            count: episodes.
            vary: variation of the world.
        """
        kept = self.folder(arm) / f"held-{agent.partition('/')[0]}-{vary or 'same'}.json"
        if not kept.exists():
            checkpoint = load_checkpoint(self.folder(arm) / agent, "cpu")
            task = find_task(self.task)
            world = World(task, checkpoint.config.image_size, variation=read_variation(vary))
            manifest, policy = make_manifest(world, count, 0), AgentPolicy(checkpoint.agent())
            outcome = run_episodes(world, policy, manifest)
            write_json(kept, {"held": outcome.held.tolist()})
        return read_json(kept, f"delete {kept}")["held"]

    def shipped(self) -> tuple[NDArray[np.bool_], int]:
        """Return the success of the agent of this seed at full size, and its environment steps.

        Seeds without a result are compared with seed 0.
        """
        path = ROOT / "benchmarks" / "results" / f"{self.task}-seed{self.seed}.json"
        if not path.exists():
            path = ROOT / "pretrained" / self.task / "result.json"
        held = np.array(read_json(path, "make pretrained")["by_episode"]["held"], bool)
        episodes = find_task(self.task).episodes
        return held[: self.sizes.evaluated], episodes * self.steps(1) // self.sizes.episodes

    def measure(self, arm: str) -> dict[str, Any]:
        """Train and evaluate an arm."""
        self.train(arm)
        sizes, out = self.sizes, self.folder(arm)
        if arm == "random":
            data = Dataset(out / "data", verify=False)
            steps = (data.frames - len(data)) * find_task(self.task).frame_skip
            return {"held": self.held(arm, "last", sizes.evaluated), "steps": steps}
        final, later = (
            f"round-{rounds - 1:05d}/last" for rounds in (sizes.rounds, sizes.rounds + sizes.after)
        )
        curve = read_json(out / "online.json", f"delete {out}")["rounds"]
        found = {"curve": curve, "steps": curve[: sizes.rounds][-1]["steps"]}
        found["held"] = self.held(arm, final, sizes.evaluated)
        if self.changes:
            found["hit"] = self.held(arm, final, sizes.changed, CHANGE)
            found["recovered"] = self.held(arm, later, sizes.changed, CHANGE)
            found["again"] = self.held(arm, later, sizes.changed)
        return found


def measure(config: ExperimentConfig) -> Finding:
    """Run the experiment."""
    seeds = config.seeds[:1] if config.smoke else config.seeds
    trials = [Trial(config, task, seed) for seed in seeds for task in TASKS[::-1]]
    jobs = [(trial, arm) for trial in trials for arm in ("online", "random")]
    done = map_parts(config, Trial.measure, jobs)
    found: Found = {task: {} for task in TASKS}
    for (trial, arm), result in zip(jobs, done, strict=True):
        found[trial.task].setdefault(arm, []).append(result)
    for trial in trials:
        held, steps = trial.shipped()
        shipped = {"held": held.tolist(), "steps": steps}
        found[trial.task].setdefault("shipped", []).append(shipped)
    return conclude(found, sizes_of(config))


def pool(runs: Runs, key: str = "held", count: int | None = None) -> NDArray[np.bool_]:
    """Return the success of all seeds, one after the other."""
    return np.concatenate([np.array(run[key], bool)[:count] for run in runs])


def rate(held: NDArray[np.bool_]) -> Rate:
    """Return a success rate with its interval."""
    return success_rate(int(held.sum()), len(held))


def compare(one: Runs, other: Runs) -> Paired:
    """Compare two arms episode by episode, with the seeds pooled."""
    count = min(len(one[0]["held"]), len(other[0]["held"]))
    return paired(pool(one, count=count), pool(other, count=count))


def reaches(test: Paired) -> bool:
    """Return whether the first is not significantly below the second."""
    return test.difference >= 0 or test.p_value >= SIGNIFICANT


def row(task: str, name: str, steps: int, rate: Rate, test: Paired | None, to: str) -> list[object]:
    """Return a row of the table."""
    held = f"{rate.rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
    tested = f"{to}: {test.difference:+.3f}, p = {test.p_value:.2g}" if test else "-"
    return [task, name, f"{steps:,}", held, tested]


def conclude(found: Found, sizes: dict[str, Sizes]) -> Finding:
    """Apply the criteria of docs/experiments/online-learning.md."""
    figures: dict[str, Any] = {"runs": found}
    table: list[list[object]] = [["task", "agent", "steps", "held [95 %]", "difference from"]]
    bars, spared, words = [], [], []
    for task in TASKS:
        arms, summary = found[task], {}
        for arm, runs in arms.items():
            test = None if arm == "shipped" else compare(runs, arms["shipped"])
            own, steps = rate(pool(runs)), runs[0]["steps"]
            seeds = over_seeds([float(np.mean(run["held"])) for run in runs])
            table.append(row(task, NAMES[arm], steps, own, test, NAMES["shipped"]))
            summary[arm] = {"steps": steps, "success": asdict(own), "over_seeds": asdict(seeds)}
            summary[arm] |= {"against_shipped": asdict(test)} if test else {}
        control = compare(arms["random"], arms["online"])
        figures[task] = summary | {"random_against_online": asdict(control)}
        share = summary["online"]["steps"] / summary["shipped"]["steps"]
        bars.append(share <= 0.5 and reaches(compare(arms["online"], arms["shipped"])))
        spared.append(not reaches(control))
        rates = {arm: f"{it['success']['rate']:.2f}" for arm, it in summary.items()}
        words.append(
            f"on {task} it holds {rates['online']} with {100 * share:.0f} % of the steps of the "
            f"shipped agent ({rates['shipped']}), the same number of random steps "
            f"{rates['random']}"
        )
    verdict: Verdict = "holds in part" if any(bars) else "fails"
    if all(bars) and all(spared):
        verdict = "holds"
    figures["change"], rows = change(found[CHANGING]["online"], sizes[CHANGING])
    because = "; ".join(words)
    because = f"{because[0].upper()}{because[1:]}."
    return Finding(verdict, because, figures, [*table, *rows], draw(found, sizes))


def change(runs: Runs, sizes: Sizes) -> tuple[dict[str, Any], list[list[object]]]:
    """Return the loss of success in the changed world, its recovery, and what is forgotten."""
    before, hit, recovered, again = (
        pool(runs, key, sizes.changed) for key in ("held", "hit", "recovered", "again")
    )
    steps, later = (runs[0]["curve"][index]["steps"] for index in (sizes.rounds - 1, -1))
    regained, forgotten = paired(recovered, hit), paired(again, before)
    figures = {
        "change": CHANGE,
        "before": asdict(rate(before)),
        "hit": asdict(rate(hit)),
        "recovered": asdict(rate(recovered)),
        "again": asdict(rate(again)),
        "regained": asdict(regained),
        "forgotten": asdict(forgotten),
        "recovery": [recovery(run["curve"], sizes.rounds) for run in runs],
    }
    return figures, [
        row(CHANGING, f"online, {CHANGE} at once", steps, rate(hit), paired(hit, before), "before"),
        row(
            CHANGING,
            "the same, after two rounds there",
            later,
            rate(recovered),
            regained,
            "at once",
        ),
        row(CHANGING, "the same, back in the first world", later, rate(again), forgotten, "before"),
    ]


def recovery(curve: Runs, rounds: int) -> dict[str, Any] | None:
    """Return steps and minutes until the success is back in its interval before the change."""
    before = curve[rounds - 1]
    for entry in curve[rounds:]:
        if entry["success"]["rate"] >= before["success"]["low"]:
            return {key: round(entry[key] - before[key], 2) for key in ("steps", "minutes")}
    return None


def draw(found: Found, sizes: dict[str, Sizes]) -> Figure:
    """Draw success over environment steps, and after the change of the world."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, task in zip(panels, TASKS, strict=False):
        draw_curves(axes, found[task]["online"], sizes[task].rounds, ARMS["online"])
        for (arm, colour), marker in zip(ARMS.items(), "osD", strict=True):
            runs = found[task][arm]
            own = rate(pool(runs))
            spread = [[own.rate - own.low], [own.high - own.rate]]
            axes.errorbar(
                runs[0]["steps"], own.rate, yerr=spread, fmt=marker, color=colour, capsize=3,
                label=NAMES[arm],
            )  # fmt: skip
        axes.set(xscale="log", xlabel="environment steps", title=task)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set(ylabel="success held at the end", ylim=(-0.03, 1.05))
    panels[0].legend(frameon=False, fontsize=8)
    axes = panels[2]
    draw_curves(axes, found[CHANGING]["online"], None, ARMS["online"])
    before = found[CHANGING]["online"][0]["curve"][sizes[CHANGING].rounds - 1]["steps"]
    axes.axvline(before, color="#98a2b3", lw=1, ls=":")
    axes.text(before, 0.02, f" {CHANGE} ", fontsize=8, color="#667085", ha="left")
    axes.set(xlabel="environment steps", title=f"{CHANGING}: the world changes")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_curves(axes: Axes, runs: Runs, rounds: int | None, colour: str) -> None:
    """Draw the success curve that each run measured itself, and their mean."""
    steps = [entry["steps"] for entry in runs[0]["curve"][:rounds]]
    rates = np.array([[it["success"]["rate"] for it in run["curve"][:rounds]] for run in runs])
    axes.plot(steps, rates.T, color=colour, lw=0.8, alpha=0.4)
    axes.plot(steps, rates.mean(axis=0), color=colour, lw=2)


if __name__ == "__main__":
    sys.exit(EXPERIMENT.run(measure, ExperimentConfig))
