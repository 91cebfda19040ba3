"""Write a dataset of your own: images and actions, with or without a simulator.

Each episode is a mapping with these arrays; other entries are ignored:

    pixels      (T + 1, P, P, 3) uint8, square images; with T images the last action is left out
    action      (T, A), the action taken after each image
    state       (T + 1, S), optional: simulator states
    achieved    (T + 1, G), optional: achieved goals; computed from states of a `task`

Episodes may differ in length T.
"""

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
    """Write recorded episodes as a dataset, whole or not at all.

    `mujepa train data:FOLDER` trains from it without a simulator.

    Args:
        folder: of the new dataset.
        episodes: mappings as the module describes; an iterator is consumed shard by shard.
        action_low: lower bounds of the action, A numbers or one; default: the task's or the data's.
        action_high: upper bounds, likewise.
        frame_skip: environment steps between two images.
        task: name of the task whose simulator the episodes come from, if any.
        behaviour: how the episodes were recorded; `imported` names the source.

    Raises:
        UserError: the folder exists, an array has a wrong shape or type or numbers that are not
            finite, an episode is too short, or an action is out of bounds.
    """
    folder, world = Path(folder), World(find_task(task)) if task else None
    if folder.exists():
        raise UserError(f"{folder} exists already; choose another folder")
    if world and frame_skip != (skip := world.task.frame_skip):
        raise UserError(f"frame_skip of {task} is {skip}, got {frame_skip}; give {skip}")
    shards, longest, size, low, high = [], 0, 1, np.array(np.inf), np.array(-np.inf)
    with replacing_folder(folder) as temporary:
        for part in _parts(_checked(episodes, world)):
            columns = {name: np.concatenate([it[name] for it in part]) for name in part[0]}
            shards.append(f"shard-{len(shards):05d}")
            write_shard(temporary / shards[-1], columns, [len(it["pixels"]) for it in part])
            actions = np.concatenate([it["action"][:-1] for it in part])
            low, high = np.minimum(low, actions.min(axis=0)), np.maximum(high, actions.max(axis=0))
            longest = max(longest, *(len(it["pixels"]) for it in part))
            size = columns["pixels"].shape[1]
        if not shards:
            raise UserError(f"there are no episodes to write into {folder}; give at least one")
        action_low = world.action_low if world and action_low is None else action_low
        action_high = world.action_high if world and action_high is None else action_high
        low, high = _bounds(action_low, action_high, low, high)
        spec = DatasetSpec(
            task=world.task.name if world else None,
            seed=0,
            image_size=size,
            frame_skip=frame_skip,
            steps=longest - 1,
            behaviour=dict(behaviour or {"imported": "write_dataset"}),
            action_low=low,
            action_high=high,
        )
        write_meta(temporary, spec, shards)
    return Dataset(folder, verify=False)


def _parts(episodes: Iterable[Columns]) -> Iterator[list[Columns]]:
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
    first = None
    for number, episode in enumerate(episodes):
        columns = _columns(f"episode {number}", episode)
        if world:
            _check_task(f"episode {number}", columns, world)
            if "state" in columns:
                columns.setdefault("achieved", world.achieved(columns["state"]))
        layout = {name: column.shape[1:] for name, column in columns.items()}
        first = first or layout
        if layout != first:
            raise UserError(
                f"episode {number} has rows {layout}, and episode 0 {first}; all episodes need the "
                "same columns and sizes"
            )
        yield columns


def _check_task(name: str, columns: Columns, world: World) -> None:
    sizes = {"action": len(world.action_low), "state": world.state_size}
    for key in sizes.keys() & columns.keys():
        if columns[key].shape[1] != sizes[key]:
            raise UserError(
                f"{name} has {key} {columns[key].shape}, and {world.task.name} needs {sizes[key]} "
                "numbers in a row; name another task, or none"
            )


def _columns(name: str, episode: Mapping[str, ArrayLike]) -> Columns:
    if missing := {"pixels", "action"} - episode.keys():
        raise UserError(f"{name} has no {min(missing)!r}; every episode needs pixels and action")
    pixels, frames = np.asarray(episode["pixels"]), np.shape(episode["pixels"])[:1]
    if pixels.dtype != np.uint8 or pixels.shape != (*frames, *2 * pixels.shape[1:2], 3):
        raise UserError(f"{name} has pixels {_text(pixels)}; give uint8 (T + 1, P, P, 3)")
    if len(pixels) < 2:
        raise UserError(f"{name} has {len(pixels)} images; give at least 2, or leave it out")
    numbers = {
        it: np.asarray(episode[it]) for it in ("action", "state", "achieved") if it in episode
    }
    for key, array in numbers.items():
        lengths = {len(pixels)} if key != "action" else {len(pixels), len(pixels) - 1}
        if array.dtype.kind not in "fiu" or array.ndim != 2 or len(array) not in lengths:
            raise UserError(
                f"{name} has {key} {_text(array)} and {len(pixels)} images; give numbers "
                f"({min(lengths)}, N)"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{name} holds numbers in {key} that are not finite; leave it out")
    action = np.zeros((len(pixels), numbers["action"].shape[1]), np.float32)
    action[:-1] = numbers.pop("action")[: len(pixels) - 1]
    rest = {key: array.astype(np.float64) for key, array in numbers.items()}
    return {"pixels": pixels, "action": action} | rest


def _bounds(
    low: ArrayLike | None, high: ArrayLike | None, least: NDArray[Any], most: NDArray[Any]
) -> tuple[list[float], list[float]]:
    """Return the bounds given, or else `least` and `most`, the extremes of the actions."""
    bounds = []
    for name, given, found in (("action_low", low, least), ("action_high", high, most)):
        bound = np.asarray(found if given is None else given, np.float64)
        if bound.shape not in ((), found.shape) or not np.isfinite(bound).all():
            raise UserError(f"{name} is {bound.tolist()}; give {len(found)} finite numbers, or one")
        bounds.append(np.broadcast_to(bound, found.shape))
    lower, upper = np.array(bounds, np.float32)
    text = f"{bounds[0].tolist()} to {bounds[1].tolist()}"
    if (lower >= upper).any():
        raise UserError(f"bounds of the actions are {text}; give an action_low below action_high")
    if (least < lower).any() or (most > upper).any():
        raise UserError(
            f"actions from {least.tolist()} to {most.tolist()} leave the bounds {text}; clip them, "
            "or give wider bounds"
        )
    return bounds[0].tolist(), bounds[1].tolist()


def _text(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"
