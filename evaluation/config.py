"""Settings of an evaluation."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from mujepa.agent.checkpoint import ActorMode
from mujepa.agent.device import DeviceName
from mujepa.envs.variation import read_variation
from mujepa.planners import PLANNERS, PlannerConfig
from mujepa.runtime.cluster import check_cluster
from mujepa.runtime.errors import UserError
from mujepa.runtime.settings import Count, Seed, settings

ORACLE = "oracle"


@settings
class EvaluateConfig:
    """Evaluate a checkpoint on a frozen set of episodes that training never saw.

    Prints a table and writes result.json, report.html and a video to --out. Every success rate has
    a Wilson 95 % interval. The baselines are random actions, zero actions, the agent with plain
    latent distance as its cost, its actor alone, and the oracle: the same planner with the true
    simulator.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of a checkpoint or of a training run."""
    episodes: Count = 200
    """Number of episodes."""
    seed: Seed = 0
    """Seed of the episodes and of the planner."""
    vary: tuple[str, ...] = ()
    """Factors that vary from episode to episode, NAME=LOW:HIGH or NAME=VALUE, such as `mass=0.5:2
    light=0.3:1`; starts and goals are the same as without."""
    protocol: str = "ours"
    """`lewm` draws episodes as LeWorldModel's evaluation does, whose success is our `reached`:
    start and goal 25 steps apart on a held-out trajectory, a budget of 50 steps, and starts that
    are already solved kept and counted. `ahead=N`, for tasks whose goals lie a number of steps
    ahead of the start, sets that number; the budget grows with it."""
    full: bool = False
    """Also analyse the agent (docs/lab.md): sweeps over goals, replanning and factors of variation,
    probes, open-loop error, violation of expectation, failure attribution. Takes long."""
    planner: str | None = None
    """Changes to the checkpoint's planner: its kind, settings or both, such as `mppi`,
    `samples=128,iterations=2` or `icem,horizon=8,replan_every=4`. `oracle` replaces the model by
    the true simulator; it has no gradient, so there `gradient` becomes `icem`."""
    actor: ActorMode | None = None
    """Another mode than the checkpoint's: `planner` alone, `proposing` (the actor adds a candidate
    to the planner's), or `reactive` (the actor alone, without planning)."""
    cost: str | None = None
    """Another cost than the checkpoint's, for example `critic + 0.05*goal` or, with a region to
    avoid in the units of the sensors, `critic + 100*avoid(x>0.1)`; it changes the
    plans, not how success is measured."""
    oracle: bool = True
    """Run the oracle too; it takes most of the time."""
    oracle_episodes: Count | None = None
    """Number of episodes of the oracle, the first ones; by default all."""
    out: Path | None = None
    """Folder of the results; by default `evaluation` in the checkpoint's folder."""
    device: DeviceName = "auto"
    """Device of the networks."""
    cluster: str | None = None
    """Run the episodes on a Ray cluster: `local`, `auto` or `ray://HOST:PORT` (docs/scale.md). Its
    machines must share the checkpoint's disk. The result is the same. `--full` runs locally."""

    def __post_init__(self) -> None:
        kind, _ = read_planner(self.planner)
        if kind == ORACLE and self.actor is not None:
            raise UserError(
                f"--actor {self.actor} is of the agent, --planner oracle evaluates the simulator; "
                "leave out one of the two"
            )
        if kind == ORACLE and self.cost is not None:
            raise UserError(
                f"--cost {self.cost} has no effect on --planner oracle, which minimises the task's "
                "own distance; leave it out"
            )
        alone = {"vary": self.vary, "planner oracle": kind == ORACLE}
        alone["protocol"] = self.protocol != "ours"
        for flag in (flag for flag, given in alone.items() if given and self.full):
            raise UserError(f"--full does not go with --{flag}; run them one after the other")
        if not re.fullmatch(r"ours|lewm|ahead=[1-9]\d*", self.protocol):
            raise UserError(f"--protocol {self.protocol} is not ours, lewm or ahead=N, N from 1")
        check_cluster(self.cluster)
        read_variation(self.vary)

    @property
    def goal_steps(self) -> int | None:
        """Environment steps from start to goal, if other than the task's."""
        _, _, steps = self.protocol.partition("=")
        return int(steps) if steps else None


def read_planner(text: str | None) -> tuple[str | None, dict[str, Any]]:
    """Return the kind, if given, and the settings of KIND, NAME=VALUE,... or KIND,NAME=VALUE,..."""
    kind, changes = None, {}
    names = {field.name for field in fields(PlannerConfig)} - {"kind"} | {"replan_every"}
    for word in text.split(",") if text is not None else []:
        name, _, value = word.strip().partition("=")
        if word.strip() in (*PLANNERS, ORACLE):
            kind = word.strip()
        elif (setting := name.replace("-", "_")) in names:
            try:
                changes[setting] = json.loads(value)
            except ValueError as error:
                raise UserError(f"--planner {text}: {name} must be a number") from error
        else:
            raise UserError(
                f"--planner {text}: {word.strip()!r} is neither a planner "
                f"({', '.join((*PLANNERS, ORACLE))}) nor NAME=VALUE ({', '.join(sorted(names))})"
            )
    return kind, changes
