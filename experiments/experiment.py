"""What all experiments share: their flags, their record, their figure and their page.

An experiment tests one claim. It trains or measures with each of its seeds, and publishes

- `experiments/results/NAME.json`: claim, verdict, figures with intervals, how they were made;
- `docs/experiments/NAME.png`: one figure;
- the table between `<!-- result -->` and `<!-- /result -->` of `docs/experiments/NAME.md`, and the
  one of all experiments in `docs/does-it-hold.md`.

With `--smoke` it does all of it at a size that says nothing about the claim, into a folder of its
own.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t

from mujepa.benchmarks.markers import fill_markers
from mujepa.evaluation.report import write_png
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json, write_text
from mujepa.runtime.provenance import command, machine, versions

mpl.use("Agg")

ROOT = Path(__file__).parents[1]
RESULTS, PAGES = ROOT / "experiments" / "results", ROOT / "docs" / "experiments"
SUMMARY = ROOT / "docs" / "does-it-hold.md"
SHIPPED = ROOT / "pretrained"
TOY = (
    *("--episodes", "12", "--updates", "2", "--batch", "8", "--ensemble-updates", "2"),
    *("--critic-updates", "2", "--actor-updates", "2"),
)
"""Flags of trainings that learn next to nothing."""

Verdict = Literal["holds", "holds in part", "fails", "undecided"]


@dataclass(frozen=True)
class ExperimentConfig:
    """Flags of every experiment."""

    smoke: bool = False
    """Shows in little time that everything runs; its figures say nothing about the claim."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training and data; one result each."""
    work: Path = ROOT / "runs" / "experiments"
    """Folder of data and trainings; an interrupted experiment goes on with what is there."""
    out: Path | None = None
    """Folder of JSON and figure, in place of experiments/results and docs; pages stay as they
    are. By default the folder `smoke` within --work with --smoke."""

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise UserError(
                f"--seeds {' '.join(map(str, self.seeds))}: give different numbers from 0 upwards"
            )

    @property
    def folder(self) -> Path | None:
        """Where the results go, if not to their places in the repository."""
        return self.out or (self.work / "smoke" if self.smoke else None)


@dataclass(frozen=True)
class ParallelConfig(ExperimentConfig):
    """Flags of experiments that train by themselves."""

    jobs: int = 2
    """Trainings at once, each with one thread."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jobs < 1:
            raise UserError(f"--jobs must be at least 1, got {self.jobs}")


Config = TypeVar("Config", bound=ExperimentConfig)


@dataclass(frozen=True)
class Figures:
    """A figure of all seeds.

    Attributes:
        mean: over the seeds.
        low: of its 95 % interval.
        high: of that interval.
        seeds: what each of them gave.
    """

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def over_seeds(values: Sequence[float]) -> Figures:
    """Return the mean over seeds with its 95 % interval by Student's t; of one seed, no interval.

    Raises:
        ValueError: a value is not finite.
    """
    mean, count = float(np.mean(values)), len(values)
    if not math.isfinite(mean):
        raise ValueError(f"not all of {values} are finite")
    half = 0.0
    if count > 1:
        half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return Figures(mean, mean - half, mean + half, tuple(map(float, values)))


@dataclass(frozen=True)
class Finding:
    """What an experiment found.

    Attributes:
        verdict: whether the claim holds.
        because: one sentence with the figures that decided it.
        figures: what was measured, as JSON holds it.
        table: the main figures as lines of cells, the first of them the heads.
        picture: the figure.
    """

    verdict: Verdict
    because: str
    figures: dict[str, Any]
    table: Sequence[Sequence[object]]
    picture: Figure


@dataclass(frozen=True)
class Experiment:
    """A claim to be tested.

    Attributes:
        name: of its files, as in `what-if`.
        claim: the claim, in one sentence.
    """

    name: str
    claim: str

    def run(self, find: Callable[[Config], Finding], flags: type[Config]) -> int:
        """Read the flags, find out, and publish; return the exit code.

        Args:
            find: measures and concludes; called again, it goes on with what is there.
            flags: that it has.
        """
        return run(lambda config: self._conduct(find, config), flags)

    def _conduct(self, find: Callable[[Config], Finding], config: Config) -> None:
        """Find out, and publish it with the time of all calls that it took."""
        name = f"{self.name}{'-smoke' * config.smoke}"
        path = config.work / f"{name}-seconds.json"  # --out may be the same folder
        with counted(path, time.monotonic):
            finding = find(config)
        self.publish(config, finding, seconds_in(path) / 60)

    def publish(self, config: ExperimentConfig, finding: Finding, minutes: float) -> None:
        """Write record and figure, and bring the pages up to date; print the verdict.

        Args:
            config: the flags.
            finding: what was found.
            minutes: that it took.
        """
        record = {
            "experiment": self.name,
            "claim": self.claim,
            "verdict": finding.verdict,
            "because": finding.because,
            "smoke": config.smoke,
            "seeds": list(config.seeds),
            "figures": finding.figures,
            "minutes": round(minutes, 1),
            "command": f"python experiments/{command()}",
            "versions": versions(),
            "machine": machine(),
        }
        table = markdown(finding.table)
        folder = config.folder
        write_png((folder or PAGES) / f"{self.name}.png", finding.picture)
        write_json((folder or RESULTS) / f"{self.name}.json", record)
        if folder is None:
            page = PAGES / f"{self.name}.md"
            text = page.read_text(encoding="utf-8")
            write_text(page, fill_markers(text, {"result": f"{table}\n\n{origin(record)}"}))
            summarise()
        console.print(f"{table}\n\n{self.claim}\n{finding.verdict}: {finding.because}")
        console.print(str((folder or RESULTS) / f"{self.name}.json"))


@contextlib.contextmanager
def counted(path: Path, clock: Callable[[], float]) -> Iterator[None]:
    """Add what a block takes to the seconds that a file holds, also if it is interrupted.

    Args:
        path: of the file.
        clock: returns seconds.

    Raises:
        UserError: the file is damaged.
    """
    before, began = seconds_in(path), clock()
    try:
        yield
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"seconds": round(before + clock() - began, 1)})


def seconds_in(path: Path) -> float:
    """Return the seconds that `counted` has written, 0 if there is no such file."""
    return read_json(path, f"delete {path}").get("seconds", 0.0) if path.exists() else 0.0


def origin(record: dict[str, Any]) -> str:
    """Return how a result was made, as a line of Markdown."""
    return (
        f"**Verdict: {record['verdict']}.** {record['because']}\n\n"
        f"`{record['command']}`, {record['minutes']:.0f} minutes on {record['machine']['cores']} "
        f"cores of {record['machine']['processor']}; seeds {', '.join(map(str, record['seeds']))}; "
        f"[all figures](../../experiments/results/{record['experiment']}.json)."
    )


def summarise(results: Path = RESULTS, page: Path = SUMMARY) -> None:
    """Bring the table of all verdicts up to date.

    Raises:
        UserError: a result is damaged, or the page has lost its markers.
    """
    rows: list[list[object]] = [["claim", "verdict", "because"]]
    for path in sorted(results.glob("*.json")):
        record = read_json(path, "run the experiment again")
        link = f"[{record['claim']}](experiments/{record['experiment']}.md)"
        rows.append([link, f"**{record['verdict']}**", record["because"]])
    text = page.read_text(encoding="utf-8")
    write_text(page, fill_markers(text, {"verdicts": markdown(rows)}))


def markdown(rows: Sequence[Sequence[object]]) -> str:
    """Return lines of cells as a table in Markdown."""
    heads, *others = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *others))


def agents(
    config: ExperimentConfig, tasks: Sequence[str], *flags: str, name: str = ""
) -> dict[str, dict[int, Path]]:
    """Return the folder of the agent of each task and seed; those that are not there are trained.

    The shipped agents are those of seed 0. The others are trained two at a time, on one thread
    each; an interrupted training is gone on with. With --smoke they learn next to nothing.

    Args:
        config: seeds, and where the trainings go.
        tasks: which, those first that take longest.
        flags: of `mujepa train`, beside task and seed.
        name: of trainings with such flags, to tell them from those without.

    Raises:
        UserError: a training failed.
    """
    flags, name = (TOY, "-toy") if config.smoke else (flags, name)
    folders = {
        task: {
            seed: SHIPPED / task if seed == 0 else config.work / f"{task}-seed{seed}{name}"
            for seed in config.seeds
        }
        for task in tasks
    }

    def train(task: str, seed: int) -> None:
        out = folders[task][seed]
        settings = f"--out {out} --data {out}-data --threads 1 --workers 1 --resume".split()
        told = [sys.executable, "-m", "mujepa.cli", "train", task, "--seed", str(seed)]
        log = out.with_name(f"{out.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            done = subprocess.run([*told, *settings, *flags], stdout=file, stderr=file, check=False)
        if done.returncode:
            raise UserError(f"training {out} failed; {log} says why")

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(train, task, seed) for task in tasks for seed in config.seeds if seed]
        for job in jobs:
            job.result()
    return folders


def plain(figures: dict[str, Figures]) -> dict[str, Any]:
    """Return figures as JSON holds them."""
    return {name: asdict(value) for name, value in figures.items()}


if __name__ == "__main__":
    summarise()
    sys.exit(0)
