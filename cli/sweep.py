"""Try several settings of the training of a task, and find the best."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluate import evaluate
from mujepa.evaluation.comparison import compare_all, write_comparison
from mujepa.evaluation.config import EvaluateConfig
from mujepa.evaluation.result import Result, read_result
from mujepa.runtime import console
from mujepa.runtime.cluster import LOCAL, RETRIES, Caller, Cluster, connect, perform
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import make_folder, read_json, write_json
from mujepa.runtime.provenance import command, versions
from mujepa.train import learn_quietly, provide
from mujepa.training.config import TrainConfig
from mujepa.training.state import check_settings, read_metrics
from mujepa.training.trainer import STAGE_SHARE, make_networks

METRIC, TIME = "candidate_ranking", "percent"
FIRST_LOOK, KEPT = 25, 2
"""Per cent of a run after which it may be pruned first, and one in how many is kept then; again
after twice the time, and so on."""
FRESH_SEED = 1
"""Seed of the episodes that the best is judged on once more; all are judged on those of 0."""
FIXED = {
    "task", "out", "resume", "cluster", "processes", "workers", "wandb", "threads", "device"
}  # fmt: skip
"""What cannot differ between the runs of a sweep."""


@dataclass(frozen=True)
class SweepConfig(TrainConfig):
    """Train a task with several settings, judge each agent, and compare them.

    Takes every flag of `mujepa train`, and what is to differ:

        mujepa sweep reacher --out runs/sweep --try learning-rate=1e-3,2e-3,4e-3 batch=64,128

    trains all six combinations; `--runs 4` draws four of them. `--try learning-rate=1e-4:1e-2:log
    --runs 8` draws eight from a range. Each run is a folder of `mujepa train` with its
    evaluation; the comparison of all, best first, is written beside them. The runs are tasks of Ray
    (`pip install 'mujepa[cluster]'`), on this machine unless `--cluster` says where; each has one
    thread unless `--threads` says more.
    """

    out: Path
    """Folder of the sweep: sweep.json, comparison.html, best/ and a folder for each run."""
    tried: Annotated[tuple[str, ...], tyro.conf.arg(name="try")] = ()
    """What differs between runs: FLAG=VALUE,VALUE,..., FLAG=LOW:HIGH (drawn evenly) or
    FLAG=LOW:HIGH:log (evenly in the logarithm), for flags of `mujepa train` without dashes."""
    runs: int | None = None
    """How many settings to draw; by default all combinations of the values."""
    prune: bool = True
    """Stop runs early whose costs rank worse than those of others at the same point of training."""
    judged_episodes: int = 100
    """Episodes that each agent is judged on."""
    resume: bool = False
    """Go on where the sweep in --out stopped: what is done stays, what was begun goes on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tried:
            raise UserError("--try says what is to differ, as in: --try learning-rate=1e-3,2e-3")
        if self.online:
            raise UserError("a sweep tries settings on data that are there; leave --online out")
        for name in ("runs", "judged_episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        plain = asdict(TrainConfig(self.task, self.out))
        for one in self.tried:
            flag = read_choice(one).flag
            if flag in FIXED or flag not in _flags(plain):
                raise UserError(f"--try {one}: {flag!r} is no flag of mujepa train that can differ")


@dataclass(frozen=True)
class Choice:
    """What a flag may be: one of some values, or a number in a range."""

    flag: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def draw(self, rng: np.random.Generator) -> str:
        """Draw a value."""
        if self.values:
            return self.values[rng.integers(len(self.values))]
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        drawn = float(rng.uniform(low, high))
        drawn = math.exp(drawn) if self.log else drawn
        return str(round(drawn)) if self.whole else f"{drawn:.4g}"


@dataclass(frozen=True)
class Run:
    """One run of a sweep: the name of its folder, what is its own, and all of its settings."""

    name: str
    tried: dict[str, str]
    config: TrainConfig

    @property
    def label(self) -> str:
        """What it is called where it stands beside others."""
        return f"{self.name}: " + ", ".join(f"{flag}={value}" for flag, value in self.tried.items())


def sweep(config: SweepConfig) -> None:
    """Run the sweep that a configuration describes; see `mujepa sweep --help`.

    Raises:
        UserError: bad input, no Ray, or results that cannot be written.
    """
    runs = plan_runs(config)
    for one in runs:
        make_networks(one.config, World(find_task(one.config.task_name)))
    with connect(config.cluster or LOCAL, config.workers) as cluster:
        assert isinstance(cluster, Cluster)
        ledger = Ledger(config, runs)
        for one in {run.config.dataset: run for run in runs}.values():
            provide(one.config, config.cluster or LOCAL)
        _train_all(cluster, config, runs, ledger)
        _report(config, runs, ledger)


def plan_runs(config: SweepConfig) -> list[Run]:
    """Return the runs, the same for the same configuration.

    Raises:
        UserError: a range without a number of runs, or runs that need different data.
    """
    choices = [read_choice(one) for one in config.tried]
    if len({choice.flag for choice in choices}) < len(choices):
        raise UserError("--try names a flag twice; give all of its values at once")
    base = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    plain = TrainConfig(**(base | {"resume": False, "cluster": None}))
    ranges = [choice.flag for choice in choices if not choice.values]
    if ranges and config.runs is None:
        raise UserError(f"--try {ranges[0]} is a range; --runs says how many values to draw")
    rng = np.random.default_rng([config.seed, 7])
    if ranges:
        drawn = [[choice.draw(rng) for choice in choices] for _ in range(config.runs or 0)]
    else:
        drawn = list(itertools.product(*(choice.values for choice in choices)))
        if config.runs is not None and config.runs < len(drawn):
            kept = sorted(rng.choice(len(drawn), config.runs, replace=False).tolist())
            drawn = [drawn[index] for index in kept]
    runs = []
    for index, values in enumerate(drawn):
        name = f"run-{index:03d}"
        tried = dict(zip((choice.flag for choice in choices), values, strict=True))
        words = [word for flag, value in tried.items() for word in (f"--{flag}", value)]
        given = replace(plain, out=config.out / name, threads=config.threads or 1)
        runs.append(Run(name, tried, tyro.cli(TrainConfig, args=words, default=given)))
    episodes: dict[Path | str, int | None] = {}
    for one in runs:
        if episodes.setdefault(one.config.dataset, one.config.episodes) != one.config.episodes:
            raise UserError(
                f"--try episodes: the runs share {one.config.dataset}, all of which is used; "
                "collect data of each size, and --try data=FOLDER,FOLDER"
            )
    return runs


def read_choice(text: str) -> Choice:
    """Read FLAG=VALUE,VALUE or FLAG=LOW:HIGH or FLAG=LOW:HIGH:log.

    Raises:
        UserError: it is none of them.
    """
    flag, _, values = text.partition("=")
    flag = flag.removeprefix("--").replace("_", "-")
    if not flag or not values:
        raise UserError(f"--try {text} is neither FLAG=VALUE,VALUE nor FLAG=LOW:HIGH")
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
    found = re.fullmatch(rf"({number}):({number})(:log)?", values, re.IGNORECASE)
    if found is None:
        return Choice(flag, tuple(value.strip() for value in values.split(",")))
    low, high, log = float(found[1]), float(found[2]), found[3] is not None
    if not low < high or (log and low <= 0):
        raise UserError(f"--try {text}: the range must go upwards{' from above 0' * log}")
    whole = all(end.lstrip("+-").isdigit() for end in (found[1], found[2]))
    return Choice(flag, (), low, high, log, whole)


class Ledger:
    """sweep.json: what is tried, and what became of each run.

    Args:
        config: of the sweep.
        runs: of it.

    Raises:
        UserError: the folder holds another sweep, or `--resume` was not asked for.
    """

    def __init__(self, config: SweepConfig, runs: list[Run]) -> None:
        self._path = config.out / "sweep.json"
        plain = json.loads(json.dumps([run.config.settings() for run in runs], default=str))
        settings = [{k: v for k, v in one.items() if k != "workers"} for one in plain]
        self._content: dict[str, Any] = {
            "command": command(),
            "judged_episodes": config.judged_episodes,
            "runs": [{"name": run.name, "tried": run.tried, "state": "waiting"} for run in runs],
            "settings": settings,
            "versions": versions(),
        }
        if self._path.exists():
            if not config.resume:
                raise UserError(
                    f"{config.out} holds a sweep already; "
                    "continue it with --resume or choose another --out"
                )
            there = read_json(self._path, f"delete {config.out} and sweep anew")
            for key in ("settings", "judged_episodes"):
                if there.get(key) != self._content[key]:
                    raise UserError(
                        f"{config.out} was begun with other {key.replace('_', ' ')}; "
                        "resume it with the same command"
                    )
            self._content["runs"] = there["runs"]
        self._write()

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Return what is known of a run."""
        return next(run for run in self._content["runs"] if run["name"] == name)

    @property
    def waiting(self) -> int:
        """How many runs are left."""
        return sum(run["state"] == "waiting" for run in self._content["runs"])

    def note(self, name: str, **known: Any) -> None:  # noqa: ANN401
        """Keep what became of a run."""
        self[name].update(known)
        self._write()

    def conclude(self, **found: Any) -> None:  # noqa: ANN401
        """Keep what came of it all."""
        self._content.update(found)
        self._write()

    def _write(self) -> None:
        make_folder(self._path.parent)
        write_json(self._path, self._content)


def _train_all(cluster: Cluster, config: SweepConfig, runs: list[Run], ledger: Ledger) -> None:
    """Let Ray Tune train and judge what is left, and prune."""
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the sweep here
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one cannot be silenced
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    left = [run for run in runs if ledger[run.name]["state"] == "waiting"]
    if not left:
        return

    class Watch(tune.Callback):
        """Keeps what became of a run as soon as it ends."""

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ANN401
            one, last = runs[trial.config["run"]], trial.last_result
            if ledger[one.name]["state"] == "waiting":
                state = last.get("state", "pruned")
                told = {key: last[key] for key in (METRIC, TIME, "reason") if key in last}
                ledger.note(one.name, state=state, **told)
                reason = f" ({told['reason']})" if "reason" in told else ""
                console.print(f"{one.label}: {state}{reason}, {ledger.waiting} of {len(runs)} left")

    cores = max(run.config.threads for run in runs)
    resources: dict[str, float] = {
        "cpu": min(cores, cluster.cores), "gpu": cluster.accelerators(config.device)
    }  # fmt: skip
    states = {run.name: ledger[run.name]["state"] for run in runs}
    trial = tune.with_parameters(
        _trial, caller=Caller(), runs=runs, states=states,
        config=config,
    )  # fmt: skip
    scratch = (config.out / ".tune").absolute()
    # What was trained before tells its records again, so that the scheduler knows them.
    told = [i for i, run in enumerate(runs) if states[run.name] in ("done", "pruned")]
    order = told + [runs.index(run) for run in left]
    scheduler = FIFOScheduler()
    if config.prune:
        scheduler = ASHAScheduler(
            time_attr=TIME, metric=METRIC, mode="max", max_t=101, grace_period=FIRST_LOOK,
            reduction_factor=KEPT,
        )  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        param_space={"run": tune.grid_search(order)},
        tune_config=tune.TuneConfig(
            scheduler=scheduler, reuse_actors=False, max_concurrent_trials=config.workers or None
        ),
        run_config=tune.RunConfig(
            name="sweep", storage_path=str(scratch), verbose=0, callbacks=[Watch()],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )  # fmt: skip
    try:
        results = tuner.fit()
    except KeyboardInterrupt:
        console.print(f"interrupted; --resume goes on with what is left in {config.out}")
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for error in results.errors:
        raise UserError(f"a run was lost again and again ({error}); --resume goes on")


def _trial(
    settings: dict[str, int],
    caller: Caller,
    runs: list[Run],
    states: dict[str, str],
    config: SweepConfig,
) -> None:
    """Train and judge one run; what a worker of a cluster does."""
    from ray import tune

    one = runs[settings["run"]]

    def tell(record: dict[str, Any]) -> None:
        if METRIC in record:
            tune.report({METRIC: record[METRIC], TIME: percent(one.config, record)})

    def work() -> None:
        for record in read_metrics(one.config.out / "metrics.jsonl"):
            tell(record)
        if states[one.name] != "waiting":
            return
        try:
            check_settings(one.config.out, one.config.settings(), resume=True)
            learn_quietly(replace(one.config, resume=True), tell)
            _judge(config, one.config, one.config.out / "evaluation", 0, None)
        except UserError as error:
            tune.report({METRIC: -1.0, TIME: 100, "state": "failed", "reason": str(error)})
        else:
            records = read_metrics(one.config.out / "metrics.jsonl")
            rank = next(one[METRIC] for one in reversed(records) if METRIC in one)
            tune.report({METRIC: rank, TIME: 100, "state": "done"})

    perform(caller, work)


def percent(config: TrainConfig, record: dict[str, Any]) -> int:
    """Return how far a run is at a record, by the time that stages take [%]."""
    shares = [STAGE_SHARE[name] for name in config.stage_updates]
    stage = record["stage_index"]
    within = shares[stage] * record["update"] / list(config.stage_updates.values())[stage]
    return round(100 * (sum(shares[:stage]) + within) / sum(shares))


def _judge(config: SweepConfig, one: TrainConfig, out: Path, seed: int, where: str | None) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # the sweep has a table of its own
        evaluate(
            EvaluateConfig(
                one.out, episodes=config.judged_episodes, seed=seed, vary=one.vary, oracle=False,
                out=out, device=one.device, cluster=where,
            )
        )  # fmt: skip


def _report(config: SweepConfig, runs: list[Run], ledger: Ledger) -> None:
    """Compare what is done, best first, and judge the best on other episodes than it was chosen by.

    Raises:
        UserError: nothing is done.
    """
    done = [run for run in runs if ledger[run.name]["state"] == "done"]
    if not done:
        raise UserError(f"no run came to its end; {config.out / 'sweep.json'} says why")
    results = {one.name: read_result(one.config.out) for one in done}
    done.sort(key=lambda run: _rank(results[run.name]))
    best, where = done[0], config.out / "best"
    _judge(config, best.config, where, FRESH_SEED, config.cluster or LOCAL)
    chosen, fresh = (found.success_at_end for found in (results[best.name], read_result(where)))
    count = config.judged_episodes
    text = (
        f"Best of {len(runs)}: {best.label}. It held {chosen} of the {count} episodes that it was "
        f"chosen by, and {fresh} of {count} others, which is what to expect of it."
    )
    found = compare_all([(one.label, results[one.name]) for one in done])
    write_comparison(config.out / "comparison.html", found, command(), text)
    provenance = {"command": command(), "versions": versions()}
    write_json(config.out / "comparison.json", asdict(found) | provenance)
    for one in done:
        ledger.note(one.name, success_at_end=asdict(results[one.name].success_at_end))
    ledger.conclude(
        best={
            "name": best.name,
            "tried": best.tried,
            "success_at_end": asdict(chosen),
            "fresh_success_at_end": asdict(fresh),
        }
    )
    for one in done:
        console.print(f"{results[one.name].success_at_end}  {one.label}")
    console.print(text)
    console.print(f"{config.out / 'comparison.html'}  {config.out / 'sweep.json'}")


def _rank(result: Result) -> tuple[float, float, float]:
    """Return what the best result is least in."""
    held, reached = result.success_at_end.rate, result.success_any.rate
    return -held, -reached, result.median_final_distance


def _flags(settings: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the names of the flags of settings."""
    for name, value in settings.items():
        flag = above + name.replace("_", "-")
        if isinstance(value, dict):
            yield from _flags(value, f"{flag}.")
        else:
            yield flag


if __name__ == "__main__":
    sys.exit(run(sweep, SweepConfig))
