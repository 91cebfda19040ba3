"""One episode of an agent with all of its internal states, for videos and figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mujepa.agent.memory import Memory
from mujepa.agent.mpc import Agent, AgentState
from mujepa.envs.variation import Variant
from mujepa.envs.world import Episode, World
from mujepa.evaluation.loop import step_episodes
from mujepa.evaluation.manifest import Manifest
from mujepa.evaluation.policies import AgentPolicy


@dataclass(frozen=True)
class EpisodeTrace:
    """One episode of T environment steps; the agent decides at every `frame_skip`-th."""

    world: World
    agent: Agent
    variant: Variant | None  # the episode's varied world, or None for the task's own
    goal: NDArray[np.float64]  # (S,)
    states: NDArray[np.float64]  # from the start on, (T + 1, S)
    agent_states: tuple[AgentState, ...]  # after each step

    @property
    def decisions(self) -> tuple[AgentState, ...]:
        """The agent's state after each observation, M in all."""
        return self.agent_states[:: self.agent.frame_skip]

    @property
    def embeddings(self) -> Tensor:
        """Embedding of each observation, (M, D)."""
        return torch.cat([memory_of(state).embeddings[:, -1] for state in self.decisions])

    @property
    def actions(self) -> Tensor:
        """Action after each observation, (M, A), in [-1, 1]."""
        return torch.cat([state.action for state in self.decisions if state.action is not None])

    def images(self, states: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Render states in the episode's world, (N, S) -> (N, P, P, 3)."""
        return self.world.render(states, [self.variant] * len(states) if self.variant else None)

    @property
    def goal_image(self) -> NDArray[np.uint8]:
        """The image of the goal, (P, P, 3)."""
        variants = [self.variant] if self.variant else None
        return self.world.observe_goals(self.goal[None], "pixels", variants)[0]

    def distance(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of states to the goal, (N, S) -> (N,)."""
        desired = self.world.achieved(self.goal[None])
        return self.world.task.distance(self.world.achieved(states), desired)


def trace_episode(
    agent: Agent, world: World, episode: Episode, seed: int, steps: int | None = None
) -> EpisodeTrace:
    """Run the agent through an episode of `steps` environment steps, by default the budget."""
    manifest = Manifest([episode], [seed])
    run = step_episodes(world, AgentPolicy(agent), manifest, steps)
    states, agent_states = [episode.start], []
    for step in run:
        states.append(step.states[0])
        agent_states.append(step.policy_state)
    variant = world.variant(episode.draw)
    return EpisodeTrace(world, agent, variant, episode.goal, np.stack(states), tuple(agent_states))


def memory_of(state: AgentState) -> Memory:
    """Return the memory of an agent that has observed something."""
    assert state.memory is not None
    return state.memory
