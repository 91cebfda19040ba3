"""Success by distance, visits of avoided regions, latency, and the table on the console."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mujepa.agent.mpc import Agent
from mujepa.agent.region import Region
from mujepa.envs.task import Task
from mujepa.envs.world import World
from mujepa.evaluation.loop import Outcome, one_thread
from mujepa.evaluation.manifest import Manifest
from mujepa.evaluation.result import Latency, Result
from mujepa.evaluation.statistics import Rate, rate_of
from mujepa.runtime import console

TIMED_DECISIONS = 50


def by_distance(world: World, manifest: Manifest, outcome: Outcome) -> dict[str, Rate]:
    """Return the success rates of the nearer and of the farther half of the episodes."""
    order = np.argsort(remaining_at_start(world, manifest), kind="stable")
    halves = {"near": order[: len(order) // 2], "far": order[len(order) // 2 :]}
    return {name: rate_of(outcome.held[half]) for name, half in halves.items() if len(half)}


def remaining_at_start(world: World, manifest: Manifest) -> NDArray[np.float64]:
    """Return what remains from start to goal by the task's own measure, (E,)."""
    starts, goals = (world.achieved(states) for states in manifest.ends)
    return world.task.remaining(starts, goals)


def time_decisions(agent: Agent, world: World, manifest: Manifest) -> Latency:
    """Time decisions in one environment on one thread."""
    episode = manifest.episodes[0]
    start, goal = world.observe(np.stack([episode.start, episode.goal]), agent.observes)
    state = agent.reset(goal, manifest.seeds[0])
    spent = []
    with one_thread():
        for _ in range(TIMED_DECISIONS):
            began = time.perf_counter()
            state, _ = agent.act(state, start)
            spent.append(1000 * (time.perf_counter() - began))
            state = replace(state, step=state.step + agent.frame_skip - 1)
    median, p95 = np.quantile(spent[3:], [0.5, 0.95])
    return Latency(round(float(median), 3), round(float(p95), 3))


def violations(
    region: Region, world: World, manifest: Manifest, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """Count visits of a region in the `episodes` whose start and goal lie outside of it.

    `steps` is the share of environment steps of a policy that end inside the region.
    """
    counts = outside(region, world, manifest)
    result: dict[str, Any] = {"episodes": int(counts.sum())}
    for name, outcome in outcomes.items():
        kept = counts[: len(outcome.states)]
        if kept.any():
            states = outcome.states[kept, 1:].reshape(-1, outcome.states.shape[-1])
            result[name] = {
                "steps": float(_inside(region, world, states).mean()),
                "success_at_end": asdict(rate_of(outcome.held[kept])),
            }
    return result


def outside(region: Region, world: World, manifest: Manifest) -> NDArray[np.bool_]:
    """Return which episodes have start and goal outside the region, (E,)."""
    starts, goals = (_inside(region, world, states) for states in manifest.ends)
    return ~(starts | goals)


def _inside(region: Region, world: World, states: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (region.depth(torch.from_numpy(world.achieved(states))) > 0).numpy()


def print_table(result: Result, task: Task) -> None:
    """Print success rates, distances, violations and latency."""
    console.print(
        f"\n{task.name}: {result.episodes} episodes of {result.budget_steps} steps, "
        f"success within {task.text(result.tolerance)} of the goal"
    )
    if result.variation:
        ranges = (f"{name}={':'.join(map(str, ends))}" for name, ends in result.variation.items())
        console.print(f"varied: {' '.join(ranges)}")
    console.print(f"{'':<12}{'held at the end':<26}{'reached':<26}median final distance")
    for name, one in result.policies.items():
        console.print(
            f"{name.replace('_', ' '):<12}{one.success_at_end!s:<26}{one.success_any!s:<26}"
            f"{task.text(one.median_final_distance)}"
        )
    for region, found in (result.violations or {}).items():
        console.print(f"{found['episodes']} episodes with start and goal outside {region}:")
        for name in (name for name in result.policies if name in found):
            share, rate = found[name]["steps"], found[name]["success_at_end"]["rate"]
            console.print(
                f"{name.replace('_', ' '):<12}{share:.2%} of steps inside, held {rate:.3f}"
            )
    if result.plan_ms and result.reactive_ms:
        console.print(
            f"time per decision: {result.plan_ms}; actor alone {result.reactive_ms.median:.2f} ms"
        )
