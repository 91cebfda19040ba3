"""What an evaluation says: its table; success by distance, and how fast decisions are."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mujepa.evaluation.loop import one_thread
from mujepa.evaluation.statistics import success_rate
from mujepa.runtime import console

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mujepa.agent.mpc import Agent
    from mujepa.envs.task import Task
    from mujepa.envs.world import World
    from mujepa.evaluation.loop import Outcome
    from mujepa.evaluation.manifest import Manifest

TIMED_DECISIONS = 50


def by_distance(world: World, manifest: Manifest, outcome: Outcome) -> dict[str, Any]:
    """Return the success of the nearer and of the farther half of the episodes."""
    order = np.argsort(remaining_at_start(world, manifest), kind="stable")
    halves = {"near": order[: len(order) // 2], "far": order[len(order) // 2 :]}
    return {
        name: asdict(success_rate(int(outcome.held[half].sum()), len(half)))
        for name, half in halves.items()
        if len(half)
    }


def remaining_at_start(world: World, manifest: Manifest) -> NDArray[np.float64]:
    """Return what remains from start to goal by the task's own measure, (E,)."""
    starts, goals = (
        world.achieved(np.stack([getattr(episode, end) for episode in manifest.episodes]))
        for end in ("start", "goal")
    )
    return world.task.remaining(starts, goals)


def time_decisions(agent: Agent, world: World, manifest: Manifest) -> dict[str, float]:
    """Time decisions [ms] in one environment on one thread: median and 95th percentile."""
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
    return {"median": round(float(median), 3), "p95": round(float(p95), 3)}


def print_table(result: dict[str, Any], task: Task, outcomes: dict[str, Outcome]) -> None:
    """Print success and distance of the agent and its bounds, violations and speed."""
    budget, text = result["budget_steps"], task.text
    console.print(
        f"\n{task.name}: {result['episodes']} episodes of {budget} steps, "
        f"success within {text(result['tolerance'])}"
    )
    if "variation" in result:
        console.print(
            f"varied: {' '.join(f'{n}={v[0]:g}:{v[1]:g}' for n, v in result['variation'].items())}"
        )
    console.print(f"{'':<12}{'held at end':<26}{'reached':<26}median final distance")
    for name, outcome in outcomes.items():
        summary = asdict(outcome.summary())
        end, ever = (
            f"{s['rate']:.3f} [{s['low']:.3f}, {s['high']:.3f}]"
            for s in (summary["success_at_end"], summary["success_any"])
        )
        distance = text(summary["median_final_distance"])
        console.print(f"{name.replace('_', ' '):<12}{end:<26}{ever:<26}{distance}")
    for region, found in result.get("violations", {}).items():
        console.print(f"of {found['episodes']} episodes with start and goal outside {region}:")
        for name in (name for name in outcomes if name in found):
            share, rate = found[name]["steps"], found[name]["success_at_end"]["rate"]
            console.print(
                f"{name.replace('_', ' '):<12}{share:.2%} of steps in it, held {rate:.3f}"
            )
    if result["plan_ms"]:
        median, p95 = result["plan_ms"]["median"], result["plan_ms"]["p95"]
        reflex = result["reactive_ms"]["median"]
        console.print(
            f"a decision takes {median:.1f} ms (95 %: {p95:.1f} ms), one environment, one thread;"
        )
        console.print(f"reactive: {reflex:.2f} ms")
