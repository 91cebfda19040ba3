"""Does an agent that lives through its data need less of them? docs/experiments/online-learning.md.

On each task, with each seed: an agent that learns online; one that learns from as many environment
steps of random behaviour; the shipped agents.
On one task also a world that changes on the way.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from experiment import ROOT, Experiment, ExperimentConfig, Finding, Verdict, over_seeds
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
from mujepa.rollouts.store import Dataset
from mujepa.runtime.command import read
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json
from mujepa.train import train
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
"""What an arm has found, by seed."""
Found = dict[str, dict[str, Runs]]
"""What all arms have found, by task and arm."""
ARMS = {"online": "#3b6fe0", "random": "#98a2b3", "shipped": "#101828"}
NAMES = {
    "online": "online",
    "random": "the same number of random steps",
    "shipped": "shipped agent",
    "early": "online, fewer rounds",
}


@dataclass(frozen=True)
class Sizes:
    """How much is lived, learned and judged.

    Attributes:
        rounds: of an online run.
        episodes: of each round.
        updates: of world model, ensemble, critic and actor, times the rounds' weight.
        after: rounds after the world has changed.
        early: rounds after which the agent is evaluated as well.
        judged: episodes of the main comparison.
        also: episodes of the others.
        batches: of world model and actor, in every training.
    """

    rounds: int
    episodes: int
    updates: tuple[int, int, int, int]
    after: int = 2
    early: int = 5
    judged: int = 200
    also: int = 50
    batches: tuple[int, int] = (64, 128)


SIZES = {"reacher": Sizes(9, 100, (50, 20, 40, 13)), "pendulum": Sizes(7, 35, (55, 22, 44, 15))}
SMOKE = Sizes(1, 2, (1, 1, 1, 1), 1, 1, 4, 4, (8, 8))


def sizes_of(config: ExperimentConfig) -> dict[str, Sizes]:
    """Return the sizes by task."""
    return dict.fromkeys(TASKS, SMOKE) if config.smoke else SIZES


@dataclass(frozen=True)
class Study:
    """What is trained and judged with one seed on one task.

    Attributes:
        config: flags of the experiment.
        task: its name.
        seed: of everything random.
    """

    config: ExperimentConfig
    task: str
    seed: int

    @property
    def sizes(self) -> Sizes:
        """How much of everything."""
        return sizes_of(self.config)[self.task]

    @property
    def changes(self) -> bool:
        """Whether the world changes."""
        return self.task == CHANGING

    def folder(self, arm: str) -> Path:
        """Return the run of an arm."""
        smoke = "smoke-" if self.config.smoke else ""
        return self.config.work / "online-learning" / f"{smoke}{self.task}-{arm}-seed{self.seed}"

    def steps(self, rounds: int) -> int:
        """Return the environment steps that an online run has lived through after some rounds."""
        recipe = World(find_task(self.task)).task
        random = recipe.frame_skip * (
            recipe.episode_steps or 2 * recipe.budget_steps // recipe.frame_skip
        )
        return self.sizes.episodes * (random + (rounds - 1) * recipe.budget_steps)

    def random_episodes(self) -> int:
        """Return how many random episodes have as many steps as the online run, or a few more."""
        each = self.steps(1) // self.sizes.episodes
        return -(-self.steps(self.sizes.rounds) // each)

    def train(self, arm: str) -> None:
        """Train an arm, or go on with it."""
        online, rounds = arm == "online", self.sizes.rounds
        more = self.sizes.after if online and self.changes else 0
        batch, actor_batch = self.sizes.batches
        out, flags = self.folder(arm), ["--batch", str(batch)]
        if online:
            flags += ["--online", "--online-rounds", str(rounds + more)]
            flags += ["--online-episodes", str(self.sizes.episodes)]
        else:
            flags += ["--episodes", str(self.random_episodes()), "--data", str(out / "data")]
        change = {"then_vary": (CHANGE,), "then_at": rounds} if more else {}
        names = ("updates", "ensemble-updates", "critic-updates", "actor-updates")
        for name, each in zip(names, self.sizes.updates, strict=True):
            flags += [f"--{name}", str(each * rounds_weight(rounds + more))]
        flags += ["--seed", str(self.seed), "--threads", "1", "--workers", "1", "--resume"]
        out.mkdir(parents=True, exist_ok=True)
        with (
            (out / "training.log").open("a") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            config = read(TrainConfig, [self.task, "--out", str(out), *flags])
            train(replace(config, actor_batch=actor_batch, **change))

    def held(self, arm: str, agent: str, count: int, vary: str = "") -> list[bool]:
        """Return which of the first evaluation episodes an agent holds; judged once and kept.

        Args:
            arm: whose run.
            agent: its folder within the run.
            count: episodes.
            vary: what the world differs by.
        """
        kept = self.folder(arm) / f"held-{agent.partition('/')[0]}-{vary or 'same'}.json"
        if not kept.exists():
            checkpoint = load_checkpoint(self.folder(arm) / agent, "cpu")
            task = find_task(self.task)
            world = World(task, checkpoint.config.image_size, variation=read_variation(vary))
            manifest, policy = make_manifest(world, count, 0), AgentPolicy(checkpoint.agent())
            outcome = run_episodes(task, world.image_size, policy, manifest)
            write_json(kept, {"held": outcome.held.tolist()})
        return read_json(kept, f"delete {kept}")["held"]

    def shipped(self) -> tuple[NDArray[np.bool_], int]:
        """Return what the shipped agent of this seed holds, and the steps that it learned from.

        Seeds that none was shipped of are compared with seed 0.
        """
        path = ROOT / "benchmarks" / "results" / f"{self.task}-seed{self.seed}.json"
        if not path.exists():
            path = ROOT / "pretrained" / self.task / "result.json"
        held = np.array(read_json(path, "make pretrained")["by_episode"]["held"], bool)
        episodes = find_task(self.task).episodes
        return held[: self.sizes.judged], episodes * self.steps(1) // self.sizes.episodes

    def measure(self, arm: str) -> dict[str, Any]:
        """Train an arm and judge it."""
        self.train(arm)
        sizes, out = self.sizes, self.folder(arm)
        if arm == "random":
            data = Dataset(out / "data", verify=False)
            steps = (data.frames - len(data)) * find_task(self.task).frame_skip
            return {"held": self.held(arm, "last", sizes.judged), "steps": steps}
        early, final, later = (
            f"round-{rounds - 1:05d}/last"
            for rounds in (sizes.early, sizes.rounds, sizes.rounds + sizes.after)
        )
        curve = read_json(out / "online.json", f"delete {out}")["rounds"]
        found = {"curve": curve, "steps": curve[: sizes.rounds][-1]["steps"]}
        found["held"] = self.held(arm, final, sizes.judged)
        if self.changes:
            found["early"] = self.held(arm, early, sizes.also)
            found["hit"] = self.held(arm, final, sizes.also, CHANGE)
            found["recovered"] = self.held(arm, later, sizes.also, CHANGE)
            found["again"] = self.held(arm, later, sizes.also)
        return found


def measure(text: str) -> None:
    """Measure an arm, and keep what was found: what a process of its own does."""
    given = json.loads(text)
    config = ExperimentConfig(smoke=given["smoke"], work=Path(given["work"]))
    study = Study(config, given["task"], given["seed"])
    write_json(study.folder(given["arm"]) / "found.json", study.measure(given["arm"]))


def elsewhere(job: tuple[Study, str]) -> dict[str, Any]:
    """Have a process of its own measure an arm, so that two are at work at once.

    Raises:
        UserError: it failed; what it said stands above.
    """
    study, arm = job
    given = {"smoke": study.config.smoke, "work": str(study.config.work.resolve())}
    text = json.dumps(given | {"task": study.task, "seed": study.seed, "arm": arm})
    code = "import sys; sys.path.insert(0, sys.argv[1]); import online_learning"
    code += "; online_learning.measure(sys.argv[2])"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), text]
    if subprocess.run(command).returncode:
        raise UserError(f"{study.folder(arm)} failed; run the experiment again to go on")
    return read_json(study.folder(arm) / "found.json", f"delete {study.folder(arm)}")


def experience(config: ExperimentConfig) -> Finding:
    """Run the experiment."""
    seeds = config.seeds[:1] if config.smoke else config.seeds
    studies = [Study(config, task, seed) for seed in seeds for task in TASKS[::-1]]
    jobs = [(study, arm) for study in studies for arm in ("online", "random")]
    with ThreadPoolExecutor(2) as workers:
        done = list(workers.map(elsewhere, jobs))
    found: Found = {task: {} for task in TASKS}
    for (study, arm), result in zip(jobs, done, strict=True):
        found[study.task].setdefault(arm, []).append(result)
        if "early" in result:
            steps = result["curve"][study.sizes.early - 1]["steps"]
            early = {"held": result["early"], "steps": steps}
            found[study.task].setdefault("early", []).append(early)
    for study in studies:
        held, steps = study.shipped()
        shipped = {"held": held.tolist(), "steps": steps}
        found[study.task].setdefault("shipped", []).append(shipped)
    return conclude(found, sizes_of(config))


def pool(runs: Runs, key: str = "held", count: int | None = None) -> NDArray[np.bool_]:
    """Return what all seeds held, one after the other."""
    return np.concatenate([np.array(run[key], bool)[:count] for run in runs])


def rate(held: NDArray[np.bool_]) -> Rate:
    """Return a success rate with its interval."""
    return success_rate(int(held.sum()), len(held))


def compare(one: Runs, other: Runs) -> Paired:
    """Compare two arms episode by episode, the seeds pooled."""
    count = min(len(one[0]["held"]), len(other[0]["held"]))
    return paired(pool(one, count=count), pool(other, count=count))


def reaches(test: Paired) -> bool:
    """Return whether the one is not significantly below the other."""
    return test.difference >= 0 or test.p_value >= SIGNIFICANT


def row(task: str, name: str, steps: int, rate: Rate, test: Paired | None, to: str) -> list[object]:
    """Return a line of the table."""
    held = f"{rate.rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
    tested = f"{to}: {test.difference:+.3f}, p = {test.p_value:.2g}" if test else "-"
    return [task, name, f"{steps:,}", held, tested]


def conclude(found: Found, sizes: dict[str, Sizes]) -> Finding:
    """Return what was found."""
    figures: dict[str, Any] = {"runs": found}
    table: list[list[object]] = [["task", "agent", "steps", "held [95 %]", "difference from"]]
    bars, spared, words = [], [], []
    for task in TASKS:
        arms, judged = found[task], {}
        for arm, runs in arms.items():
            test = None if arm == "shipped" else compare(runs, arms["shipped"])
            own, steps = rate(pool(runs)), runs[0]["steps"]
            seeds = over_seeds([float(np.mean(run["held"])) for run in runs])
            table.append(row(task, NAMES[arm], steps, own, test, NAMES["shipped"]))
            judged[arm] = {"steps": steps, "success": asdict(own), "over_seeds": asdict(seeds)}
            judged[arm] |= {"against_shipped": asdict(test)} if test else {}
        control = compare(arms["random"], arms["online"])
        figures[task] = judged | {"random_against_online": asdict(control)}
        share = judged["online"]["steps"] / judged["shipped"]["steps"]
        bars.append(share <= 0.5 and reaches(compare(arms["online"], arms["shipped"])))
        spared.append(not reaches(control))
        rates = {arm: f"{it['success']['rate']:.2f}" for arm, it in judged.items()}
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
    """Return what a changed world costs, how soon that is made good, and what is forgotten."""
    before, hit, recovered, again = (
        pool(runs, key, sizes.also) for key in ("held", "hit", "recovered", "again")
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
    """Return steps and minutes until a run's own success is back in the interval of before."""
    before = curve[rounds - 1]
    for entry in curve[rounds:]:
        if entry["success"]["rate"] >= before["success"]["low"]:
            return {key: round(entry[key] - before[key], 2) for key in ("steps", "minutes")}
    return None


def draw(found: Found, sizes: dict[str, Sizes]) -> Figure:
    """Draw success over environment steps, and through the change of the world."""
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
    axes.set(xlabel="environment steps", title=f"{CHANGING}: another world")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_curves(axes: Axes, runs: Runs, rounds: int | None, colour: str) -> None:
    """Draw the mean curve of runs, as they judged themselves, and each of them."""
    steps = [entry["steps"] for entry in runs[0]["curve"][:rounds]]
    rates = np.array([[it["success"]["rate"] for it in run["curve"][:rounds]] for run in runs])
    axes.plot(steps, rates.T, color=colour, lw=0.8, alpha=0.4)
    axes.plot(steps, rates.mean(axis=0), color=colour, lw=2)


if __name__ == "__main__":
    sys.exit(EXPERIMENT.run(experience, ExperimentConfig))
