"""What an evaluation is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mujepa.agent.checkpoint import ActorMode
from mujepa.agent.device import DeviceName
from mujepa.envs.variation import read_variation
from mujepa.planners import PlannerKind
from mujepa.runtime.cluster import check_cluster
from mujepa.runtime.errors import UserError


@dataclass(frozen=True)
class EvaluateConfig:
    """Judge a checkpoint on a frozen set of episodes that training never saw.

    Prints a table and writes result.json, report.html and a video to --out. Every figure has its
    Wilson 95 % interval and stands beside random actions, zero actions, the agent with plain
    latent distance as its cost, its reactive actor alone, and the oracle: the same planner with the
    true simulator.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of a checkpoint or of a training run."""
    episodes: int = 200
    """Episodes to judge on."""
    seed: int = 0
    """Seed of the episodes and of the planner."""
    vary: tuple[str, ...] = ()
    """What differs from episode to episode, NAME=LOW:HIGH or NAME=VALUE, such as `mass=0.5:2
    light=0.3:1`; starts and goals are the same as without."""
    goal_steps: int | None = None
    """For tasks whose goals lie so many steps ahead of the start: another number of steps, with a
    budget that grows with it."""
    protocol: Literal["ours", "lewm"] = "ours"
    """`lewm` draws episodes as LeWorldModel's evaluation does, whose success is what we call
    reached: start and goal 25 steps apart on a held-out trajectory, a budget of 50 steps, starts
    that are already solved kept and counted."""
    full: bool = False
    """Also look into the agent: sweeps over goal distance, replanning and factors of variation,
    what its embeddings hold, how far it imagines rightly, whether it is surprised by the
    impossible, and which part its failures owe to. All of it with figures in the report."""
    sweep_episodes: int = 50
    """With --full: episodes of each condition that is swept over."""
    failures: int = 5
    """With --full: failed episodes that are tried again with true parts, which takes long; 0 leaves
    this out."""
    planner: PlannerKind | Literal["oracle"] | None = None
    """Another planner than the checkpoint's; `oracle` judges the true simulator as the model. The
    simulator has no gradient: instead of `gradient` the oracle searches with `icem`."""
    actor: ActorMode | None = None
    """Who acts, if not as the checkpoint says: the planner alone, `proposing`: the planner to which
    the actor proposes a sequence, or `reactive`: the actor alone, without a search."""
    cost: str | None = None
    """Another cost than the checkpoint's, for example `critic + 0.05*goal` or, with what the body
    must keep out of in the units of its sensors, `critic + 100*avoid(x>0.1)`. Success stays what
    the goal images ask for, whatever the cost."""
    replan_every: int | None = None
    """Model steps through which a plan is followed, if not the checkpoint's; up to the horizon."""
    horizon: int | None = None
    """Model steps to look ahead, if not the checkpoint's."""
    samples: int | None = None
    """Candidates per iteration, if not the checkpoint's."""
    iterations: int | None = None
    """Iterations of the planner, if not the checkpoint's."""
    oracle: bool = True
    """Also run the oracle; it takes most of the time."""
    oracle_episodes: int | None = None
    """Episodes for the oracle, if not all: the first so many."""
    out: Path | None = None
    """Folder of the results; by default `evaluation` in the checkpoint's folder."""
    device: DeviceName = "auto"
    """Where to compute."""
    cluster: str | None = None
    """Spread the episodes over a cluster of Ray: `local`, `auto` or `ray://HOST:PORT`
    (docs/scale.md); the checkpoint has to be on a disk that its machines share. The result is the
    same. What --full adds runs here."""

    def __post_init__(self) -> None:
        for name in ("episodes", "oracle_episodes", "sweep_episodes", "replan_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("seed", "failures"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} must not be negative, got {getattr(self, name)}")
        if self.goal_steps is not None and self.goal_steps < 1:
            raise UserError(f"--goal-steps must be at least 1, got {self.goal_steps}")
        if self.planner == "oracle" and self.actor is not None:
            raise UserError(
                f"--actor {self.actor} is of the agent, --planner oracle judges the simulator; "
                "leave out one of the two"
            )
        if self.planner == "oracle" and self.cost is not None:
            raise UserError(
                f"--cost {self.cost} has no part in what --planner oracle does, which searches by "
                "the task's own distance; leave it out"
            )
        for flag, given in (
            ("--vary", bool(self.vary)),
            ("--planner oracle", self.planner == "oracle"),
            ("--protocol lewm", self.protocol == "lewm"),
        ):
            if self.full and given:
                raise UserError(f"--full does not go with {flag}; run them one after the other")
        if self.protocol == "lewm" and self.goal_steps is not None:
            raise UserError(
                f"--protocol lewm has goals 25 steps ahead, not --goal-steps {self.goal_steps}; "
                "leave out one of the two"
            )
        check_cluster(self.cluster)
        read_variation(self.vary)
