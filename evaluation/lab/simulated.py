"""The agent with true dynamics: candidates are run by the simulator, filmed and encoded."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mujepa.agent.configurator import Configurator
from mujepa.evaluation.policies import AgentPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.memory import Memory
    from mujepa.agent.mpc import AgentState
    from mujepa.envs.world import World
    from mujepa.evaluation.policies import Observation


@dataclass(frozen=True)
class SimulatedPolicy(AgentPolicy):
    """The agent with true dynamics: it looks at what its plans lead to in place of imagining it.

    The simulator runs every candidate, the camera films it and the encoder reads the images; the
    cost and the search are the agent's. What it holds and the agent does not is lost to the world
    model; what it does not hold and the oracle does, to the representation or the cost.
    """

    world: World

    def reset(
        self, observation: Observation, info: dict[str, Any], seeds: Sequence[int]
    ) -> AgentState:
        """Want what the goals show.

        Raises:
            ValueError: the episodes vary; only the task's own world is simulated.
        """
        if "variation" in info:
            raise ValueError("episodes that vary cannot be simulated in the task's own world")
        return super().reset(observation, info, seeds)

    def act(
        self, state: AgentState, observation: Observation
    ) -> tuple[AgentState, NDArray[np.float32]]:
        """Plan in the simulator, from its states."""
        agent, whole = copy.copy(self.agent), self.agent.configurator
        agent.configurator = Filmed(
            whole.jepa, whole.critic, whole.cost, self.world, observation["state"]
        )
        return agent.act(state, observation[agent.observes])


@dataclass(frozen=True)
class Filmed(Configurator):
    """A configurator whose cost is of what truly follows.

    Attributes:
        world: the simulator.
        states: of the environments at present, (B, S).
    """

    world: World
    states: NDArray[np.float64]

    def rollout(self, memory: Memory, actions: Tensor) -> Tensor:
        """Run action sequences (B, N, H, A); return the embeddings (B, N, H, D) of what is seen."""
        batch, candidates, horizon, size = actions.shape
        controls = self.world.from_unit(actions.reshape(-1, horizon, size).cpu().numpy())
        starts = self.states.repeat(candidates, axis=0)
        passed, _ = self.world.rollout(starts, controls, self.world.task.frame_skip)
        films = (self.world.observe(step, self.jepa.observes) for step in passed.swapaxes(0, 1))
        embeddings = [self.jepa.encode(torch.from_numpy(f).to(actions.device)) for f in films]
        return torch.stack(embeddings, dim=1).unflatten(0, (batch, candidates))
