"""Actor, mode 1: a policy that acts at once, without a search.

It learns what the planner would search for. Unrolled in the world model, its own actions lead
somewhere, and the gradient of the planner's cost of getting there teaches it (as in Dreamer, arXiv
1912.01603; Henaff et al., arXiv 1901.02705); what was done in the data on the way to where it led
can teach it as well (hindsight, arXiv 1903.01973). It acts alone, or proposes a sequence to the
planner, which is mode 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mujepa.agent.memory import Memory

if TYPE_CHECKING:
    from mujepa.agent.jepa import JEPA


@dataclass(frozen=True)
class ActorConfig:
    """The reactive policy.

    Attributes:
        width: hidden units.
        depth: hidden layers.
    """

    width: int = 256
    depth: int = 2

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise ValueError(f"actor needs width and depth of at least 1, got {self}")


class Actor(nn.Module):
    """A perceptron from what is remembered and what is wanted to an action in [-1, 1].

    Letters: B batch, K history, H horizon, D embedding, A action.

    Args:
        config: sizes.
        history: K.
        dim: D.
        action_size: A.
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
        """Return the actions (B, A) towards goals (B, D)."""
        seen = [memory.embeddings.flatten(1), memory.actions.flatten(1), goal]
        return self.decide(torch.cat(seen, dim=1))

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
