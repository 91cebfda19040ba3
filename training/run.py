"""What a training run needs before and around its stages: its dataset, and its workers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from mujepa.agent.device import choose_device
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.rollouts.collection import CollectConfig, collect, compare_specs, make_spec
from mujepa.rollouts.store import Dataset, DatasetSpec, read_meta
from mujepa.runtime import console, distributed
from mujepa.runtime.cluster import Cluster, run_distributed
from mujepa.runtime.errors import UserError
from mujepa.training.config import TrainConfig
from mujepa.training.data import load_training_data
from mujepa.training.losses import ExtraTerm
from mujepa.training.networks import make_networks
from mujepa.training.online import Online
from mujepa.training.progress import read_metrics
from mujepa.training.trainer import Record, Training, stages_of

IMAGE_SIZE = 64
"""Width and height of images, if neither the user nor a dataset says."""


def find_spec(config: TrainConfig) -> DatasetSpec | None:
    """Return the spec of the run's dataset; None if it has still to be collected."""
    place = config.dataset
    if isinstance(place, str) or config.own_data or (place / "meta.json").exists():
        return read_meta(place)[0]
    return None


def check_networks(config: TrainConfig) -> None:
    """Raise UserError unless the settings make an agent, before anything is written."""
    task, spec = config.find_task(), find_spec(config)
    size = config.image_size or (spec.image_size if spec else IMAGE_SIZE)
    if spec and size != spec.image_size:
        raise UserError(
            f"--image-size {size}: the images of {config.dataset} have {spec.image_size}; leave "
            "the option out, or choose another --data"
        )
    make_networks(config, World(task, size) if task else None, spec)


def collection(config: TrainConfig) -> CollectConfig:
    """Return what to collect: with the settings of the dataset that is there, or the default."""
    spec = find_spec(config)
    episodes = config.episodes or (config.online_episodes if config.online else None)
    return CollectConfig(
        config.task, Path(config.dataset), episodes, spec and spec.steps,
        config.workers, spec.seed if spec else config.seed,
        config.vary or (_vary(spec) if spec else ()),
        spec.image_size if spec else config.image_size or IMAGE_SIZE, config.cluster,
        config.goal_site, config.camera, config.tolerance,
    )  # fmt: skip


def prepare_dataset(config: TrainConfig, cluster: str | None = None) -> None:
    """Collect missing episodes, or check a dataset to which none can be added."""
    place, spec = config.dataset, find_spec(config)
    if not spec or (spec.task and not spec.imported and isinstance(place, Path)):
        collect(replace(collection(config), cluster=cluster or config.cluster))
        return
    if config.online:
        raise UserError(
            f"--online adds to its data, and nothing can be added to {place}; leave out one"
        )
    if spec.task:
        expected = make_spec(
            config.task_name, spec.seed, spec.steps, vary=config.vary or _vary(spec),
            image_size=spec.image_size,
        )  # fmt: skip
        compare_specs(place, spec, expected, ["behaviour"], "choose another with --data")
    dataset = Dataset(place, verify=False)
    if config.episodes and config.episodes > len(dataset):
        raise UserError(
            f"--episodes {config.episodes}: {place} holds {len(dataset)}, and none can be added; "
            "leave the option out"
        )
    if not dataset.reached:
        console.print(f"cannot reach {place}; training on the cached part of it")


def _vary(spec: DatasetSpec) -> tuple[str, ...]:
    variation = read_variation(spec.variation)
    return variation.flags() if variation else ()


def learn(
    config: TrainConfig,
    on_record: Record = lambda record: None,
    extra_terms: Sequence[ExtraTerm] = (),
) -> None:
    """Train on a dataset that is there, in this process."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device, task = choose_device(config.device, distributed.local_rank()), config.find_task()
    if config.online:
        assert task is not None
        Online(config, task, device).run()
        return
    data = load_training_data(
        config.dataset, config.validation, config.seed, device, config.jepa.encoder.observes,
        config.planner.horizon, task,
    )  # fmt: skip
    Training(config, data, on_record, extra_terms).run()


def learn_quietly(config: TrainConfig, on_record: Record = lambda record: None) -> list[str]:
    """Train in a worker of a cluster, and return the lines that `learn` prints."""
    with console.quiet() as lines:
        learn(config, on_record)
    return lines


def learn_on(cluster: Cluster, config: TrainConfig) -> None:
    """Train in one worker of a cluster or in several, and show the progress."""
    most = max(1, cluster.cores // config.processes)
    cores, accelerators = min(config.threads or most, most), cluster.accelerators(config.device)
    # A worker that replaces a lost one resumes.
    there = replace(config, resume=True, threads=config.threads or cores)

    def show() -> None:
        bar.update(_updates_done(config) - bar.n)

    if config.processes > 1:
        need = (config.processes, cores, accelerators, config.out / ".train")
        job = (learn_quietly, (there,), *need)
        running = cluster.map(run_distributed, [job], cores=0, meanwhile=show)
    else:
        need = {"cores": cores, "accelerators": accelerators}
        running = cluster.map(learn_quietly, [(there,)], **need, meanwhile=show)
    bar = console.progress_bar(sum(stages_of(config).values()), "train", _updates_done(config))
    try:
        with bar, closing(running):
            for _, lines in running:
                bar.update(bar.total - bar.n)
                for line in lines:
                    console.print(line)
    except KeyboardInterrupt:
        console.print(f"interrupted; --resume goes on from the last checkpoint in {config.out}")
        raise


def _updates_done(config: TrainConfig) -> int:
    records = read_metrics(config.out / "metrics.jsonl")
    if not records:
        return 0
    before = list(stages_of(config).values())[: records[-1]["stage_index"]]
    return sum(before) + records[-1]["update"]
