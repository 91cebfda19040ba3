"""Train an agent: collect experience if there is none, learn the world model and what uses it."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mujepa.agent.checkpoint import find_checkpoint
from mujepa.agent.device import choose_device
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.rollouts.collection import CollectConfig, collect, compare_specs, make_spec
from mujepa.rollouts.store import Dataset, DatasetSpec, read_meta
from mujepa.runtime import console, distributed
from mujepa.runtime.cluster import RETRIES, Cluster, connect, perform
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json
from mujepa.training.config import TrainConfig
from mujepa.training.data import load_training_data
from mujepa.training.losses import ExtraTerm
from mujepa.training.online import Online
from mujepa.training.state import check_settings, read_metrics
from mujepa.training.trainer import Training, make_networks

SAID = "said.json"
"""Where the first of several workers leaves what it says."""


def train(config: TrainConfig, extra_terms: Sequence[ExtraTerm] = ()) -> None:
    """Run the training that a configuration describes; see `mujepa train --help`.

    Under `torchrun`, together with its other processes: docs/scale.md.

    Raises:
        UserError: bad input, a full disk, or a loss that is not finite.
    """
    with distributed.together():
        _train(config, extra_terms)


def _train(config: TrainConfig, extra_terms: Sequence[ExtraTerm]) -> None:
    config.check_shares(max(distributed.count(), config.processes))
    if config.online and distributed.count() > 1:
        raise UserError("--online learns in one process; start it without torchrun")
    make_networks(config, World(find_task(config.task_name)))
    # What cannot be is said before anything is written.
    if config.cluster is None:
        choose_device(config.device, distributed.local_rank())
    elif distributed.count() > 1:
        raise UserError("torchrun has places of its own for its processes; leave --cluster out")
    if config.world_model:
        find_checkpoint(config.world_model)
    with connect(config.cluster, config.workers) as workers:
        if distributed.rank() == 0:
            check_settings(config.out, config.settings(), resume=config.resume)
            provide(config)
        distributed.wait()
        if isinstance(workers, Cluster):
            _learn_on(workers, config)
        else:
            learn(config, extra_terms=extra_terms)


def learn(
    config: TrainConfig,
    on_record: Callable[[dict[str, Any]], object] = lambda record: None,
    extra_terms: Sequence[ExtraTerm] = (),
) -> None:
    """Train on data that are there, in this process.

    Args:
        config: of the run; with `resume` it goes on where one in its folder stands.
        on_record: told of each record of metrics.jsonl once the checkpoint beside it is written.
        extra_terms: of the world model's loss, by an experiment.

    Raises:
        UserError: there are no data, the disk is full, or a loss is not finite.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device, distributed.local_rank())
    if config.online:
        Online(config, device).run()
        return
    experience = load_training_data(
        config.dataset,
        config.validation,
        config.seed,
        device,
        config.jepa.encoder.observes,
        config.planner.horizon,
    )
    Training(config, experience, on_record, extra_terms).run()


def _learn_on(cluster: Cluster, config: TrainConfig) -> None:
    """Train in one worker of a cluster or in several, and show how far they are."""
    most = max(1, cluster.cores // config.processes)
    cores = min(config.threads or most, most)
    # A worker that takes the place of a lost one goes on where that one stood.
    there = replace(config, resume=True, threads=config.threads or cores)
    need = {"cores": cores, "accelerators": cluster.accelerators(config.device)}

    def show() -> None:
        bar.update(_updates_done(config) - bar.n)

    if config.processes > 1:
        running = cluster.map(learn_together, [(there, need)], cores=0, meanwhile=show)
    else:
        running = cluster.map(learn_quietly, [(there,)], **need, meanwhile=show)
    bar = console.progress_bar(sum(config.stage_updates.values()), "train", _updates_done(config))
    try:
        with bar, closing(running):
            for _, said in running:
                bar.update(bar.total - bar.n)
                console.print(said)
    except KeyboardInterrupt:
        console.print(f"interrupted; --resume goes on from the last checkpoint in {config.out}")
        raise


def learn_quietly(
    config: TrainConfig, on_record: Callable[[dict[str, Any]], object] = lambda record: None
) -> str:
    """Train, and return what `learn` says; what a worker of a cluster does."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        learn(config, on_record)
    return said.getvalue().rstrip()


def learn_together(config: TrainConfig, need: dict[str, int]) -> str:
    """Train in several workers at once by Ray Train, and return what the first of them says.

    Args:
        config: of the run; its folder is on a disk that they share.
        need: `cores` and `accelerators` of each worker.

    Raises:
        UserError: as `learn` raised it, or workers were lost again and again.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    scratch = (config.out / ".train").absolute()
    trainer = TorchTrainer(
        _learn_one,
        train_loop_config={"config": config, "folder": str(Path.cwd()), "argv": sys.argv},
        torch_config=TorchConfig(backend="nccl" if need["accelerators"] else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.processes,
            use_gpu=bool(need["accelerators"]),
            resources_per_worker={"CPU": need["cores"], "GPU": need["accelerators"]},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=RETRIES),
        ),
    )
    try:
        trainer.fit()
        found = read_json(scratch / SAID, "run the same command again with --resume")
    except TrainingFailedError as error:
        raise UserError(f"workers were lost again and again ({error}); --resume goes on") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if "error" in found:
        raise UserError(found["error"])
    return found["said"]


def _learn_one(task: dict[str, Any]) -> None:
    """Train as one of several processes; the first leaves what it says, or what is wrong."""
    config: TrainConfig = task["config"]

    def work() -> None:
        try:
            found = {"said": learn_quietly(config)}
        except UserError as error:
            found = {"error": str(error)}
        if distributed.rank() == 0:
            write_json((config.out / ".train" / SAID).absolute(), found)

    perform(task["folder"], task["argv"], work)


def _updates_done(config: TrainConfig) -> int:
    """Return the updates up to the latest record."""
    records = read_metrics(config.out / "metrics.jsonl")
    if not records:
        return 0
    before = list(config.stage_updates.values())[: records[-1]["stage_index"]]
    return sum(before) + records[-1]["update"]


def provide(config: TrainConfig, cluster: str | None = None) -> None:
    """Collect what is missing, or check that a dataset that can only be read is what is wanted.

    Args:
        config: of the run.
        cluster: to collect on, if not that of the run.

    Raises:
        UserError: the dataset is another, or nothing can be collected.
    """
    place, spec = config.dataset, _spec(config)
    if isinstance(place, Path) and not (spec and spec.imported):
        collect(replace(collection(config), cluster=cluster or config.cluster))
        return
    assert spec
    if config.online:
        raise UserError(f"--online adds to its data, and {place} can only be read; leave out one")
    vary = config.vary or _flags(spec)
    wanted = make_spec(
        config.task_name, spec.seed, spec.steps, vary=vary, image_size=spec.image_size
    )
    compare_specs(place, spec, wanted, ["behaviour"], "choose another with --data")
    dataset = Dataset(place, verify=False)
    if config.episodes and config.episodes > len(dataset):
        raise UserError(
            f"--episodes {config.episodes}: {place} holds {len(dataset)}, and none can be added "
            "from here; leave the option out"
        )
    if not dataset.reached:
        console.print(f"cannot reach {place}; learning from what the cache holds of it")


def _spec(config: TrainConfig) -> DatasetSpec | None:
    """Return what the dataset was collected with; None if there is none yet."""
    place = config.dataset
    if isinstance(place, Path) and not (place / "meta.json").exists():
        return None
    return read_meta(place)[0]


def collection(config: TrainConfig) -> CollectConfig:
    """Return what to collect: what a dataset that is there was collected with, or the default."""
    steps, seed, vary, spec = None, config.seed, config.vary, _spec(config)
    if spec:
        steps, seed, vary = spec.steps, spec.seed, vary or _flags(spec)
    return CollectConfig(
        config.task_name, Path(config.dataset), config.first_episodes, steps, config.workers, seed,
        vary, spec.image_size if spec else 64, config.cluster,
    )  # fmt: skip


def _flags(spec: DatasetSpec) -> tuple[str, ...]:
    """Return what varies in a dataset, as --vary takes it."""
    variation = read_variation(spec.variation)
    return variation.flags() if variation else ()


if __name__ == "__main__":
    sys.exit(run(train, TrainConfig))
