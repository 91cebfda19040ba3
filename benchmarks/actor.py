"""How much faster the reactive actor is than planning, in turns on one core.

    python benchmarks/actor.py [--task reacher]

Two ratios: of a whole decision, from the image to the action, and of what follows perception, which
both modes share: the policy's one pass against the search. Each mode decides many times in a row,
as it does in use, before it is another's turn: an actor that follows a search finds the processor's
caches full of the search.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import numpy as np
import torch

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.world import World
from mujepa.evaluation.manifest import make_manifest
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json
from mujepa.runtime.provenance import machine, versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from mujepa.agent.mpc import Agent

ROOT = Path(__file__).parents[1]
WARM_UP = 10
"""Decisions at the beginning of a turn that are not counted."""


@dataclass(frozen=True)
class ActorConfig:
    """Time decisions of the shipped agent with and without a search."""

    task: str = "reacher"
    """Which task's checkpoint."""
    turns: int = 10
    """How often it is each mode's turn."""
    decisions: int = 50
    """How many in a turn."""
    out: Path = ROOT / "benchmarks" / "results" / "actor.json"
    """The figures."""

    def __post_init__(self) -> None:
        if self.task not in TASKS or self.turns < 1 or self.decisions < 1:
            raise UserError(
                f"--task must be one of {', '.join(TASKS)}, --turns and --decisions at least 1, "
                f"got {self}"
            )


def main(config: ActorConfig) -> None:
    """Time, print and write."""
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(ROOT / "pretrained" / config.task, "cpu")
    agents = {mode: checkpoint.agent(actor=mode) for mode in ("reactive", "planner", "proposing")}
    world = World(find_task(config.task))
    episode = make_manifest(world, 1, 0).episodes[0]
    start, goal = world.observe(np.stack([episode.start, episode.goal]), agents["planner"].observes)
    spent: dict[str, list[float]] = {}
    calls = {mode: decision(agent, start, goal) for mode, agent in agents.items()}
    calls |= {f"{mode}, seen": after(agent, start, goal) for mode, agent in agents.items()}
    for _ in range(config.turns):
        for name, call in calls.items():
            for repeat in range(WARM_UP + config.decisions):
                began = time.perf_counter()
                call()
                if repeat >= WARM_UP:
                    spent.setdefault(name, []).append(1000 * (time.perf_counter() - began))
    median = {name: float(np.median(times)) for name, times in spent.items()}
    ratios = {
        "planner over reactive": median["planner"] / median["reactive"],
        "planner over reactive, after perception": (
            median["planner, seen"] / median["reactive, seen"]
        ),
    }
    result = read_json(ROOT / "pretrained" / config.task / "result.json", "make pretrained")
    held = {
        result["actor"]: result["success_at_end"],
        "reactive": result["baselines"]["reactive"]["success_at_end"],
    }
    for name, value in (median | ratios).items():
        console.print(f"{name:<44}{value:>9.3f}{'' if name in ratios else ' ms'}")
    figures = {"task": config.task, "ratios": ratios, "median_ms": median, "held": held}
    write_json(config.out, figures | {"machine": machine(), "versions": versions()})


def decision(agent: Agent, start: Any, goal: Any) -> Callable[[], object]:  # noqa: ANN401
    """Return what takes one decision, from the image to the action."""
    state, _ = agent.act(agent.reset(goal, 0), start)
    state = replace(state, step=agent.frame_skip)
    return lambda: agent.act(state, start)


def after(agent: Agent, start: Any, goal: Any) -> Callable[[], object]:  # noqa: ANN401
    """Return what takes one decision on what has been perceived already."""
    state, _ = agent.act(agent.reset(goal, 0), start)
    assert state.memory is not None
    memory = state.memory

    @torch.no_grad()
    def call() -> object:
        if agent.reactive:
            assert agent.actor is not None
            return agent.actor(memory, state.goal.embedding)
        return agent.plan(replace(state, step=agent.frame_skip))

    return call


if __name__ == "__main__":
    raise SystemExit(run(main, ActorConfig))
