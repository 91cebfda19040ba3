"""Write a dataset of your own: images and actions, with or without a simulator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.rollouts.store import Dataset, DatasetSpec, write_meta, write_shard
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import replacing_folder

Columns = dict[str, NDArray[Any]]
EPISODES_PER_SHARD = 100
SHARD_BYTES = 250_000_000


def write_dataset(
    folder: Path | str,
    episodes: Iterable[Mapping[str, ArrayLike]],
    *,
    action_low: ArrayLike | None = None,
    action_high: ArrayLike | None = None,
    frame_skip: int = 1,
    task: str | None = None,
    behaviour: Mapping[str, Any] | None = None,
) -> Dataset:
    """Write episodes that were recorded elsewhere as a dataset, whole or not at all.

    `mujepa train data:FOLDER` trains from it without a simulator. Episodes may differ in length;
    an iterator is consumed one shard at a time. Each episode is a mapping with these arrays; other
    entries are ignored:

        pixels      (T + 1, P, P, 3) uint8, square images; T images do as well, and the last
                    action is then left out
        action      (T, A), the action taken after each image
        state       (T + 1, S), optional: simulator states
        achieved    (T + 1, G), optional: achieved goals; with `state` and `task` computed

    Args:
        folder: of the new dataset.
        episodes: the episodes.
        action_low: lower bounds of the action, A numbers or one; by default those of the task, or
            the smallest actions that occur.
        action_high: upper bounds; by default those of the task, or the largest actions.
        frame_skip: environment steps between two images.
        task: name of the task whose simulator the episodes come from, if any.
        behaviour: `imported` names the source; other entries describe how it was recorded.

    Returns:
        The dataset.

    Raises:
        UserError: the folder exists, an array has a wrong shape or type or numbers that are not
            finite, an episode is too short, or an action is out of bounds.
    """
    folder, world = Path(folder), None
    if folder.exists():
        raise UserError(f"{folder} exists already; choose another folder")
    if task is not None:
        world = World(find_task(task))
        if frame_skip != world.task.frame_skip:
            skip = world.task.frame_skip
            raise UserError(f"frame_skip of {task} is {skip}, got {frame_skip}; give {skip}")
        action_low = world.action_low if action_low is None else action_low
        action_high = world.action_high if action_high is None else action_high
    shards: list[str] = []
    longest, size, low, high = 0, 0, np.array(np.inf), np.array(-np.inf)
    with replacing_folder(folder) as temporary:
        for part in _parts(_checked(episodes, world)):
            columns = {name: np.concatenate([it[name] for it in part]) for name in part[0]}
            lengths = [len(it["pixels"]) for it in part]
            shards.append(f"shard-{len(shards):05d}")
            write_shard(temporary / shards[-1], columns, lengths)
            actions = np.concatenate([it["action"][:-1] for it in part])
            low, high = np.minimum(low, actions.min(axis=0)), np.maximum(high, actions.max(axis=0))
            longest, size = max(longest, *lengths), columns["pixels"].shape[1]
        if not shards:
            raise UserError(f"there are no episodes to write into {folder}; give at least one")
        spec = DatasetSpec(
            task=world.task.name if world else None,
            seed=0,
            image_size=size,
            frame_skip=frame_skip,
            steps=longest - 1,
            behaviour=dict(behaviour or {"imported": "write_dataset"}),
            action_low=_bound("action_low", action_low, low),
            action_high=_bound("action_high", action_high, high),
        )
        _check_bounds(spec, low, high)
        write_meta(temporary, spec, shards)
    return Dataset(folder, verify=False)


def _parts(episodes: Iterable[Columns]) -> Iterator[list[Columns]]:
    """Yield the episodes of each shard."""
    part: list[Columns] = []
    for episode in episodes:
        part.append(episode)
        size = sum(it["pixels"].nbytes for it in part)
        if len(part) == EPISODES_PER_SHARD or size >= SHARD_BYTES:
            yield part
            part = []
    if part:
        yield part


def _checked(episodes: Iterable[Mapping[str, ArrayLike]], world: World | None) -> Iterator[Columns]:
    """Yield the columns of episodes, all of the same layout."""
    first = None
    for number, episode in enumerate(episodes):
        columns = _columns(f"episode {number}", episode)
        if world and "state" in columns and columns["state"].shape[1] == world.state_size:
            columns.setdefault("achieved", world.achieved(columns["state"]))
        layout = {name: column.shape[1:] for name, column in columns.items()}
        first = first or layout
        if layout != first:
            raise UserError(
                f"episode {number} has rows {layout}, and episode 0 {first}; all episodes need the "
                "same columns and sizes"
            )
        if world and (size := layout["action"]) != world.action_low.shape:
            raise UserError(
                f"episode {number} has actions of {size[0]} numbers, and {world.task.name} takes "
                f"{len(world.action_low)}; name another task, or none"
            )
        if world and layout.get("state", (world.state_size,)) != (world.state_size,):
            raise UserError(
                f"episode {number} has states {layout['state']}, and {world.task.name} needs "
                f"{(world.state_size,)}: time, qpos, qvel; correct them, or leave them out"
            )
        yield columns


def _columns(name: str, episode: Mapping[str, ArrayLike]) -> Columns:
    """Check the arrays of one episode, and return its columns."""
    if missing := {"pixels", "action"} - episode.keys():
        raise UserError(f"{name} has no {min(missing)!r}; every episode needs pixels and action")
    pixels, action = np.asarray(episode["pixels"]), np.asarray(episode["action"])
    shape = pixels.shape
    if pixels.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
        raise UserError(f"{name} has pixels {_text(pixels)}; give uint8 (T + 1, P, P, 3)")
    if action.dtype.kind not in "fiu" or action.ndim != 2 or not action.shape[1]:
        raise UserError(f"{name} has actions {_text(action)}; give numbers (T, A)")
    frames = len(pixels)
    if frames - len(action) not in (0, 1):
        raise UserError(
            f"{name} has {frames} images and {len(action)} actions; give one action after each "
            "image, except the last"
        )
    if frames < 2:
        raise UserError(f"{name} has {frames} images; give at least 2, or leave it out")
    columns: Columns = {"pixels": pixels, "action": np.zeros((frames, action.shape[1]), np.float32)}
    columns["action"][:-1] = action[: frames - 1]
    for key in ("state", "achieved"):
        if key in episode:
            column = np.asarray(episode[key])
            if column.dtype.kind not in "fiu" or column.ndim != 2 or len(column) != frames:
                raise UserError(f"{name} has {key} {_text(column)}; give numbers ({frames}, N)")
            columns[key] = column.astype(np.float64)
    for key, column in columns.items():
        if not np.isfinite(column).all():
            raise UserError(f"{name} holds numbers in {key} that are not finite; leave it out")
    return columns


def _bound(name: str, given: ArrayLike | None, found: NDArray[Any]) -> list[float]:
    """Return a bound of the actions: the one given, or the one found in the data."""
    bound = np.asarray(found if given is None else given, np.float64)
    if bound.shape not in ((), found.shape) or not np.isfinite(bound).all():
        raise UserError(f"{name} is {bound.tolist()}; give {len(found)} finite numbers, or one")
    return np.broadcast_to(bound, found.shape).tolist()


def _check_bounds(spec: DatasetSpec, low: NDArray[Any], high: NDArray[Any]) -> None:
    """Check that the actions, from `low` to `high`, lie within the bounds of the spec."""
    lower, upper = np.array(spec.action_low, np.float32), np.array(spec.action_high, np.float32)
    if (lower >= upper).any():
        raise UserError(
            f"action_low {spec.action_low} is not below action_high {spec.action_high}; give bounds"
        )
    if (low < lower).any() or (high > upper).any():
        raise UserError(
            f"actions from {low.tolist()} to {high.tolist()} leave the bounds {spec.action_low} to "
            f"{spec.action_high}; clip them, or give wider bounds"
        )


def _text(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"
