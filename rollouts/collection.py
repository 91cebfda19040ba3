"""Collect a dataset: a behaviour policy acts in the simulator, in several processes.

Letters: B episodes, T model steps, S state, A action.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from mujepa.envs.behaviour import RedNoise
from mujepa.envs.names import is_other_version, parse
from mujepa.envs.registry import find_task
from mujepa.envs.variation import Vary, read_variation
from mujepa.envs.world import Variants, World
from mujepa.rollouts.remote import is_url
from mujepa.rollouts.store import (
    ON_POLICY,
    Dataset,
    DatasetSpec,
    episodes_in_shard,
    read_meta,
    write_meta,
    write_shard,
)
from mujepa.runtime import console
from mujepa.runtime.cluster import Cluster, check_cluster, connect
from mujepa.runtime.errors import UserError
from mujepa.runtime.parallel import Pool
from mujepa.runtime.seeds import Stream, stream
from mujepa.runtime.settings import Count, Index, Seed, settings

EPISODES_PER_SHARD = 100
PATIENCE = 60.0  # seconds; network disks show the shards of other machines late


@settings
class CollectConfig:
    """Collect episodes with the task's behaviour policy, seen through its camera.

    Episodes that --out already holds are kept: an interrupted collection continues, and a larger
    number of episodes appends.
    """

    task: Annotated[str, tyro.conf.Positional]
    """Name of the task: `reacher`, `dm_control:reacher-easy`, or a MuJoCo file of your own."""
    out: Path
    """Folder of the dataset."""
    episodes: Count | None = None
    """Number of episodes; by default the task's, usually 2000."""
    steps: Count | None = None
    """Model steps per episode; by default the task's, usually twice its budget."""
    workers: Index = 0
    """Number of processes; 0 for one per core."""
    seed: Seed = 0
    """Seed of starts and actions."""
    vary: tuple[str, ...] = ()
    """What differs between episodes, NAME=LOW:HIGH or NAME=VALUE, such as `mass=0.5:2
    light=0.3:1`; `mujepa envs TASK` lists the factors."""
    image_size: Count = 64
    """Width and height of the images [pixels]."""
    cluster: str | None = None
    """Collect on a Ray cluster: `local`, `auto` or `ray://HOST:PORT` (docs/scale.md); --out must be
    on a disk that its machines share. The data are the same."""
    goal_site: str | None = None
    """For a MuJoCo file: the site whose position is the goal; by default its only one."""
    camera: str | None = None
    """For a MuJoCo file: the observation camera; by default its first, or one that shows all."""
    tolerance: float | None = None
    """For a MuJoCo file: distance at which the goal counts as reached [m]; by default 5 % of the
    model's size."""

    def __post_init__(self) -> None:
        if is_url(self.out):
            raise UserError(
                f"--out {self.out}: episodes are collected into a folder of this machine; collect "
                "there, then copy the folder with the tool of your cloud"
            )
        check_cluster(self.cluster)
        read_variation(self.vary)


def collect(config: CollectConfig) -> Dataset:
    """Collect the episodes that a configuration describes; see `mujepa collect --help`.

    Raises:
        UserError: bad input, no OpenGL library, a full disk, or a different spec in the folder.
    """
    task = find_task(config.task, config.goal_site, config.camera, config.tolerance)
    spec = make_spec(
        task.name, config.seed, config.steps, vary=config.vary, image_size=config.image_size
    )
    episodes, new = config.episodes or task.episodes, 0
    total = sum(shard_sizes(episodes)) * (spec.steps + 1)
    with (
        connect(config.cluster, config.workers) as workers,
        console.progress_bar(total, "collect", unit="frame") as bar,
    ):
        for frames in collect_shards(config.out, spec, episodes, workers):
            bar.update(frames)
            new += frames
        bar.update(total - bar.n)
    dataset = Dataset(config.out, verify=False)
    console.print(f"{config.out}: {len(dataset)} episodes, {dataset.frames} frames ({new} new)")
    return dataset


def make_spec(
    task_name: str,
    seed: int,
    steps: int | None = None,
    behaviour: RedNoise | None = None,
    vary: Vary = None,
    image_size: int = 64,
) -> DatasetSpec:
    """Return the spec of a task's dataset; `steps` and `behaviour` default to the task's."""
    task, variation = find_task(task_name), read_variation(vary)
    world = World(task, image_size, variation=variation)
    return DatasetSpec(
        task=task.name,
        seed=seed,
        image_size=image_size,
        frame_skip=task.frame_skip,
        steps=steps or task.episode_steps or 2 * task.budget_steps // task.frame_skip,
        behaviour=asdict(behaviour or task.behaviour),
        action_low=world.action_low.tolist(),
        action_high=world.action_high.tolist(),
        variation=variation.plain() if variation else {},
    )


def collect_shards(
    folder: Path, spec: DatasetSpec, episodes: int, workers: Cluster | Pool
) -> Iterator[int]:
    """Bring a dataset to at least this many episodes, and yield the frames of each new shard.

    Complete shards of the same spec are kept, so that an interrupted collection continues. An
    episode depends on the spec and its index alone, not on the workers.
    """
    there = _complete_shards(folder, spec)
    sizes = shard_sizes(episodes)
    names = [f"shard-{index:05d}" for index in range(len(sizes))]
    missing = [index for index, name in enumerate(names) if there.get(name, 0) < sizes[index]]
    good = there.keys() - {names[index] for index in missing}
    _remove_leftovers(folder)
    if not missing and read_meta(folder)[1].keys() == good:
        return  # untouched: other processes may be reading it
    for leftover in folder.glob(".meta.json.*.tmp"):
        leftover.unlink(missing_ok=True)
    write_meta(folder, spec, sorted(good))  # before the first shard: fixes the spec
    jobs = [
        (folder / names[index], spec, index * EPISODES_PER_SHARD, sizes[index]) for index in missing
    ]
    if not jobs:
        return
    with closing(workers.map(collect_shard, jobs)) as done:
        for job, frames in done:
            _wait_for(jobs[job][0])
            good.add(names[missing[job]])
            write_meta(folder, spec, sorted(good))
            yield frames
    _remove_leftovers(folder)  # of workers that were lost


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(".shard-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _wait_for(shard: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not shard.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"{shard} was written by a worker, but it is not here; "
                "--out must be on a disk that all machines of the cluster share"
            )
        time.sleep(0.1)


def _complete_shards(folder: Path, spec: DatasetSpec) -> dict[str, int]:
    if not (folder / "meta.json").exists():
        return {}
    old, digests = read_meta(folder)
    if old.imported:
        raise UserError(
            f"{folder} holds imported episodes, to which none can be collected; "
            "choose another folder with --out"
        )
    compare_specs(folder, old, spec)
    paths = [*folder.glob("shard-?????"), *(folder / it for it in digests if ON_POLICY in it)]
    counts = {path.name: episodes_in_shard(path, digests.get(path.name)) for path in paths}
    return {name: count for name, count in counts.items() if count}


def compare_specs(
    folder: Path | str,
    there: DatasetSpec,
    wanted: DatasetSpec,
    except_for: Sequence[str] = (),
    remedy: str = "choose another folder with --out",
) -> None:
    """Raise UserError unless a dataset has the wanted spec, except for some of its settings.

    A dataset of no task fits every task whose images, actions and frame skip it has.
    """
    if there.task and wanted.task and is_other_version(there.task, wanted.task):
        raise UserError(
            f"{folder} was collected with another version of {parse(wanted.task).path}; "
            "delete it, or choose another folder"
        )
    old, new = (json.loads(json.dumps(asdict(spec))) for spec in (there, wanted))
    for key in sorted(new.keys() - {*except_for, *(() if there.task else ("task",))}):
        if old[key] != new[key]:
            raise UserError(
                f"{folder} was collected with {key}={old[key]!r}, not {new[key]!r}; {remedy}"
            )


def shard_sizes(episodes: int) -> list[int]:
    """Return the number of episodes of each shard: one small shard, or only full ones."""
    if episodes <= EPISODES_PER_SHARD:
        return [episodes]
    return [EPISODES_PER_SHARD] * -(-episodes // EPISODES_PER_SHARD)


def collect_shard(folder: Path, spec: DatasetSpec, first_episode: int, episodes: int) -> int:
    """Simulate, render and write one shard; return its number of frames."""
    assert spec.task
    world = World(find_task(spec.task), spec.image_size, variation=read_variation(spec.variation))
    policy = RedNoise(**{key: tuple(value) for key, value in spec.behaviour.items()})
    indices = range(first_episode, first_episode + episodes)
    streams = [stream(spec.seed, Stream.COLLECTION, index) for index in indices]
    trajectory, actions, variants = rollout_behavior(world, streams, spec.steps, policy)
    columns = columns_of(world, trajectory, actions, variants)
    write_shard(folder, columns, [spec.steps + 1] * episodes)
    return len(columns["state"])


def columns_of(
    world: World,
    trajectory: NDArray[np.float64],
    actions: NDArray[np.float32],
    variants: Variants = None,
) -> dict[str, NDArray[Any]]:
    """Return the columns of a shard: states (B, T + 1, S) and the actions (B, T, A) between."""
    states = trajectory.reshape(-1, world.state_size)
    rows = None if variants is None else [v for v in variants for _ in range(trajectory.shape[1])]
    padded = np.concatenate([actions, np.zeros_like(actions[:, :1])], axis=1)
    return {
        "pixels": world.render(states, rows),
        "action": padded.reshape(len(states), -1),
        "state": states,
        "achieved": world.achieved(states),
    }


def rollout_behavior(
    world: World, streams: Sequence[np.random.Generator], steps: int, policy: RedNoise | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float32], Variants]:
    """Run a behaviour policy, by default the task's, from B random states for T = `steps`.

    Start, noise and variation of an episode come from its own stream.

    Returns:
        The states (B, T + 1, S), the actions (B, T, A), and the episodes' worlds, if they vary.
    """
    policy = policy or world.task.behaviour
    width = len(world.action_low) + world.task.extra_noise_dims
    starts, noise, draws = [], [], []
    for rng in streams:
        draws.append(world.draw(rng))
        starts.append(world.state(*world.task.sample_anywhere(world.model, rng)))
        noise.append(policy.draw(rng, steps, width))
    variants = world.variants(draws)
    return *behave(world, np.stack(starts), np.stack(noise), variants), variants


def behave(
    world: World, starts: NDArray[np.float64], noise: NDArray[np.float64], variants: Variants = None
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Run the task's behaviour policy from states (B, S) with noise (B, T, A + extra_noise_dims).

    Returns:
        The states (B, T + 1, S) and the actions (B, T, A).
    """
    states, actions = [starts], []
    for step in range(noise.shape[1]):
        unit = np.clip(world.task.behave(world, states[-1], noise[:, step]), -1, 1)
        actions.append(world.from_unit(unit).astype(np.float32))
        after, _ = world.rollout(states[-1], actions[-1][:, None], world.task.frame_skip, variants)
        states.append(after[:, -1])
    return np.stack(states, axis=1), np.stack(actions, axis=1)
