"""Configurator: turns a goal into the cost function that the planner minimises."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mujepa.agent.cost import Cost, Goal, Trajectory
from mujepa.agent.critic import Critic
from mujepa.agent.jepa import JEPA
from mujepa.agent.memory import Memory
from mujepa.planners import CostFn


@dataclass(frozen=True)
class Configurator:
    """The world model, the critic and the cost of an agent."""

    jepa: JEPA
    critic: Critic
    cost: Cost

    def goal(self, observations: Tensor) -> Goal:
        """Return the goals that observations (B, ...) show, each of a world at rest."""
        return self.goal_from_embedding(self.jepa.encode(observations))

    def goal_from_embedding(self, embedding: Tensor) -> Goal:
        """Return the goals of embeddings (B, D), each of a world at rest."""
        return Goal(embedding, self.critic.features(embedding, embedding))

    def rollout(self, memory: Memory, actions: Tensor) -> Tensor:
        """Return the embeddings (B, N, H, D) that actions (B, N, H, A) lead to; overridable."""
        return self.jepa.rollout(memory, actions)

    def cost_fn(self, memory: Memory, goal: Goal) -> CostFn:
        """Return the cost of action sequences (B, N, H, A) from a memory of B rows, (B, N)."""

        def cost(actions: Tensor) -> Tensor:
            return self.cost(Trajectory(self.rollout(memory, actions), actions, memory), goal)

        return cost
