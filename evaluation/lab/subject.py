"""The agent that the lab looks into, as it was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mujepa.agent.checkpoint import ActorMode, Checkpoint
    from mujepa.agent.mpc import Agent
    from mujepa.planners import PlannerConfig


@dataclass(frozen=True)
class Subject:
    """A checkpoint, and what differs from it.

    Attributes:
        checkpoint: of the agent.
        planner: its search.
        cost: its cost, if not the checkpoint's.
        actor: who acts, if not as the checkpoint says.
    """

    checkpoint: Checkpoint
    planner: PlannerConfig
    cost: str | None = None
    actor: ActorMode | None = None

    @property
    def reactive(self) -> bool:
        """Whether the actor acts alone."""
        return (self.actor or self.checkpoint.config.actor_mode) == "reactive"

    def agent(self, replan_every: int | None = None) -> Agent:
        """Return the agent, following each plan for so many model steps if given."""
        checkpoint = self.checkpoint
        if replan_every is not None:
            config = replace(checkpoint.config, replan_every=replan_every)
            checkpoint = replace(checkpoint, config=config)
        return checkpoint.agent(self.planner, self.cost, self.actor)
