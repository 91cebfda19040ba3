"""Collect experience: episodes of a behaviour policy, rendered, by shard, in several processes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from mujepa.envs.behaviour import RedNoise
from mujepa.envs.names import is_other_version, parse
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.rollouts.store import (
    LIVED,
    DatasetSpec,
    episodes_in_shard,
    read_meta,
    write_meta,
    write_shard,
)
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mujepa.envs.variation import Vary
    from mujepa.envs.world import Variants
    from mujepa.runtime.cluster import Cluster
    from mujepa.runtime.parallel import Pool

EPISODES_PER_SHARD = 100
STREAM = 0
"""Word after the seed in an episode's random stream; evaluation has another: they never meet."""
PATIENCE = 60.0
"""Seconds until what another machine wrote has to be seen here; network disks are late."""


def make_spec(
    task_name: str,
    seed: int,
    steps: int | None = None,
    behaviour: RedNoise | None = None,
    vary: Vary = None,
) -> DatasetSpec:
    """Return the spec for a task's experience; `steps` and `behaviour` default to the task's.

    Raises:
        UserError: the task is unknown, or has no such variation.
    """
    task = find_task(task_name)
    variation = read_variation(vary)
    world = World(task, variation=variation)
    return DatasetSpec(
        task=task.name,
        seed=seed,
        image_size=world.image_size,
        frame_skip=task.frame_skip,
        steps=steps or task.episode_steps or 2 * task.budget_steps // task.frame_skip,
        behaviour=asdict(behaviour or task.behaviour),
        action_low=world.action_low.tolist(),
        action_high=world.action_high.tolist(),
        variation=variation.plain() if variation else {},
    )


def collect(
    folder: Path, spec: DatasetSpec, episodes: int, workers: Cluster | Pool
) -> Iterator[int]:
    """Bring a dataset to at least this many episodes, and yield the frames of each shard added.

    Complete shards are kept, so that an interrupted collection continues and a larger number
    appends. An episode depends on the spec and its index alone, not on the workers.

    Args:
        folder: the dataset's folder, made if missing.
        spec: what to collect; must equal the spec of what is there.
        episodes: wanted in total; rounded up to whole shards once there is more than one.
        workers: who collect; they write into the folder.

    Raises:
        UserError: the folder holds another spec, a worker died, or nothing can be written or
            rendered.
    """
    there = _complete_shards(folder, spec)
    sizes = shard_sizes(episodes)
    names = [f"shard-{index:05d}" for index in range(len(sizes))]
    missing = [index for index, name in enumerate(names) if there.get(name, 0) < sizes[index]]
    good = there.keys() - {names[index] for index in missing}
    _remove_leftovers(folder)
    if not missing and read_meta(folder)[1].keys() == good:
        return  # untouched: others may be about to read it, or to find that it is complete
    for leftover in folder.glob(".meta.json.*.tmp"):  # a file, where shards are folders
        leftover.unlink(missing_ok=True)
    write_meta(folder, spec, sorted(good))  # the spec first: whoever goes on has to keep to it
    if not missing:
        return
    jobs = [
        (folder / names[index], spec, index * EPISODES_PER_SHARD, sizes[index]) for index in missing
    ]
    with closing(workers.map(collect_shard, jobs)) as done:
        for job, frames in done:
            _wait_for(jobs[job][0])
            good.add(names[missing[job]])
            write_meta(folder, spec, sorted(good))
            yield frames
    _remove_leftovers(folder)  # of workers that were lost on the way


def _remove_leftovers(folder: Path) -> None:
    """Remove shards that were being written when their writer died."""
    for leftover in folder.glob(".shard-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _wait_for(shard: Path) -> None:
    """Wait until a shard that another machine wrote is seen here.

    Raises:
        UserError: it is not, so that the disk is not the same.
    """
    deadline = time.monotonic() + PATIENCE
    while not shard.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"{shard} was written by a worker, but it is not here; "
                "--out must be on a disk that all machines of the cluster share"
            )
        time.sleep(0.1)


def _complete_shards(folder: Path, spec: DatasetSpec) -> dict[str, int]:
    """Return the episodes of the shards that are there, by name; those of unknown origin are not.

    Raises:
        UserError: they were collected with another spec.
    """
    if not (folder / "meta.json").exists():
        return {}
    old, shards = read_meta(folder)
    if old.imported:
        raise UserError(
            f"{folder} holds imported episodes, to which none can be collected; "
            "choose another folder with --out"
        )
    compare_specs(folder, old, spec)
    lived = [folder / name for name in shards if name.startswith(LIVED)]
    paths = [*folder.glob("shard-?????"), *lived]
    counts = {path.name: episodes_in_shard(path, shards.get(path.name)) for path in paths}
    return {name: count for name, count in counts.items() if count}


def compare_specs(
    folder: Path | str,
    there: DatasetSpec,
    wanted: DatasetSpec,
    besides: Sequence[str] = (),
    remedy: str = "choose another folder with --out",
) -> None:
    """Check that a dataset was collected with the spec wanted, besides some of its settings.

    Raises:
        UserError: it was not; the message ends with the remedy.
    """
    if is_other_version(there.task, wanted.task):
        raise UserError(
            f"{folder} was collected with another version of {parse(wanted.task).path}; "
            "delete it, or choose another folder"
        )
    old = asdict(there)
    for key, value in sorted(asdict(wanted).items()):
        if key not in besides and _plain(old[key]) != _plain(value):
            raise UserError(
                f"{folder} was collected with {key}={old[key]!r}, not {value!r}; {remedy}"
            )


def shard_sizes(episodes: int) -> list[int]:
    """Return the episodes of each shard: one small shard, or as many full ones as needed."""
    if episodes <= EPISODES_PER_SHARD:
        return [episodes]
    return [EPISODES_PER_SHARD] * -(-episodes // EPISODES_PER_SHARD)


def collect_shard(folder: Path, spec: DatasetSpec, first_episode: int, episodes: int) -> int:
    """Simulate, render and write one shard; return its frames."""
    world = World(find_task(spec.task), spec.image_size, variation=read_variation(spec.variation))
    policy = RedNoise(**{key: tuple(value) for key, value in spec.behaviour.items()})
    indices = range(first_episode, first_episode + episodes)
    streams = [np.random.default_rng([spec.seed, STREAM, index]) for index in indices]
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
    """Return what a shard keeps of episodes, frame after frame.

    Args:
        world: the world.
        trajectory: states at each model step, (B, T + 1, S).
        actions: held in between, (B, T, A).
        variants: the worlds of the episodes, if they vary.
    """
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
    world: World,
    streams: Sequence[np.random.Generator],
    steps: int,
    policy: RedNoise | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float32], Variants]:
    """Let a task's behaviour policy act from anywhere, in one episode for each random stream.

    Args:
        world: the world.
        streams: of B episodes; each draws its start, its noise and what varies from its own.
        steps: T, model steps.
        policy: the noise, if not the task's.

    Returns:
        The states (B, T + 1, S), the actions held in between (B, T, A), and the worlds of the
        episodes, if they vary.
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
    world: World,
    starts: NDArray[np.float64],
    noise: NDArray[np.float64],
    variants: Variants = None,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Let a task's behaviour policy act.

    Args:
        world: the world.
        starts: (B, S).
        noise: (B, T, A + extra_noise_dims), one row per model step.
        variants: the worlds of the episodes, if not the task's own.

    Returns:
        The states from the start on, (B, T + 1, S), and the actions held in between, (B, T, A).
    """
    states, actions = [starts], []
    for step in range(noise.shape[1]):
        unit = np.clip(world.task.behave(world, states[-1], noise[:, step]), -1, 1)
        actions.append(world.from_unit(unit).astype(np.float32))
        after, _ = world.rollout(states[-1], actions[-1][:, None], world.task.frame_skip, variants)
        states.append(after[:, -1])
    return np.stack(states, axis=1), np.stack(actions, axis=1)


def _plain(value: object) -> object:
    """Tuples become lists, as in JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
