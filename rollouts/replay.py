"""Import recorded episodes as a dataset of a task.

Episodes must contain simulator states. These are found by the names and widths of arrays, and
accepted only if replaying the recorded actions reproduces them.

Letters: T steps, S state, A action, P image size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mujepa.envs import gym_id
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.task import Task
from mujepa.envs.world import World
from mujepa.rollouts.minari import Arrays, Source
from mujepa.rollouts.store import Dataset
from mujepa.rollouts.writer import write_dataset
from mujepa.runtime.errors import UserError

Layout = tuple[tuple[str, int], ...]
"""Arrays that hold the states, and how many of the first columns of each: in a row they are whole
states, or positions and velocities."""
TRIED_EPISODES, TRIED_STEPS = 8, 32  # episodes, and steps of each, that are replayed
MAX_DEVIATION = 0.1  # of the replay, in units of the distance between states (median)


def guess_task(source: Source) -> str:
    """Return the name of the task of a dataset's environment."""
    if source.dataset.env_spec is None:
        raise UserError(f"{source.name} names no environment; name its task with --task")
    environment, reason = source.dataset.env_spec.id, ""
    own = [name for name in TASKS if gym_id(name) == environment]
    for name in own or [f"gymnasium:{environment}", f"robotics:{environment}"]:
        try:
            return find_task(name).name
        except UserError as error:
            reason = str(error)
    raise UserError(
        f"{source.name} comes from {environment}, which is no task here ({reason}); name one with "
        "--task"
    )


def import_episodes(
    source: Source,
    task: Task,
    folder: Path,
    *,
    pixels: str | None = None,
    shortest: int = 10,
    on_episode: Callable[[], object] = lambda: None,
) -> list[str]:
    """Write recorded episodes, with an action per environment step, as a dataset of a task.

    A frame is every `frame_skip`-th step, and its action the mean of those up to the next. Actions
    out of bounds are clipped, as the simulator does. The task's camera draws the images, unless
    `pixels` names recorded ones (H, H, 3), which are resized to (P, P, 3). Episodes of fewer than
    `shortest` frames are left out.

    Returns:
        Sentences that say where the states were found, and what was changed.
    """
    world, skip, short = World(task, threads=2), task.frame_skip, 0
    layout, shares = _find_layout(source, world), []

    def episodes() -> Iterator[Arrays]:
        nonlocal short
        for arrays in source.read():
            on_episode()
            frames = len(arrays["actions"]) // skip + 1
            if frames < shortest:
                short += 1
                continue
            episode, found = _episode(world, arrays, layout, pixels)
            shares.append((frames, *found))
            yield episode
        if not shares:
            raise UserError(
                f"none of the {short} episodes of {source.name} has {shortest} frames, which are "
                f"{skip} environment steps apart; lower --shortest"
            )

    origin = {"imported": source.name, "pixels": pixels or "drawn"}
    data = write_dataset(folder, episodes(), frame_skip=skip, task=task.name, behaviour=origin)
    names = ", ".join(name for name, _ in layout)
    notes = [f"states from {names}; replaying the actions reproduces them"]
    if short:
        notes.append(f"left out: {short} episodes of less than {shortest} frames")
    return notes + _changes(world, data, shares, pixels)


def _changes(
    world: World, dataset: Dataset, shares: list[tuple[float, ...]], pixels: str | None
) -> list[str]:
    """Return what was changed: `shares` are frames and what `_episode` returns, by episode."""
    lengths, *columns = zip(*shares, strict=True)
    clipped, changing, difference = (np.average(it, weights=lengths) for it in columns)
    tried = range(min(len(dataset), TRIED_EPISODES))
    states = [dataset.episode("state", index) for index in tried]
    actions = [dataset.episode("action", index)[:-1] for index in tried]
    deviation = _replay_deviation(world, states, actions, world.task.frame_skip)
    notes = []
    if clipped:
        notes.append(f"out of bounds, and clipped: {100 * clipped:.1f} % of the actions")
    if changing:
        notes.append(
            f"in {100 * changing:.0f} % of the model steps (of {world.task.frame_skip} environment "
            "steps) the action changed; its mean was kept, and its replay deviates by "
            f"{100 * deviation:.0f} % of a step (median)"
        )
    if pixels:
        notes.append(
            f"the recorded images differ by {difference:.1f} of 255 grey levels from the task's "
            "own camera (mean), which is used for evaluation"
        )
    return notes


def _find_layout(source: Source, world: World) -> Layout:
    """Return where the states are, such that replaying the actions gives the next ones."""
    tried = list(source.read(range(min(source.dataset.total_episodes, TRIED_EPISODES))))
    if not tried:
        raise UserError(f"{source.name} holds no episodes; name another dataset")
    actions, size, found = [arrays["actions"] for arrays in tried], len(world.action_low), {}
    if actions[0].ndim != 2 or actions[0].shape[1] != size or actions[0].dtype.kind != "f":
        raise UserError(
            f"{source.name} has actions {actions[0].shape[1:]} of {actions[0].dtype}, and "
            f"{world.task.name} takes {size} real numbers; name its task with --task"
        )
    for layout in _layouts(world, tried[0]):
        states = [_states(world, arrays, layout) for arrays in tried]
        if all(np.isfinite(episode).all() for episode in states):
            found[layout] = _replay_deviation(world, states, actions, 1)
    if not found:
        there = ", ".join(f"{name} {array.shape[1:]}" for name, array in tried[0].items())
        raise UserError(
            f"{source.name} does not hold the states of {world.task.name}: a `state` of "
            f"{world.state_size} numbers, or `qpos` and `qvel` of {world.model.nq} and "
            f"{world.model.nv}, or an observation that begins with these; there are {there}; "
            "record them as infos"
        )
    best = min(found, key=lambda layout: found[layout])
    if found[best] > MAX_DEVIATION:
        raise UserError(
            f"{source.name} is not of {world.task.name}: replaying its actions from the states in "
            f"{best[0][0]} does not give the next ones (deviation {100 * found[best]:.0f} %); name "
            "its task with --task, or record `qpos` and `qvel` as infos"
        )
    return best


def _layouts(world: World, arrays: Arrays) -> Iterator[Layout]:
    """Yield where the states may be, by the names and widths of arrays."""
    nq, nv, frames = world.model.nq, world.model.nv, len(arrays["actions"]) + 1
    widths = {
        name: array.reshape(frames, -1).shape[1]
        for name, array in arrays.items()
        if name != "actions" and array.dtype.kind == "f" and array.ndim <= 2
    }
    for name, width in widths.items():
        if name.endswith("state") and width == world.state_size:
            yield ((name, width),)
    if world.state_size != 1 + nq + nv:
        return  # actuators or plugins have states beyond positions and velocities
    for name, width in widths.items():
        other = name.removesuffix("qpos") + "qvel"
        if name.endswith("qpos") and width == nq and widths.get(other) == nv:
            yield ((name, nq), (other, nv))
    roots = [(name, 1) for name in ("infos/x_position", "infos/y_position") if name in widths]
    for count in range(min(len(roots) + 1, nq)):
        for name, width in widths.items():
            if width >= nq + nv - count and not name.startswith("infos"):
                yield (*roots[:count], (name, nq + nv - count))


def _states(world: World, arrays: Arrays, layout: Layout) -> NDArray[np.float64]:
    frames = len(arrays["actions"]) + 1
    columns = [arrays[name].reshape(frames, -1)[:, :count] for name, count in layout]
    rows = np.concatenate(columns, axis=1).astype(np.float64)
    if rows.shape[1] == world.state_size:
        return rows
    states = np.tile(world.state(world.model.qpos0), (frames, 1))
    states[:, 0] = world.step_seconds * np.arange(frames)
    states[:, 1 : 1 + rows.shape[1]] = rows
    return states


def _replay_deviation(
    world: World, states: list[NDArray[np.float64]], actions: list[NDArray[np.floating]], hold: int
) -> float:
    """Return how far replayed states are from recorded ones, in units of a step (medians)."""
    rows = [np.linspace(0, len(it) - 1, min(len(it), TRIED_STEPS)).astype(int) for it in actions]
    before = np.concatenate([it[row] for it, row in zip(states, rows, strict=True)])
    after = np.concatenate([it[row + 1] for it, row in zip(states, rows, strict=True)])
    taken = np.concatenate([it[row] for it, row in zip(actions, rows, strict=True)])
    held = np.clip(taken, world.action_low, world.action_high)[:, None]
    reached, _ = world.rollout(before, held, hold)
    step = np.median(world.joint_distance(before, after))
    return float(np.median(world.joint_distance(reached[:, -1], after)) / max(step, 1e-9))


def _episode(
    world: World, arrays: Arrays, layout: Layout, pixels: str | None
) -> tuple[Arrays, tuple[float, float, float]]:
    """Return an episode for `write_dataset`, and how much it was changed.

    That is the share of actions out of bounds, the share of model steps within which the action
    changed, and the mean difference between the recorded and the task's own image.
    """
    skip, low, high = world.task.frame_skip, world.action_low, world.action_high
    steps, difference = len(arrays["actions"]) // skip, 0.0
    states = _states(world, arrays, layout)[: steps * skip + 1 : skip]
    taken = arrays["actions"][: steps * skip].astype(np.float64).reshape(steps, skip, -1)
    inside, rounding = np.clip(taken, low, high), 1e-6 * (high - low)
    if pixels:
        images = resized(_images(arrays, pixels)[: steps * skip + 1 : skip], world.image_size)
        difference = float(np.abs(world.render(states[:1])[0].astype(float) - images[0]).mean())
    else:
        images = world.render(states)
    clipped = np.any(np.abs(taken - inside) > rounding, axis=-1).mean()
    changing = np.any(np.ptp(inside, axis=1) > rounding, axis=-1).mean()
    episode = {"pixels": images, "action": inside.mean(axis=1), "state": states}
    return episode, (float(clipped), float(changing), difference)


def _images(arrays: Arrays, name: str) -> NDArray[np.uint8]:
    there = {k: it for k, it in arrays.items() if it.dtype == np.uint8 and it.shape[3:] == (3,)}
    square = [key for key, images in there.items() if images.shape[1] == images.shape[2]]
    if name not in square:
        raise UserError(
            f"--pixels {name} names no square images; there are {', '.join(square) or 'none'}; "
            "leave the option out to draw images from the states"
        )
    return there[name]


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize images (F, H, H, 3) to (F, P, P, 3); each pixel is the mean of its area."""
    if images.shape[1] == size:
        return images
    box = Image.Resampling.BOX
    return np.stack([np.asarray(Image.fromarray(it).resize((size, size), box)) for it in images])
