"""What is evaluated, and how its episodes are run: in this process, in several, or on a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from mujepa.agent.checkpoint import Checkpoint, load_checkpoint
from mujepa.agent.device import DeviceName
from mujepa.agent.mpc import Agent
from mujepa.envs.registry import find_task
from mujepa.envs.task import Task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.config import ORACLE, EvaluateConfig, read_planner
from mujepa.evaluation.loop import Outcome, join, run_batch, run_episodes, split
from mujepa.evaluation.manifest import Manifest, make_manifest
from mujepa.evaluation.policies import AgentPolicy, OraclePolicy, Policy, RandomPolicy, ZeroPolicy
from mujepa.evaluation.protocol import lewm_manifest, lewm_task
from mujepa.planners import PlannerConfig, make_planner, sampling_config
from mujepa.runtime import console
from mujepa.runtime.cluster import Cluster
from mujepa.runtime.errors import UserError
from mujepa.runtime.parallel import Pool, tick


@dataclass(frozen=True)
class Setup:
    """What a configuration describes: checkpoint, simulator, agent and, by name, all policies.

    `policies["agent"]` comes first; it is the oracle if the oracle is evaluated.
    """

    config: EvaluateConfig
    checkpoint: Checkpoint
    planner: PlannerConfig
    world: World
    agent: Agent
    reactive_agent: Agent
    policies: dict[str, Policy[Any]]

    @property
    def evaluates_oracle(self) -> bool:
        """Whether the simulator is evaluated instead of the agent."""
        return isinstance(self.policies["agent"], OraclePolicy)

    def make_manifest(self) -> Manifest:
        """Draw the episodes."""
        draw = lewm_manifest if self.config.protocol == "lewm" else make_manifest
        return draw(self.world, self.config.episodes, self.config.seed)

    def manifests(self, manifest: Manifest) -> dict[str, Manifest]:
        """Return the episodes that each policy has to run, by its name."""
        found = dict.fromkeys(self.policies, manifest)
        if self.agent.reactive and not self.evaluates_oracle:
            del found["reactive"]  # the same as the agent
        if "oracle" in found:
            found["oracle"] = manifest.first(self.config.oracle_episodes)
        return found


def build(config: EvaluateConfig, threads: int) -> Setup:
    """Load the checkpoint and build the policies; `threads` step the oracle's simulations."""
    checkpoint = load_checkpoint(config.checkpoint, config.device)
    kind, changes = read_planner(config.planner)
    if "replan_every" in changes:
        trained = replace(checkpoint.config, replan_every=changes.pop("replan_every"))
        checkpoint = replace(checkpoint, config=trained)
    if kind not in (None, ORACLE):
        changes["kind"] = kind
    planner = replace(checkpoint.config.planner, **changes)
    task = find_far_task(checkpoint.task_name, config.goal_steps)
    if config.protocol == "lewm":
        task = lewm_task(task)
    variation = read_variation(config.vary)
    world = World(task, checkpoint.config.image_size, threads=threads, variation=variation)
    agent = checkpoint.agent(planner, config.cost, config.actor)
    reactive_agent = checkpoint.agent(planner, actor="reactive")
    oracle = OraclePolicy(world, make_planner(sampling_config(planner)))
    policies: dict[str, Policy[Any]] = {
        "agent": oracle if kind == ORACLE else AgentPolicy(agent),
        "reactive": AgentPolicy(reactive_agent),
        "latent_l2": AgentPolicy(checkpoint.agent(planner, "goal", "planner")),
        "random": RandomPolicy(world),
        "zero": ZeroPolicy(world),
    }
    if config.oracle and kind != ORACLE and not task.python_stepped:
        policies["oracle"] = oracle
    return Setup(config, checkpoint, planner, world, agent, reactive_agent, policies)


def find_far_task(name: str, goal_steps: int | None) -> Task:
    """Return a task, with goals `goal_steps` steps ahead of the start if given."""
    task = find_task(name)
    if not goal_steps:
        return task
    if not task.goal_steps:
        raise UserError(
            f"--protocol ahead={goal_steps} is for tasks whose goals lie a number of steps ahead; "
            f"{name!r} draws them freely; leave it out"
        )
    budget = task.budget_steps * goal_steps // task.goal_steps
    return replace(task, goal_steps=goal_steps, budget_steps=budget)


def run_policies(setup: Setup, manifest: Manifest, workers: Cluster | Pool) -> dict[str, Outcome]:
    """Run all policies through their episodes; `reactive` comes second.

    A single batch and agents on an accelerator run in this process, unless a cluster is asked for.
    """
    todo = setup.manifests(manifest)
    local = setup.agent.device.type != "cpu" or len(split(manifest)) == 1
    if local and not setup.config.cluster:
        outcomes: dict[str, Outcome] = {}
        for name, part in todo.items():
            steps = setup.world.task.budget_steps * len(split(part))
            with console.progress_bar(steps, name.replace("_", " "), unit="step") as bar:
                policy = setup.policies[name]
                outcomes[name] = run_episodes(setup.world, policy, part, bar.update)
    else:
        outcomes = _run_shards(setup, todo, workers)
    if "reactive" not in outcomes:
        outcomes = {"agent": outcomes["agent"], "reactive": outcomes["agent"], **outcomes}
    return outcomes


def _run_shards(
    setup: Setup, todo: dict[str, Manifest], workers: Cluster | Pool
) -> dict[str, Outcome]:
    longest_first = sorted(todo, key=lambda name: name != "oracle")
    shards = [(name, part) for name in longest_first for part in split(todo[name])]
    steps = [setup.world.task.budget_steps] * len(shards)
    pieces = [(setup.config, *shard) for shard in shards]
    outcomes = run_parallel(workers, run_shard, pieces, steps, "episodes", setup.config.device)
    found: dict[str, list[Outcome]] = {name: [] for name in todo}
    for (name, _), outcome in zip(shards, outcomes, strict=True):
        found[name].append(outcome)
    return {name: join(parts) for name, parts in found.items()}


def run_parallel(
    workers: Cluster | Pool,
    function: Callable[..., Outcome],
    pieces: Sequence[tuple[Any, ...]],
    steps: Sequence[int],
    label: str,
    device: DeviceName = "cpu",
) -> list[Outcome]:
    """Run shards of the episodes on workers, with a progress bar.

    `function` takes a piece, and calls `parallel.tick` after each of its environment `steps`.
    """
    if not pieces:
        return []
    found: dict[int, Outcome] = {}
    before = workers.ticks

    def show() -> None:
        done = max(workers.ticks - before, sum(steps[index] for index in found))
        bar.update(done - bar.n)

    accelerators = workers.accelerators(device)
    running = workers.map(function, pieces, accelerators=accelerators, meanwhile=show)
    with console.progress_bar(sum(steps), label, unit="step") as bar, closing(running):
        for index, outcome in running:
            found[index] = outcome
            show()
    return [found[index] for index in range(len(pieces))]


def run_shard(config: EvaluateConfig, name: str, part: Manifest) -> Outcome:
    """Run one policy through one batch of episodes, in a worker."""
    setup = _build_once(config, threads=1)
    return run_batch(setup.world, setup.policies[name], part, tick)


_build_once = functools.lru_cache(maxsize=1)(build)
