"""The agent, watched: what surprises it, and the threshold of its alarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mujepa.agent.alarm import FALSE_ALARMS
from mujepa.agent.mpc import AgentState
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import manifest_of
from mujepa.evaluation.policies import AgentPolicy

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.mpc import Agent
    from mujepa.envs.world import World
    from mujepa.evaluation.policies import Observation

STREAM = 9
"""Second word of the random streams of the episodes that a threshold is set on."""
EPISODES = 100
"""How many they are."""


@dataclass(frozen=True)
class WatchedPolicy(AgentPolicy):
    """The agent, and somebody who is told of its state before and after each look at the world."""

    watch: Callable[[AgentState, AgentState], object]

    def act(
        self, state: AgentState, observation: Observation
    ) -> tuple[AgentState, NDArray[np.float32]]:
        """Act as the agent does."""
        after, action = super().act(state, observation)
        if state.step % self.agent.frame_skip == 0:
            self.watch(state, after)
        return after, action


def listen(agent: Agent) -> tuple[WatchedPolicy, list[Tensor]]:
    """Return an agent with an alarm as a policy, and a list that its surprises (B,) are added to.

    They are those of each look but the first of an episode, which nothing led to.
    """
    heard: list[Tensor] = []

    def watch(before: AgentState, after: AgentState) -> None:
        if after.surprise is not None:
            heard.append(after.surprise)

    return WatchedPolicy(agent, watch), heard


def usual_threshold(
    agent: Agent,
    world: World,
    seed: int,
    share: float = FALSE_ALARMS,
    episodes: int = EPISODES,
) -> float:
    """Return the surprise that so large a share of the looks at the usual world is above.

    Args:
        agent: with an alarm that only watches.
        world: the usual one.
        seed: of the episodes, which are apart from those of training and judging.
        share: of the looks.
        episodes: how many.
    """
    streams = (np.random.default_rng([seed, STREAM, index]) for index in range(episodes))
    manifest = manifest_of([world.sample_episode(rng) for rng in streams], seed)
    policy, heard = listen(agent)
    run_episodes(world.task, world.image_size, policy, manifest)
    return float(torch.cat(heard).double().quantile(1 - share))
