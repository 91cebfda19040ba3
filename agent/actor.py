"""Actor, mode 1: a policy that chooses an action without a search, or proposes some to the planner.

Unrolled in the world model, it minimises the planner's cost (as in Dreamer, arXiv 1912.01603;
Henaff et al., arXiv 1901.02705), and can imitate the data (hindsight, arXiv 1903.01973).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mujepa.agent.jepa import JEPA
from mujepa.agent.memory import Memory
from mujepa.runtime.settings import Count, settings


@settings
class ActorConfig:
    """The reactive policy.

    Attributes:
        width: hidden units.
        depth: hidden layers.
    """

    width: Count = 256
    depth: Count = 2


class Actor(nn.Module):
    """A perceptron from memory and goal to an action in [-1, 1].

    Letters: B batch, K history, H horizon, D embedding, A action.
    """

    def __init__(self, config: ActorConfig, history: int, dim: int, action_size: int) -> None:
        super().__init__()
        self.config = config
        inputs = (history + 1) * dim + (history - 1) * action_size
        sizes = [inputs] + [config.width] * config.depth
        hidden = [
            nn.Sequential(nn.Linear(i, o), nn.LayerNorm(o), nn.SiLU()) for i, o in pairwise(sizes)
        ]
        self.decide = nn.Sequential(*hidden, nn.Linear(config.width, action_size), nn.Tanh())

    def forward(self, memory: Memory, goal: Tensor) -> Tensor:
        """Return the actions (B, A) towards goal embeddings (B, D)."""
        inputs = [memory.embeddings.flatten(1), memory.actions.flatten(1), goal]
        return self.decide(torch.cat(inputs, dim=1))

    def rollout(
        self, jepa: JEPA, memory: Memory, goal: Tensor, horizon: int
    ) -> tuple[Tensor, Tensor]:
        """Act in the world model -> embeddings (B, H, D) and actions (B, H, A)."""
        embeddings, actions = [], []
        for _ in range(horizon):
            action = self(memory, goal)
            memory = memory.push(action, jepa.predictor(memory, action))
            embeddings.append(memory.embeddings[:, -1])
            actions.append(action)
        return torch.stack(embeddings, dim=1), torch.stack(actions, dim=1)
