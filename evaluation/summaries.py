"""What an evaluation says beside success over all episodes: by distance, and how fast."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mujepa.evaluation.statistics import success_rate

if TYPE_CHECKING:
    from mujepa.agent.mpc import Agent
    from mujepa.envs.world import World
    from mujepa.evaluation.loop import Outcome
    from mujepa.evaluation.manifest import Manifest

TIMED_DECISIONS = 50


def by_distance(world: World, manifest: Manifest, outcome: Outcome) -> dict[str, Any]:
    """Return the success of the nearer and of the farther half of the episodes."""
    starts, goals = (
        world.achieved(np.stack([getattr(episode, end) for episode in manifest.episodes]))
        for end in ("start", "goal")
    )
    order = np.argsort(world.task.remaining(starts, goals), kind="stable")
    halves = {"near": order[: len(order) // 2], "far": order[len(order) // 2 :]}
    return {
        name: asdict(success_rate(int(outcome.held[half].sum()), len(half)))
        for name, half in halves.items()
        if len(half)
    }


def time_decisions(agent: Agent, world: World, manifest: Manifest) -> dict[str, float]:
    """Time decisions [ms] in one environment on one thread: median and 95th percentile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    episode = manifest.episodes[0]
    start, goal = world.observe(np.stack([episode.start, episode.goal]), agent.observes)
    state = agent.reset(goal, manifest.seeds[0])
    spent = []
    for _ in range(TIMED_DECISIONS):
        began = time.perf_counter()
        state, _ = agent.act(state, start)
        spent.append(1000 * (time.perf_counter() - began))
        state = replace(state, step=state.step + agent.frame_skip - 1)
    torch.set_num_threads(threads)
    median, p95 = np.quantile(spent[3:], [0.5, 0.95])
    return {"median": round(float(median), 3), "p95": round(float(p95), 3)}
