"""What all experiments share: flags, record, figure and page.

An experiment tests one claim. It trains or measures with each of its seeds, and publishes

- `experiments/results/NAME.json`: claim, verdict, estimates with intervals, provenance;
- `docs/experiments/NAME.png`: one figure;
- the table between `<!-- result -->` and `<!-- /result -->` of `docs/experiments/NAME.md`, and the
  table of all experiments in `docs/does-it-hold.md`.

`--smoke` runs everything at a small size that does not test the claim, and writes to a folder of
its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from pydantic import Field
from scipy.stats import t

from mujepa.benchmarks.markers import fill_markers
from mujepa.evaluation.report import write_png
from mujepa.runtime import console
from mujepa.runtime.command import read, run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json, write_text
from mujepa.runtime.parallel import Pool
from mujepa.runtime.provenance import command, machine, versions
from mujepa.runtime.settings import Count, Seed, settings
from mujepa.train import train
from mujepa.training.config import TrainConfig
from mujepa.training.losses import ExtraTerm

mpl.use("Agg")

ROOT = Path(__file__).parents[1]
RESULTS, PAGES = ROOT / "experiments" / "results", ROOT / "docs" / "experiments"
SUMMARY = ROOT / "docs" / "does-it-hold.md"
SHIPPED = ROOT / "pretrained"
TOY = (
    *("--episodes", "12", "--updates", "2", "--batch", "8", "--ensemble-updates", "2"),
    *("--critic-updates", "2", "--actor-updates", "2"),
)
"""Flags of trainings that take seconds and learn next to nothing."""

Verdict = Literal["holds", "holds in part", "fails", "undecided"]


@settings
class ExperimentConfig:
    """Flags of every experiment."""

    smoke: bool = False
    """Run at a small size, to show that everything works; the results do not test the claim."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    """Seeds of training and data; one result each."""
    work: Path = ROOT / "runs" / "experiments"
    """Folder of data and trainings; an interrupted experiment continues from what is there."""
    jobs: Count = 2
    """Trainings at a time, each with one thread."""
    out: Path | None = None
    """Folder of record and figure; the pages are not changed. Default: experiments/results and
    docs/experiments, or with --smoke the folder `smoke` within --work."""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"--seeds {' '.join(map(str, self.seeds))}: give different numbers")

    @property
    def folder(self) -> Path | None:
        """Folder of the results; None stands for their places in the repository."""
        return self.out or (self.work / "smoke" if self.smoke else None)


Config = TypeVar("Config", bound=ExperimentConfig)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Estimate:
    """A quantity measured with several seeds.

    Attributes:
        mean: over the seeds.
        low: lower end of its 95 % interval.
        high: upper end.
        seeds: value of each seed.
    """

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean over seeds with its 95 % interval by Student's t; one seed has no interval.

    Raises:
        ValueError: a value is not finite.
    """
    mean, count = float(np.mean(values)), len(values)
    if not math.isfinite(mean):
        raise ValueError(f"not all of {values} are finite")
    half = 0.0
    if count > 1:
        half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return Estimate(mean, mean - half, mean + half, tuple(map(float, values)))


@dataclass(frozen=True)
class Finding:
    """The result of an experiment.

    Attributes:
        verdict: whether the claim holds.
        because: one sentence with the numbers that decided it.
        figures: all numbers, as JSON holds them.
        table: the main numbers as rows of cells; the first row holds the heads.
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
        name: name of its files, such as `what-if`.
        claim: one sentence.
    """

    name: str
    claim: str

    def run(self, measure: Callable[[Config], Finding], flags: type[Config]) -> int:
        """Read the flags, measure and publish; return the exit code.

        Args:
            measure: measures and concludes; a second call continues from what is there.
            flags: class of its configuration.
        """
        return run(lambda config: self._conduct(measure, config), flags)

    def _conduct(self, measure: Callable[[Config], Finding], config: Config) -> None:
        name = f"{self.name}{'-smoke' * config.smoke}"
        path = config.work / f"{name}-seconds.json"  # --out may be the same folder
        with timed(path, time.monotonic):
            finding = measure(config)
        self.publish(config, finding, seconds_in(path) / 60)

    def publish(self, config: ExperimentConfig, finding: Finding, minutes: float) -> None:
        """Write record and figure, update the pages, and print the verdict.

        Args:
            config: the flags.
            finding: the result.
            minutes: duration of all calls that it took.
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
            update_summary()
        console.print(f"{table}\n\n{self.claim}\n{finding.verdict}: {finding.because}")
        console.print(str((folder or RESULTS) / f"{self.name}.json"))


@contextlib.contextmanager
def timed(path: Path, clock: Callable[[], float]) -> Iterator[None]:
    """Add the duration of a block to the seconds that a file holds, also if it is interrupted.

    Args:
        path: the file.
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
    """Return the seconds in a file that `timed` wrote, 0 if there is none."""
    return read_json(path, f"delete {path}").get("seconds", 0.0) if path.exists() else 0.0


def origin(record: dict[str, Any]) -> str:
    """Return verdict and provenance of a result as Markdown."""
    return (
        f"**Verdict: {record['verdict']}.** {record['because']}\n\n"
        f"`{record['command']}`, {record['minutes']:.0f} minutes on {record['machine']['cores']} "
        f"cores of {record['machine']['processor']}; seeds {', '.join(map(str, record['seeds']))}; "
        f"[all figures](../../experiments/results/{record['experiment']}.json)."
    )


def update_summary(results: Path = RESULTS, page: Path = SUMMARY) -> None:
    """Rewrite the table of all verdicts.

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
    """Return rows of cells as a Markdown table."""
    heads, *others = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *others))


def train_agents(
    config: ExperimentConfig, tasks: Sequence[str], *flags: str, name: str = ""
) -> dict[str, dict[int, Path]]:
    """Return the folder of the agent of each task and seed, trained if it is missing.

    The shipped agents have seed 0. The others are trained several at a time; an interrupted
    training continues. With --smoke they learn next to nothing.

    Args:
        config: seeds, and where the trainings go.
        tasks: tasks, the slowest first.
        flags: flags of `mujepa train`, besides task and seed.
        name: suffix of trainings with such flags, to tell them from those without.
    """
    flags, name = (TOY, "-toy") if config.smoke else (flags, name)
    folders = {
        task: {
            seed: SHIPPED / task if seed == 0 else config.work / f"{task}-seed{seed}{name}"
            for seed in config.seeds
        }
        for task in tasks
    }

    parts = []
    for task in tasks:
        for seed, out in folders[task].items():
            options = f"--out {out} --data {out}-data --threads 1 --workers 1 --resume".split()
            settings = read(TrainConfig, [task, "--seed", str(seed), *options, *flags])
            if seed:
                parts.append((settings, out.with_name(f"{out.name}.log")))
    map_parts(config, train_logged, parts)
    return folders


def map_parts(
    config: ExperimentConfig, function: Callable[..., Result], parts: Sequence[tuple[Any, ...]]
) -> list[Result]:
    """Call a function for each part, several at a time in processes, or here with --smoke."""
    if config.smoke:
        return [function(*part) for part in parts]
    results = dict(Pool(config.jobs).map(function, parts))
    return [results[index] for index in range(len(parts))]


def train_logged(config: TrainConfig, log: Path, terms: Sequence[ExtraTerm] = ()) -> None:
    """Train in this process, with the output in a log file; `terms` are added to the loss."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        train(config, terms)


def as_json(estimates: dict[str, Estimate]) -> dict[str, Any]:
    """Return estimates as JSON holds them."""
    return {name: asdict(value) for name, value in estimates.items()}


if __name__ == "__main__":
    update_summary()
    sys.exit(0)
