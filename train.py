"""Train an agent: collect experience if there is none, learn the world model and what uses it."""

from __future__ import annotations

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
from mujepa.runtime.cluster import Cluster, connect, run_distributed
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.training.config import TrainConfig
from mujepa.training.data import load_training_data
from mujepa.training.losses import ExtraTerm
from mujepa.training.online import Online
from mujepa.training.state import check_settings, read_metrics
from mujepa.training.trainer import Training, make_networks


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
    """Train in one worker of a cluster or in several, and show the progress."""
    most = max(1, cluster.cores // config.processes)
    cores = min(config.threads or most, most)
    accelerators = cluster.accelerators(config.device)
    # A worker that replaces a lost one continues from its last checkpoint.
    there = replace(config, resume=True, threads=config.threads or cores)

    def show() -> None:
        bar.update(_updates_done(config) - bar.n)

    if config.processes > 1:
        job = learn_quietly, (there,), config.processes, cores, accelerators, config.out / ".train"
        running = cluster.map(run_distributed, [job], cores=0, meanwhile=show)
    else:
        running = cluster.map(
            learn_quietly, [(there,)], cores=cores, accelerators=accelerators, meanwhile=show
        )
    bar = console.progress_bar(sum(config.stage_updates.values()), "train", _updates_done(config))
    try:
        with bar, closing(running):
            for _, lines in running:
                bar.update(bar.total - bar.n)
                for line in lines:
                    console.print(line)
    except KeyboardInterrupt:
        console.print(f"interrupted; --resume goes on from the last checkpoint in {config.out}")
        raise


def learn_quietly(
    config: TrainConfig, on_record: Callable[[dict[str, Any]], object] = lambda record: None
) -> list[str]:
    """Train in a worker of a cluster, and return the lines that `learn` prints."""
    with console.quiet() as lines:
        learn(config, on_record)
    return lines


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
