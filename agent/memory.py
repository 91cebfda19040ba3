"""Short-term memory: the last embeddings, and the actions between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """The agent's memory, oldest first."""

    embeddings: Tensor  # (B, K, D), of the last K model steps
    actions: Tensor  # (B, K - 1, A), taken between them, in units of the bounds ([-1, 1])

    @classmethod
    def at_rest(cls, embedding: Tensor, history: int, action_size: int) -> Memory:
        """Return the memory of a world that was at rest at embeddings (B, D), without actions."""
        return cls(
            embedding[:, None].expand(-1, history, -1),
            embedding.new_zeros(len(embedding), history - 1, action_size),
        )

    def push(self, action: Tensor, embedding: Tensor) -> Memory:
        """Return the memory after taking `action` (B, A) and arriving at `embedding` (B, D)."""
        return Memory(
            torch.cat([self.embeddings[:, 1:], embedding[:, None]], dim=1),
            torch.cat([self.actions, action[:, None]], dim=1)[:, 1:],
        )

    def inputs(self, action: Tensor) -> Tensor:
        """Return the inputs of a prediction, (..., K * (D + A)), with the next action (..., A)."""
        actions = torch.cat([self.actions, action[..., None, :]], dim=-2)
        return torch.cat([self.embeddings.flatten(-2), actions.flatten(-2)], dim=-1)

    def repeat(self, candidates: int) -> Memory:
        """Return each row N times in succession, (B, ...) -> (B * N, ...), as read-only views."""
        return Memory(
            self.embeddings[:, None].expand(-1, candidates, -1, -1).flatten(0, 1),
            self.actions[:, None].expand(-1, candidates, -1, -1).flatten(0, 1),
        )
