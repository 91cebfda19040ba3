"""One episode of an agent, kept whole, so that pictures can be drawn of any part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.memory import Memory
    from mujepa.agent.mpc import Agent, AgentState
    from mujepa.envs.variation import Variant
    from mujepa.envs.world import Episode, World


@dataclass(frozen=True)
class Walk:
    """What happened in T environment steps, and what the agent had in mind.

    Attributes:
        world: where.
        agent: who.
        variant: the episode's own world, if not the task's.
        goal: state that is wanted, (S,).
        states: of the simulator, from the start on, (T + 1, S).
        minds: the agent's state after each step; it looks, and decides, at every
            `frame_skip`-th.
    """

    world: World
    agent: Agent
    variant: Variant | None
    goal: NDArray[np.float64]
    states: NDArray[np.float64]
    minds: tuple[AgentState, ...]

    @property
    def decisions(self) -> tuple[AgentState, ...]:
        """The agent's state after each look."""
        return self.minds[:: self.agent.frame_skip]

    @property
    def embeddings(self) -> Tensor:
        """What it saw at each look, (M, D)."""
        return torch.cat([remembered(mind).embeddings[:, -1] for mind in self.decisions])

    @property
    def actions(self) -> Tensor:
        """What it did after each look, (M, A), in [-1, 1]."""
        return torch.cat([mind.action for mind in self.decisions if mind.action is not None])

    def images(self, states: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return what the camera of the episode's world sees in states, (N, S) -> (N, P, P, 3)."""
        return self.world.render(states, [self.variant] * len(states) if self.variant else None)

    @property
    def goal_image(self) -> NDArray[np.uint8]:
        """The image of the goal, (P, P, 3)."""
        variants = [self.variant] if self.variant else None
        return self.world.observe_goals(self.goal[None], "pixels", variants)[0]

    def distance(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far states are from the goal, (N, S) -> (N,)."""
        wanted = self.world.achieved(self.goal[None])
        return self.world.task.distance(self.world.achieved(states), wanted)


def walk(agent: Agent, world: World, episode: Episode, seed: int, steps: int | None = None) -> Walk:
    """Let the agent act for so many environment steps, or for the task's budget."""
    variant = world.variant(episode.draw)
    variants = [variant] if variant else None
    mind = agent.reset(world.observe_goals(episode.goal[None], agent.observes, variants)[0], seed)
    states, minds, seen = [episode.start], [], np.empty(0)
    for step in range(world.task.budget_steps if steps is None else steps):
        if step % agent.frame_skip == 0:
            seen = world.observe(states[-1][None], agent.observes, variants)[0]
        mind, action = agent.act(mind, seen)
        minds.append(mind)
        states.append(world.step(states[-1][None], action[None], variants)[0])
    return Walk(world, agent, variant, episode.goal, np.stack(states), tuple(minds))


def remembered(mind: AgentState) -> Memory:
    """Return the memory of an agent that has looked."""
    assert mind.memory is not None
    return mind.memory
