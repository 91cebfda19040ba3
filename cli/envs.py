"""List the tasks, show one of them, and watch its behaviour policy."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from mujepa.envs import gym_id
from mujepa.envs.factors import FACTORS
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.task import ASSETS
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.rollouts.collection import behave
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json
from mujepa.runtime.seeds import Stream, stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mujepa.envs.task import Task

MEASURED = ASSETS.parents[1] / "measured.json"
"""Written by benchmarks/tasks.py: by task, success of oracle and random actions, and speed."""


@dataclass(frozen=True)
class EnvsConfig:
    """List the tasks; with the name of one, show it in detail.

    Success and speed were measured by benchmarks/tasks.py; `-` stands where they were not.
    """

    task: Annotated[str | None, tyro.conf.Positional] = None
    """Name of a task, for example `reacher` or `dm_control:reacher-easy`; all of ours without."""
    watch: Path | None = None
    """Write a video of the behaviour policy, by which experience is collected: .mp4 or .gif."""
    vary: tuple[str, ...] = ()
    """What differs in the video, NAME=LOW:HIGH or NAME=VALUE, such as `mass=0.5:2 light=0.3:1`."""
    seed: int = 0
    """Seed of the video: of where it starts, of the actions, and of what differs."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, got {self.seed}")
        if self.watch and not self.task:
            raise UserError(f"--watch {self.watch}: name the task, as in: mujepa envs reacher")
        if self.vary and not self.watch:
            raise UserError(f"--vary {' '.join(self.vary)} is for --watch FILE; name a file")
        read_variation(self.vary)


def envs(config: EnvsConfig) -> None:
    """Show what a configuration asks for; see `mujepa envs --help`.

    Raises:
        UserError: bad input, no OpenGL library, or the video cannot be written.
    """
    measured = read_json(MEASURED, "install mujepa again") if MEASURED.exists() else {}
    if config.task is None:
        for line in _table([_row(task, measured) for task in TASKS.values()]):
            console.print(line)
        console.print("\nmujepa envs TASK shows one, and the factors that --vary takes there")
    elif config.watch is None:
        for line in _details(find_task(config.task), measured):
            console.print(line)
    else:
        watch(config.watch, find_task(config.task), config.seed, config.vary)


def watch(path: Path, task: Task, seed: int, vary: tuple[str, ...] = ()) -> None:
    """Write a video of the first episode that would be collected, as long as a judged one.

    Raises:
        UserError: the name of the file is not that of a video, or the variation does not fit.
    """
    from mujepa.visual.video import video_suffix, write_video  # it loads torch

    every = 2 if video_suffix(path) == ".gif" else 1
    world = World(task, variation=read_variation(vary))
    rng = stream(seed, Stream.COLLECTION, 0)
    draw = world.draw(rng)
    variants = [world.variant(draw)] if draw else None
    start = world.state(*task.sample_anywhere(world.model, rng))[None]
    steps = -(-task.budget_steps // task.frame_skip)
    noise = task.behaviour.draw(rng, steps, len(world.action_low) + task.extra_noise_dims)
    _, actions = behave(world, start, noise[None], variants)
    states, _ = world.rollout(start, np.repeat(actions, task.frame_skip, axis=1), 1, variants)
    frames = [
        world.render_pretty(state, variant=variants[0] if variants else None)
        for state in np.concatenate([start, states[0]])[::every]
    ]
    write_video(path, frames, 1 / (every * world.step_seconds))
    drawn = "".join(f", {name} {value:.3g}" for name, value in draw.values.items()) if draw else ""
    console.print(f"{path}: {task.budget_steps * world.step_seconds:.1f} s of {task.name}{drawn}")


def _row(task: Task, measured: dict[str, Any]) -> list[str]:
    try:
        world = World(task)
    except UserError:  # what it needs is not here; asking for it alone says what
        return [task.name] + 7 * ["-"]
    seconds = task.budget_steps * world.step_seconds
    return [
        task.name,
        str(len(world.action_low)),
        _observation(world),
        f"{task.budget_steps} steps, {seconds:.3g} s",
        f"within {task.text(task.tolerance)}, last {task.hold_steps}",
        _rate(measured, task, "oracle"),
        _rate(measured, task, "random"),
        _speed(measured, task),
    ]


def _table(rows: list[list[str]]) -> list[str]:
    heads = ["task", "actions", "observation", "horizon", "goal", "oracle", "random", "frames/s"]
    rows = [heads, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _details(task: Task, measured: dict[str, Any]) -> list[str]:
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
        "oracle": _rate(measured, task, "oracle", long=True),
        "random": _rate(measured, task, "random", long=True),
        "collection": f"{_speed(measured, task)} frames/s on one core",
    }
    there = world.factors
    return [
        task.name + (f", in Gymnasium {gym_id(task.name)}" if task.name in TASKS else ""),
        "",
        inspect.getdoc(type(task)) or "",
        "",
        *[f"  {name:<13}{text}" for name, text in facts.items()],
        "",
        "Factors of variation, for --vary NAME=LOW:HIGH or NAME=VALUE:",
        "",
        *[f"  {name:<13}{_range(name)}  {FACTORS[name].meaning}" for name in there],
    ]


def _range(name: str) -> str:
    factor = FACTORS[name]
    return f"{factor.low:g} to {factor.high:g}, {factor.neutral:g} for none".ljust(24)


def _observation(world: World) -> str:
    size: NDArray[Any] = world.proprioception(world.state(world.model.qpos0))
    return f"{world.image_size}x{world.image_size}x3, or {len(size)} numbers"


def _rate(measured: dict[str, Any], task: Task, who: str, *, long: bool = False) -> str:
    rate = measured.get(task.name, {}).get(who)
    if rate is None:
        return "-"
    interval = f" [{rate['low']:.3f}, {rate['high']:.3f}], n = {rate['episodes']}" if long else ""
    return f"{rate['rate']:.3f}{interval}"


def _speed(measured: dict[str, Any], task: Task) -> str:
    rate = measured.get(task.name, {}).get("collect_frames_per_s")
    return "-" if rate is None else f"{rate:,.0f}"


if __name__ == "__main__":
    sys.exit(run(envs, EnvsConfig))
