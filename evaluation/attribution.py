"""Where failures come from: the agent with a true part swapped in, one at a time."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mujepa.evaluation.policies import AgentPolicy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.jepa import JEPA
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

    def act(
        self, state: AgentState, observation: Observation
    ) -> tuple[AgentState, NDArray[np.float32]]:
        """Plan in the simulator, from its states."""
        agent = copy.copy(self.agent)
        seen = Filmed(agent.jepa, self.world, observation["state"])
        agent.configurator = replace(agent.configurator, jepa=seen)  # pyright: ignore
        return agent.act(state, observation[agent.observes])


@dataclass(frozen=True)
class Filmed:
    """Stands in for the world model of a cost: embeddings of what truly follows.

    Attributes:
        jepa: its encoder is used.
        world: the simulator.
        states: of the environments at present, (B, S).
    """

    jepa: JEPA
    world: World
    states: NDArray[np.float64]

    def rollout(self, memory: Memory, actions: Tensor) -> Tensor:
        """Run candidates (B, N, H, A) and return the embeddings (B, N, H, D) of what is seen."""
        batch, candidates, horizon, size = actions.shape
        controls = self.world.from_unit(actions.reshape(-1, horizon, size).cpu().numpy())
        starts = self.states.repeat(candidates, axis=0)
        passed, _ = self.world.rollout(starts, controls, self.world.task.frame_skip)
        embeddings = [
            self.jepa.encode(torch.from_numpy(seen).to(actions.device))
            for seen in (
                self.world.observe(step, self.jepa.observes) for step in passed.swapaxes(0, 1)
            )
        ]
        return torch.stack(embeddings, dim=1).unflatten(0, (batch, candidates))
