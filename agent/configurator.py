"""Configurator: turns a task's goal into the cost function that the planner minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from mujepa.agent.cost import Cost, Goal, Trajectory

if TYPE_CHECKING:
    from mujepa.agent.critic import Critic
    from mujepa.agent.jepa import JEPA
    from mujepa.agent.memory import Memory
    from mujepa.planners import CostFn


@dataclass(frozen=True)
class Configurator:
    """The world model, the critic and the cost, put to use for one goal."""

    jepa: JEPA
    critic: Critic
    cost: Cost

    def goal(self, observations: Tensor) -> Goal:
        """Return the goals that observations (B, ...) show: worlds at rest."""
        return self.goal_from_embedding(self.jepa.encode(observations))

    def goal_from_embedding(self, embedding: Tensor) -> Goal:
        """Return the goals of embeddings (B, D) of worlds at rest."""
        return Goal(embedding, self.critic.features(embedding, embedding))

    def cost_fn(self, memory: Memory, goal: Goal) -> CostFn:
        """Return the cost of action sequences (B, N, H, A) from what is remembered, (B, N)."""

        def cost(actions: Tensor) -> Tensor:
            imagined = self.rollout(memory, actions)
            return self.cost(Trajectory(imagined, actions, memory), goal)

        return cost

    def rollout(self, memory: Memory, actions: Tensor) -> Tensor:
        """Return the embeddings (B, N, H, D) that action sequences (B, N, H, A) lead to."""
        return self.jepa.rollout(memory, actions)
