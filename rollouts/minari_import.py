"""Episodes that were recorded elsewhere, as experience in a task: states, images, model steps.

What is recorded must say in which state the simulator was. The states are found by how arrays are
called and how wide they are, and believed only if the recorded actions lead from each to the next
in the task's own simulator; so an environment of another kind is noticed too.

Letters: T steps, S state, A action, P image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mujepa.envs import gym_id
from mujepa.envs.registry import TASKS, find_task
from mujepa.rollouts.collection import EPISODES_PER_SHARD
from mujepa.rollouts.store import DatasetSpec, write_meta, write_shard
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import replacing_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mujepa.envs.world import World
    from mujepa.rollouts.minari_format import Source

    Arrays = dict[str, NDArray[Any]]

FRAMES_PER_SHARD = 20_000
TRIED_EPISODES, TRIED_STEPS = 8, 32
"""How many episodes, and steps of each, are tried in the simulator."""
ASTRAY = 0.1
"""How far from the next state, in shares of the way to it, the simulator may lead (median)."""


ROUNDING = 1e-6
"""Differences of actions that are none, in widths of the bounds."""


@dataclass(frozen=True)
class Layout:
    """Where the states are in recorded arrays: whole, or as positions and velocities.

    Attributes:
        positions: names of arrays, and which columns of each, that make up the positions.
        velocities: the same of the velocities.
        state: name of an array of whole states; the others are empty then.
    """

    positions: tuple[tuple[str, slice], ...] = ()
    velocities: tuple[tuple[str, slice], ...] = ()
    state: str | None = None

    @property
    def text(self) -> str:
        """What a person is told."""
        names = [self.state] if self.state else [it[0] for it in self.positions + self.velocities]
        return ", ".join(dict.fromkeys(str(name) for name in names))

    def states(self, world: World, arrays: Arrays) -> NDArray[np.float64]:
        """Return the simulator's states (T + 1, S) of an episode."""
        if self.state:
            return arrays[self.state].astype(np.float64)
        parts = [
            np.concatenate(
                [arrays[name].reshape(frames, -1)[:, columns] for name, columns in part], 1
            )
            for part in (self.positions, self.velocities)
            for frames in [len(arrays["actions"]) + 1]
        ]
        states = np.tile(world.state(world.model.qpos0), (len(parts[0]), 1))
        states[:, 0] = world.step_seconds * np.arange(len(states))
        states[:, 1 : 1 + world.model.nq + world.model.nv] = np.concatenate(parts, axis=1)
        return states


@dataclass(frozen=True)
class Adopted:
    """One recorded episode, as experience.

    Attributes:
        columns: of the dataset, (frames, ...) each.
        clipped: share of its actions that lay outside of the bounds.
        changing: share of its model steps within which the action changed.
        unlike: how far a recorded image is from the task's own, of 255 (mean); None if drawn.
    """

    columns: Arrays
    clipped: float
    changing: float
    unlike: float | None


@dataclass(frozen=True)
class Report:
    """What became of recorded episodes.

    Attributes:
        episodes: that were written.
        frames: of these.
        short: episodes that were left out because they are too short.
        clipped: share of actions that lay outside of the bounds.
        changing: share of model steps within which the action changed, so that its mean was kept.
        astray: how far from the next state the action that was kept leads when it is held, in
            shares of the way there (median).
        unlike: how far recorded images are from the task's own, of 255 (mean); None if drawn.
    """

    episodes: int
    frames: int
    short: int
    clipped: float
    changing: float
    astray: float
    unlike: float | None


def guess_task(source: Source) -> str:
    """Return the name of the task that is the environment a dataset comes from.

    Raises:
        UserError: it tells no environment, or none that is known here.
    """
    environment = source.environment
    if environment is None:
        raise UserError(f"{source.name} names no environment; name its task with --task")
    own = [name for name in TASKS if gym_id(name) == environment]
    reason = ""
    for name in own or [f"gymnasium:{environment}", f"robotics:{environment}"]:
        try:
            return find_task(name).name
        except UserError as error:
            reason = str(error)
    raise UserError(
        f"{source.name} comes from {environment}, which is no task here ({reason}); name one with "
        "--task"
    )


def find_layout(source: Source, world: World, pixels: str | None = None) -> Layout:
    """Return where the states are, such that the recorded actions lead from each to the next.

    Args:
        source: the episodes.
        world: of the task.
        pixels: name of images that are to be there too.

    Raises:
        UserError: there are none, or the episodes do not fit the task.
    """
    tried = list(source.read(range(min(source.episodes, TRIED_EPISODES))))
    if not tried:
        raise UserError(f"{source.name} holds no episodes")
    _check_arrays(source, world, tried[0], pixels)
    for index, arrays in enumerate(tried):
        _check_finite(source, index, arrays["actions"])
    best, least = None, np.inf
    for layout in _layouts(world, tried[0]):
        states = [layout.states(world, arrays) for arrays in tried]
        if not all(np.isfinite(episode).all() for episode in states):
            continue
        error = _astray(world, states, [arrays["actions"] for arrays in tried], 1)
        if error < least:
            best, least = layout, error
    if best and least <= ASTRAY:
        return best
    there = ", ".join(f"{name} {array.shape[1:]}" for name, array in tried[0].items())
    model = world.model
    if best is None:
        raise UserError(
            f"{source.name} does not say the states of {world.task.name}: a `state` of "
            f"{world.state_size} numbers, or `qpos` and `qvel` of {model.nq} and {model.nv}, or an "
            f"observation that begins with these; there are {there}; record them as infos"
        )
    raise UserError(
        f"{source.name} is not of {world.task.name}: from the states in {best.text} its actions "
        f"do not lead to the next ones ({100 * least:.0f} % of the way astray); name its task with "
        "--task, or record `qpos` and `qvel` as infos"
    )


def import_episodes(
    source: Source, world: World, layout: Layout, pixels: str | None = None
) -> Iterator[Adopted]:
    """Turn recorded episodes, of an action per environment step, into experience.

    A frame is every `frame_skip`-th step, and its action the mean of those up to the next. Actions
    outside of the bounds are clipped, as the simulator does.

    Args:
        source: the episodes.
        world: the task's; its observation camera draws the images (P, P, 3).
        layout: where the states are.
        pixels: name of recorded images (H, H, 3) to take instead, brought to (P, P, 3).

    Raises:
        UserError: an episode is damaged, or holds what is not finite.
    """
    skip, low, high = world.task.frame_skip, world.action_low, world.action_high
    for index, arrays in enumerate(source.read(range(source.episodes))):
        steps = len(arrays["actions"]) // skip
        states = layout.states(world, arrays)[: steps * skip + 1 : skip]
        taken = arrays["actions"][: steps * skip].astype(np.float64).reshape(steps, skip, -1)
        _check_finite(source, index, states, taken)
        inside = np.clip(taken, low, high)
        held = inside.mean(axis=1)
        unlike = None
        if pixels:
            images = resized(arrays[pixels][: steps * skip + 1 : skip], world.image_size)
            drawn = world.render(states[:1])[0].astype(np.float64)
            unlike = float(np.abs(drawn - images[0]).mean())
        else:
            images = world.render(states)
        columns = {
            "pixels": images,
            "action": np.concatenate([held, np.zeros_like(low)[None]]).astype(np.float32),
            "state": states,
            "achieved": world.achieved(states),
        }
        spread, beyond = np.ptp(inside, axis=1), np.abs(taken - inside)
        changed = np.any(spread > ROUNDING * (high - low), axis=-1)
        outside = np.any(beyond > ROUNDING * (high - low), axis=-1)
        yield Adopted(columns, _share(outside), _share(changed), unlike)


def write_adopted(
    folder: Path,
    world: World,
    name: str,
    episodes: Iterable[Adopted],
    *,
    pixels: str | None = None,
    shortest: int = 10,
) -> Report:
    """Write experience that was recorded elsewhere, whole or not at all.

    Args:
        folder: of the new dataset.
        world: the task's.
        name: where it comes from.
        episodes: as `adopt` yields them.
        pixels: name of the recorded images, if these were taken.
        shortest: frames that an episode must have, or it is left out.

    Raises:
        UserError: no episode is long enough, or nothing can be written.
    """
    lengths: list[int] = []
    shares: list[tuple[float, float, float]] = []
    tried: list[Arrays] = []
    shards: list[str] = []
    pending: list[Arrays] = []
    short = 0
    with replacing_folder(folder) as temporary:

        def write() -> None:
            shards.append(f"shard-{len(shards):05d}")
            columns = {key: np.concatenate([it[key] for it in pending]) for key in pending[0]}
            write_shard(temporary / shards[-1], columns, [len(it["state"]) for it in pending])
            pending.clear()

        for episode in episodes:
            length = len(episode.columns["state"])
            if length < shortest:
                short += 1
                continue
            lengths.append(length)
            shares.append((episode.clipped, episode.changing, episode.unlike or 0.0))
            pending.append(episode.columns)
            if len(tried) < TRIED_EPISODES:
                tried.append({key: episode.columns[key] for key in ("state", "action")})
            frames = sum(len(it["state"]) for it in pending)
            if len(pending) == EPISODES_PER_SHARD or frames >= FRAMES_PER_SHARD:
                write()
        if pending:
            write()
        if not lengths:
            raise UserError(
                f"none of the {short} episodes of {name} has {shortest} frames, which are "
                f"{world.task.frame_skip} environment steps apart; lower --shortest"
            )
        spec = DatasetSpec(
            task=world.task.name, seed=0, image_size=world.image_size,
            frame_skip=world.task.frame_skip, steps=max(lengths) - 1,
            behaviour={"imported": name, "pixels": pixels or "drawn"},
            action_low=world.action_low.tolist(), action_high=world.action_high.tolist(),
        )  # fmt: skip
        write_meta(temporary, spec, shards)
    clipped, changing, unlike = np.average(shares, axis=0, weights=lengths).tolist()
    astray = _astray(
        world, [it["state"] for it in tried], [it["action"][:-1] for it in tried],
        world.task.frame_skip,
    )  # fmt: skip
    return Report(
        len(lengths), sum(lengths), short, clipped, changing, astray, unlike if pixels else None
    )


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bring images (F, H, H, 3) to (F, P, P, 3): each pixel is the mean of the area it covers."""
    if images.shape[1] == size:
        return images
    box = Image.Resampling.BOX
    return np.stack([np.asarray(Image.fromarray(it).resize((size, size), box)) for it in images])


def _check_arrays(source: Source, world: World, arrays: Arrays, pixels: str | None) -> None:
    actions, size = arrays["actions"], len(world.action_low)
    if actions.ndim != 2 or actions.shape[1] != size or actions.dtype.kind != "f":
        raise UserError(
            f"{source.name} has actions {actions.shape[1:]} of {actions.dtype}, and "
            f"{world.task.name} takes {size} real numbers; name its task with --task"
        )
    if pixels is None:
        return
    images = {
        name: array
        for name, array in arrays.items()
        if array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3
    }
    if pixels not in images:
        raise UserError(
            f"--pixels {pixels}: {source.name} has no such images; there are "
            f"{', '.join(images) or 'none'}"
        )
    if images[pixels].shape[1] != images[pixels].shape[2]:
        raise UserError(
            f"--pixels {pixels}: images of {images[pixels].shape[1:3]} pixels are not square; "
            "leave the option out to have them drawn from the states"
        )


def _check_finite(source: Source, episode: int, *arrays: NDArray[Any]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise source.damaged(f"episode {episode} holds numbers that are not finite")


def _layouts(world: World, arrays: Arrays) -> Iterator[Layout]:
    """Yield where the states may be, by the names and widths of arrays."""
    model, frames = world.model, len(arrays["actions"]) + 1
    wide = {
        name: array.reshape(frames, -1).shape[1]
        for name, array in arrays.items()
        if name != "actions" and array.dtype.kind == "f" and array.ndim <= 2
    }
    for name, width in wide.items():
        if name.endswith("state") and width == world.state_size:
            yield Layout(state=name)
    if world.state_size != 1 + model.nq + model.nv:
        return  # actuators, or plugins, remember something beside positions and velocities
    for name, width in wide.items():
        other = name.removesuffix("qpos") + "qvel"
        if name.endswith("qpos") and width == model.nq and wide.get(other) == model.nv:
            yield Layout(((name, slice(None)),), ((other, slice(None)),))
    roots = [f"infos/{axis}_position" for axis in "xy" if wide.get(f"infos/{axis}_position") == 1]
    for count in range(len(roots) + 1):
        apart = tuple((name, slice(0, 1)) for name in roots[:count])
        for name, width in wide.items():
            middle, end = model.nq - count, model.nq - count + model.nv
            if middle > 0 and width >= end and not name.startswith("infos"):
                yield Layout((*apart, (name, slice(middle))), ((name, slice(middle, end)),))


def _astray(
    world: World,
    states: Sequence[NDArray[np.float64]],
    actions: Sequence[NDArray[Any]],
    hold: int,
) -> float:
    """Return how far from the next states held actions lead, in shares of the way (median)."""
    rows = [np.linspace(0, len(it) - 1, min(len(it), TRIED_STEPS)).astype(int) for it in actions]
    chosen = list(zip(states, rows, strict=True))
    before = np.concatenate([episode[row] for episode, row in chosen])
    after = np.concatenate([episode[row + 1] for episode, row in chosen])
    taken = np.concatenate([it[row] for it, row in zip(actions, rows, strict=True)])
    held = np.clip(taken, world.action_low, world.action_high)[:, None]
    reached, _ = world.rollout(before, held, hold)
    way = np.median(world.joint_distance(before, after))
    return float(np.median(world.joint_distance(reached[:, -1], after)) / max(way, 1e-9))


def _share(marked: NDArray[Any]) -> float:
    return float(np.mean(marked)) if len(marked) else 0.0
