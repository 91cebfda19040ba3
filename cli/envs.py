"""`mujepa envs`: list the tasks, describe one, and record a video of its behaviour policy."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from mujepa.envs import gym_id
from mujepa.envs.factors import FACTORS
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.task import Task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.rollouts.collection import rollout_behavior
from mujepa.runtime import console
from mujepa.runtime.errors import UserError
from mujepa.runtime.seeds import Stream, stream
from mujepa.runtime.settings import Seed, settings


@settings
class EnvsConfig:
    """List the tasks, or describe one in detail. docs/tasks.md has their success rates."""

    task: Annotated[str | None, tyro.conf.Positional] = None
    """Name of a task, for example `reacher` or `dm_control:reacher-easy`; without it, all tasks of
    mujepa are listed."""
    watch: Path | None = None
    """Write a video of the behaviour policy, which collects the data: .mp4 or .gif."""
    vary: tuple[str, ...] = ()
    """Factors that vary in the video, NAME=LOW:HIGH or NAME=VALUE, such as `mass=0.5:2
    light=0.3:1`."""
    seed: Seed = 0
    """Seed of the video's start, actions and factors."""

    def __post_init__(self) -> None:
        if self.watch and not self.task:
            raise UserError(f"--watch {self.watch}: name the task, as in: mujepa envs reacher")
        if self.vary and not self.watch:
            raise UserError(f"--vary {' '.join(self.vary)} is for --watch FILE; name a file")
        read_variation(self.vary)


def envs(config: EnvsConfig) -> None:
    """List or describe tasks, or write a video; see `mujepa envs --help`."""
    if config.task is None:
        for line in _table([_row(task) for task in TASKS.values()]):
            console.print(line)
        console.print("\nmujepa envs TASK describes one, with the factors that --vary takes")
    elif config.watch is None:
        for line in _details(find_task(config.task)):
            console.print(line)
    else:
        watch(config.watch, find_task(config.task), config.seed, config.vary)


def watch(path: Path, task: Task, seed: int, vary: tuple[str, ...] = ()) -> None:
    """Write a video of the first episode that would be collected, as long as one of evaluation."""
    from mujepa.visual.video import video_suffix, write_video  # it loads torch

    every = 2 if video_suffix(path) == ".gif" else 1
    world = World(task, variation=read_variation(vary))
    rng = stream(seed, Stream.COLLECTION, 0)
    draw = world.draw(rng)
    steps = -(-task.budget_steps // task.frame_skip)
    trajectory, actions, variants = rollout_behavior(world, [rng], steps)
    start, held = trajectory[:, 0], np.repeat(actions, task.frame_skip, axis=1)
    states, _ = world.rollout(start, held, 1, variants)
    frames = [
        world.render_pretty(state, variant=variants[0] if variants else None)
        for state in np.concatenate([start, states[0]])[::every]
    ]
    write_video(path, frames, 1 / (every * world.step_seconds))
    drawn = "".join(f", {name} {value:.3g}" for name, value in draw.values.items()) if draw else ""
    console.print(f"{path}: {task.budget_steps * world.step_seconds:.1f} s of {task.name}{drawn}")


def _row(task: Task) -> list[str]:
    try:
        world = World(task)
    except UserError:  # a package or file is missing; `mujepa envs TASK` says which
        return [task.name] + 4 * ["-"]
    seconds = task.budget_steps * world.step_seconds
    return [
        task.name,
        str(len(world.action_low)),
        _observation(world),
        f"{task.budget_steps} steps, {seconds:.3g} s",
        f"within {task.text(task.tolerance)}, last {task.hold_steps}",
    ]


def _table(rows: list[list[str]]) -> list[str]:
    rows = [["task", "actions", "observation", "horizon", "goal"], *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _details(task: Task) -> list[str]:
    world = World(task)
    step = world.step_seconds
    names = [world.model.actuator(index).name or str(index) for index in range(world.model.nu)]
    if len(names) != len(world.action_low):  # a suite's actions need not be those of the actuators
        names = [str(index) for index in range(len(world.action_low))]
    bounds = zip(names, world.action_low, world.action_high, strict=True)
    facts = {
        "actions": ", ".join(f"{name} {low:g} to {high:g}" for name, low, high in bounds),
        "observation": _observation(world),
        "goal": f"within {task.text(task.tolerance)}, through the last {task.hold_steps} of "
        f"{task.budget_steps} steps",
        "horizon": f"{task.budget_steps} steps of {1000 * step:g} ms: "
        f"{task.budget_steps * step:.3g} s, a decision every {task.frame_skip} steps",
    }
    return [
        task.name + (f", in Gymnasium {gym_id(task.name)}" if task.name in TASKS else ""),
        "",
        inspect.getdoc(type(task)) or "",
        "",
        *[f"  {name:<13}{text}" for name, text in facts.items()],
        "",
        "Factors of variation, for --vary NAME=LOW:HIGH or NAME=VALUE:",
        "",
        *[f"  {name:<13}{_range(name)}  {FACTORS[name].meaning}" for name in world.factors],
    ]


def _range(name: str) -> str:
    factor = FACTORS[name]
    return f"{factor.low:g} to {factor.high:g}, {factor.neutral:g} for none".ljust(24)


def _observation(world: World) -> str:
    size = len(world.proprioception(world.state(world.model.qpos0)))
    return f"{world.image_size}x{world.image_size}x3, or {size} numbers"
