"""Who is judged, and where; and how their episodes are shared out over processes or a cluster."""

from __future__ import annotations

import functools
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mujepa.agent.checkpoint import Checkpoint, load_checkpoint
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.loop import Outcome, join, run_batch, run_episodes, split
from mujepa.evaluation.policies import (
    AgentPolicy,
    OraclePolicy,
    Policy,
    RandomPolicy,
    ZeroPolicy,
)
from mujepa.evaluation.protocol import lewm_task
from mujepa.planners import PlannerConfig, make_planner, sampling_config
from mujepa.runtime import console
from mujepa.runtime.errors import UserError
from mujepa.runtime.parallel import Pool, tick

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mujepa.agent.device import DeviceName
    from mujepa.agent.mpc import Agent
    from mujepa.envs.task import Task
    from mujepa.evaluation.config import EvaluateConfig
    from mujepa.evaluation.manifest import Manifest
    from mujepa.runtime.cluster import Cluster


@dataclass(frozen=True)
class Setup:
    """Who is judged, and where: what a configuration describes, but for the episodes.

    Attributes:
        checkpoint: of the agent.
        planner: its search.
        world: where it acts.
        agent: as it is judged.
        reactive_agent: its reactive actor alone.
        policies: the agent and its bounds, by name; `agent` first.
    """

    checkpoint: Checkpoint
    planner: PlannerConfig
    world: World
    agent: Agent
    reactive_agent: Agent
    policies: dict[str, Policy[Any]]


def build(config: EvaluateConfig, threads: int) -> Setup:
    """Return who is judged and where, with so many threads to step the oracle's simulations.

    Raises:
        UserError: the checkpoint is missing or damaged, or does not fit what is asked.
    """
    checkpoint = load_checkpoint(config.checkpoint, config.device)
    if config.replan_every is not None:
        trained = replace(checkpoint.config, replan_every=config.replan_every)
        checkpoint = replace(checkpoint, config=trained)
    task = find_far_task(checkpoint.config.task, config.goal_steps)
    if config.protocol == "lewm":
        task = lewm_task(task)
    variation = read_variation(config.vary)
    world = World(task, checkpoint.config.image_size, threads=threads, variation=variation)
    planner = _planner(config, checkpoint.config.planner)
    agent = checkpoint.agent(planner, config.cost, config.actor)
    reactive_agent = checkpoint.agent(planner, actor="reactive")
    policies = _policies(config, checkpoint, agent, reactive_agent, planner, world)
    return Setup(checkpoint, planner, world, agent, reactive_agent, policies)


def find_far_task(name: str, goal_steps: int | None) -> Task:
    """Return the task, with goals as many steps ahead as asked for.

    Raises:
        UserError: its goals do not lie a number of steps ahead.
    """
    task = find_task(name)
    if goal_steps is None:
        return task
    usual = getattr(task, "goal_steps", None)
    if usual is None:
        raise UserError(
            f"--goal-steps is for tasks whose goals lie a number of steps ahead, {name!r} draws "
            "them freely; leave it out"
        )
    budget = task.budget_steps * goal_steps // usual
    return replace(task, goal_steps=goal_steps, budget_steps=budget)  # pyright: ignore


def _planner(config: EvaluateConfig, trained: PlannerConfig) -> PlannerConfig:
    asked = {
        "kind": None if config.planner == "oracle" else config.planner,
        "horizon": config.horizon,
        "samples": config.samples,
        "iterations": config.iterations,
    }
    try:
        return replace(trained, **{key: value for key, value in asked.items() if value is not None})
    except ValueError as error:
        raise UserError(str(error)) from error


def _policies(
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    agent: Agent,
    reactive_agent: Agent,
    planner: PlannerConfig,
    world: World,
) -> dict[str, Policy[Any]]:
    oracle = OraclePolicy(world, make_planner(sampling_config(planner)))
    policies: dict[str, Policy[Any]] = {
        "agent": oracle if config.planner == "oracle" else AgentPolicy(agent),
        "reactive": AgentPolicy(reactive_agent),
        "latent_l2": AgentPolicy(checkpoint.agent(planner, "goal", "planner")),
        "random": RandomPolicy(world),
        "zero": ZeroPolicy(world),
    }
    if config.oracle and config.planner != "oracle" and not world.task.python_stepped:
        policies["oracle"] = oracle
    return policies


def episodes_of_each(
    config: EvaluateConfig, setup: Setup, manifest: Manifest
) -> dict[str, Manifest]:
    """Return the episodes that each policy has to run."""
    todo = dict.fromkeys(setup.policies, manifest)
    if setup.agent.reactive and config.planner != "oracle":
        del todo["reactive"]  # the agent is it
    if "oracle" in todo:
        todo["oracle"] = manifest.first(config.oracle_episodes)
    return todo


def run_here(setup: Setup, todo: dict[str, Manifest]) -> dict[str, Outcome]:
    """Run the episodes here, one policy after the other."""
    task, size = setup.world.task, setup.world.image_size
    outcomes = {}
    for name, manifest in todo.items():
        steps = task.budget_steps * len(split(manifest))
        with console.progress_bar(steps, name.replace("_", " "), unit="step") as bar:
            policy = setup.policies[name]
            outcomes[name] = run_episodes(task, size, policy, manifest, bar.update)
    return outcomes


def run_on(
    workers: Cluster | Pool, config: EvaluateConfig, task: Task, todo: dict[str, Manifest]
) -> dict[str, Outcome]:
    """Share the episodes between workers; the oracle's, which take longer, apart."""
    found: dict[str, list[Outcome]] = {name: [] for name in todo}
    for label, names in (
        ("oracle", [name for name in todo if name == "oracle"]),
        ("episodes", [name for name in todo if name != "oracle"]),
    ):
        parts = [(name, part) for name in names for part in split(todo[name])]
        pieces = [(config, *part) for part in parts]
        steps = [task.budget_steps] * len(parts)
        outcomes = run_parallel(workers, run_shard, pieces, steps, label, config.device)
        for (name, _), outcome in zip(parts, outcomes, strict=True):
            found[name].append(outcome)
    return {name: join(outcomes) for name, outcomes in found.items()}


def run_parallel(
    workers: Cluster | Pool,
    judge: Callable[..., Outcome],
    pieces: Sequence[tuple[Any, ...]],
    steps: Sequence[int],
    label: str,
    device: DeviceName = "cpu",
) -> list[Outcome]:
    """Have workers run pieces of the episodes, and show how far they are.

    Args:
        workers: of this machine, or of a cluster.
        judge: runs one piece, and calls `pool.tick` after each environment step.
        pieces: its arguments.
        steps: environment steps of each piece.
        label: what is shown.
        device: where the agents compute.
    """
    if not pieces:
        return []
    found: dict[int, Outcome] = {}
    before = workers.ticks

    def show() -> None:
        done = max(workers.ticks - before, sum(steps[index] for index in found))
        bar.update(done - bar.n)

    accelerators = workers.accelerators(device)
    running = workers.map(judge, pieces, accelerators=accelerators, meanwhile=show)
    with console.progress_bar(sum(steps), label, unit="step") as bar, closing(running):
        for index, outcome in running:
            found[index] = outcome
            show()
    return [found[index] for index in range(len(pieces))]


def run_shard(config: EvaluateConfig, name: str, part: Manifest) -> Outcome:
    """Run one policy through one part of the episodes; what a worker does."""
    setup = _built(config)
    task, size = setup.world.task, setup.world.image_size
    return run_batch(task, size, setup.policies[name], part, tick)


@functools.lru_cache(maxsize=1)
def _built(config: EvaluateConfig) -> Setup:
    return build(config, threads=1)
