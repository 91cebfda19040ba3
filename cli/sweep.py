"""`mujepa sweep`: train a task with several settings, evaluate each agent, and compare them.

Ray Tune prunes the trainings by ASHA (arXiv:1810.05934). A resumed sweep reports the records of
each run to the scheduler again, and continues the runs that have no evaluation yet.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from mujepa.cli.compare import write_pages
from mujepa.evaluate import evaluate
from mujepa.evaluation.config import EvaluateConfig
from mujepa.evaluation.result import Result, read_result
from mujepa.runtime import console
from mujepa.runtime.cluster import LOCAL, RETRIES, Caller, Cluster, connect, perform
from mujepa.runtime.command import flag_names
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import make_folder, read_json, write_json
from mujepa.runtime.provenance import command, versions
from mujepa.runtime.seeds import Stream, stream
from mujepa.runtime.settings import Count, settings
from mujepa.training.config import TrainConfig
from mujepa.training.progress import check_settings, read_metrics
from mujepa.training.run import check_networks, learn_quietly, prepare_dataset
from mujepa.training.trainer import STAGES, stages_of

METRIC, TIME = "candidate_ranking", "percent"
GRACE, KEPT = 25, 2  # compares runs at 25, 50 and 100 %, and continues every second one
NEW_SEED = 1  # of the episodes on which the best agent is evaluated again
FIXED = {  # flags that cannot differ between runs; `--try data=FOLDER,FOLDER` is for episodes
    "task", "out", "episodes", "resume", "cluster", "processes", "workers", "wandb", "threads",
    "device",
}  # fmt: skip


@settings
class SweepConfig(TrainConfig):
    """Train a task with several settings, evaluate each agent, and compare them.

    Takes every flag of `mujepa train`, and the settings to try:

        mujepa sweep reacher --out runs/sweep --try learning-rate=1e-3,2e-3,4e-3 batch=64,128

    trains all six combinations; `--runs 4` draws four of them. Each run is a folder of `mujepa
    train` with its evaluation. The runs are tasks of Ray (`pip install 'mujepa[cluster]'`), on this
    machine unless `--cluster` is given; each has one thread unless `--threads` is given.
    """

    out: Path
    """Folder of the sweep: sweep.json, comparison.html, best/ and a folder for each run."""
    tried: Annotated[tuple[str, ...], tyro.conf.arg(name="try")] = ()
    """Settings to try: FLAG=VALUE,VALUE,... for flags of `mujepa train`, without dashes."""
    runs: Count | None = None
    """Number of combinations to draw; by default all are trained."""
    prune: bool = True
    """Stop runs early that rank worse than others at the same point of training."""
    evaluation_episodes: Count = 100
    """Episodes of each evaluation."""
    resume: bool = False
    """Continue the sweep in --out: finished runs stay, unfinished ones continue."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tried:
            raise UserError("--try names what to try, as in: --try learning-rate=1e-3,2e-3")
        if self.online:
            raise UserError("the runs of a sweep share one dataset; leave --online out")
        for text in self.tried:
            read_choice(text)


@dataclass(frozen=True)
class Run:
    """One run of a sweep: the name of its folder, the settings tried, and all settings."""

    name: str
    tried: dict[str, str]
    config: TrainConfig

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        return f"{self.name}: " + ", ".join(f"{flag}={value}" for flag, value in self.tried.items())

    @property
    def finished(self) -> bool:
        """Whether it was trained and evaluated."""
        return (self.config.out / "evaluation" / "result.json").exists()


def sweep(config: SweepConfig) -> None:
    """Run the sweep that a configuration describes; see `mujepa sweep --help`."""
    runs = plan_runs(config)
    for one in runs:  # settings that do not fit are an error before anything is written
        check_networks(one.config)
    with connect(config.cluster or LOCAL, config.workers) as cluster:
        assert isinstance(cluster, Cluster)
        content = _begin(config, runs)
        for one in {run.config.dataset: run for run in runs}.values():
            prepare_dataset(one.config, config.cluster or LOCAL)
        found = _train_runs(cluster, config, runs)
        content["runs"] = [
            {"name": one.name, "tried": one.tried, **facts}
            for one, facts in zip(runs, found, strict=True)
        ]
        write_json(config.out / "sweep.json", content)
        _report(config, runs, content)


def plan_runs(config: SweepConfig) -> list[Run]:
    """Return the runs, the same for the same configuration; raise UserError for a bad value."""
    tried = [read_choice(text) for text in config.tried]
    if len({flag for flag, _ in tried}) < len(tried):
        raise UserError("--try names a flag twice; give all of its values at once")
    combinations = list(itertools.product(*(values for _, values in tried)))
    if config.runs is not None and config.runs < len(combinations):
        rng = stream(config.seed, Stream.SWEEP)
        kept = sorted(rng.choice(len(combinations), config.runs, replace=False).tolist())
        combinations = [combinations[index] for index in kept]
    base: dict[str, Any] = {
        field.name: getattr(config, field.name) for field in fields(TrainConfig)
    }
    base |= {"resume": False, "cluster": None, "threads": config.threads or 1}
    runs = []
    for index, values in enumerate(combinations):
        name = f"run-{index:03d}"
        chosen = dict(zip((flag for flag, _ in tried), values, strict=True))
        words = [word for flag, value in chosen.items() for word in (f"--{flag}", value)]
        given = replace(TrainConfig(**base), out=config.out / name)
        runs.append(Run(name, chosen, tyro.cli(TrainConfig, args=words, default=given)))
    return runs


def read_choice(text: str) -> tuple[str, list[str]]:
    """Return the flag and the values of FLAG=VALUE,VALUE,..., or raise UserError."""
    flag, _, values = text.partition("=")
    flag = flag.removeprefix("--").replace("_", "-")
    if not flag or not values:
        raise UserError(f"--try {text} is not FLAG=VALUE,VALUE")
    if flag in FIXED or flag not in flag_names(TrainConfig):
        raise UserError(f"--try {text}: {flag!r} is no flag of mujepa train that can vary")
    return flag, [value.strip() for value in values.split(",")]


def _begin(config: SweepConfig, runs: list[Run]) -> dict[str, Any]:
    """Write sweep.json, or check that the one of a resumed sweep has the same settings."""
    path = config.out / "sweep.json"
    all_settings = [one.config.settings() | {"workers": 0} for one in runs]
    found = {"evaluation_episodes": config.evaluation_episodes, "settings": all_settings}
    found = json.loads(json.dumps(found, default=str))
    if path.exists():
        if not config.resume:
            raise UserError(
                f"{config.out} holds a sweep already; "
                "continue it with --resume or choose another --out"
            )
        there = read_json(path, f"delete {config.out} and sweep anew")
        if any(there.get(key) != value for key, value in found.items()):
            raise UserError(
                f"{config.out} was begun with other settings; resume it with the same command"
            )
    make_folder(config.out)
    found |= {"command": command(), "versions": versions()}
    write_json(path, found)
    return found


def _train_runs(cluster: Cluster, config: SweepConfig, runs: list[Run]) -> list[dict[str, Any]]:
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is handled below
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output cannot be silenced
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    found: list[dict[str, Any]] = [{} for _ in runs]

    class Watch(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:  # noqa: ANN401
            index, last = trial.config["run"], {"state": "pruned"} | trial.last_result
            if runs[index].finished:  # though the scheduler may have pruned what it reported again
                last["state"] = "done"
            kept = ("state", METRIC, TIME, "reason")
            found[index].update({key: last[key] for key in kept if key in last})
            reason = f" ({last['reason']})" if "reason" in last else ""
            left = found.count({})
            console.print(
                f"{runs[index].label}: {last['state']}{reason}, {left} of {len(runs)} left"
            )

    scheduler = ASHAScheduler(
        time_attr=TIME, metric=METRIC, mode="max", max_t=101, grace_period=GRACE,
        reduction_factor=KEPT,
    )  # fmt: skip
    cores = min(max(run.config.threads for run in runs), cluster.cores)
    resources: dict[str, float] = {"cpu": cores, "gpu": cluster.accelerators(config.device)}
    trial = tune.with_parameters(
        _trial, caller=Caller(), runs=runs, episodes=config.evaluation_episodes
    )
    order = sorted(range(len(runs)), key=lambda index: not runs[index].finished)
    scratch = (config.out / ".tune").absolute()
    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        param_space={"run": tune.grid_search(order)},
        tune_config=tune.TuneConfig(
            scheduler=scheduler if config.prune else None, reuse_actors=False,
            max_concurrent_trials=config.workers or None,
        ),
        run_config=tune.RunConfig(
            name="sweep", storage_path=str(scratch), verbose=0, callbacks=[Watch()],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )  # fmt: skip
    try:
        results = tuner.fit()
    except KeyboardInterrupt:
        console.print(f"interrupted; --resume continues the runs that are left in {config.out}")
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for error in results.errors:
        raise UserError(f"a run was lost again and again ({error}); --resume continues it")
    return found


def _trial(params: dict[str, int], caller: Caller, runs: list[Run], episodes: int) -> None:
    perform(caller, _train_one, runs[params["run"]], episodes)


def _train_one(one: Run, episodes: int) -> None:
    """Report the earlier records of a run to the scheduler, and do what is left of it."""
    from ray import tune

    config, ranks = one.config, []

    def report(record: dict[str, Any]) -> None:
        if METRIC in record:
            ranks.append(record[METRIC])
            tune.report({METRIC: ranks[-1], TIME: percent(config, record)})

    for record in read_metrics(config.out / "metrics.jsonl"):
        report(record)
    if one.finished:
        return
    try:
        check_settings(config.out, config.settings(), resume=True)
        learn_quietly(replace(config, resume=True), report)
        _evaluate(config, episodes, config.out / "evaluation", 0)
    except UserError as error:
        tune.report({METRIC: -1.0, TIME: 100, "state": "failed", "reason": str(error)})
    else:
        tune.report({METRIC: ranks[-1], TIME: 100, "state": "done"})


def percent(config: TrainConfig, record: dict[str, Any]) -> int:
    """Return how far a run is at a record, by the usual duration of the stages [%]."""
    updates = stages_of(config)
    shares = [spec.share for spec in STAGES if spec.name in updates]
    stage = record["stage_index"]
    within = shares[stage] * record["update"] / list(updates.values())[stage]
    return round(100 * (sum(shares[:stage]) + within) / sum(shares))


def _evaluate(
    config: TrainConfig, episodes: int, out: Path, seed: int, cluster: str | None = None
) -> Result:
    with console.quiet():
        return evaluate(
            EvaluateConfig(
                config.out, episodes=episodes, seed=seed, vary=config.vary, oracle=False, out=out,
                device=config.device, cluster=cluster,
            )
        )  # fmt: skip


def _report(config: SweepConfig, runs: list[Run], content: dict[str, Any]) -> None:
    done = [(one, read_result(one.config.out)) for one in runs if one.finished]
    if not done:
        raise UserError(f"no run finished; {config.out / 'sweep.json'} says why")
    done.sort(key=lambda pair: _order(pair[1]), reverse=True)
    for one, result in done:
        console.print(f"{result.success_at_end}  {one.label}")
    best, selected = done[0]
    episodes = config.evaluation_episodes
    new = _evaluate(best.config, episodes, config.out / "best", NEW_SEED, config.cluster or LOCAL)
    text = (
        f"Best of {len(runs)}: {best.label}. Success {selected.success_at_end} on the {episodes} "
        f"episodes of the selection and {new.success_at_end} on {episodes} new ones; expect the "
        "latter."
    )
    write_pages(config.out, [(one.label, result) for one, result in done], text)
    content["best"] = {
        "name": best.name,
        "tried": best.tried,
        "success_at_end": asdict(selected.success_at_end),
        "new_success_at_end": asdict(new.success_at_end),
    }
    write_json(config.out / "sweep.json", content)
    console.print(text)
    console.print(f"{config.out / 'comparison.html'}  {config.out / 'sweep.json'}")


def _order(result: Result) -> tuple[float, float, float]:
    return result.success_at_end.rate, result.success_any.rate, -result.median_final_distance
