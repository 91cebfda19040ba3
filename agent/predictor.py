"""World model, part two: the next embedding from the last embeddings and actions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mujepa.agent.memory import Memory
from mujepa.runtime.settings import Count, settings


@settings
class PredictorConfig:
    """The predictor of the next embedding.

    Attributes:
        history: K, embeddings that the predictor reads; velocities need two.
        width: hidden units.
        depth: hidden layers.
        past_actions: whether it also reads the previous actions. If a policy that saw the true
            state made the data, its actions reveal that state and mislead an agent that acts
            otherwise (causal confusion, arXiv 1905.11979).
    """

    history: Count = 2
    width: Count = 192
    depth: Count = 2
    past_actions: bool = True


class Predictor(nn.Module):
    """A residual perceptron: z_{t+1} = z_t + f(z_{t-K+1..t}, a_{t-K+1..t}), or f(..., a_t)."""

    def __init__(self, config: PredictorConfig, dim: int, action_size: int) -> None:
        super().__init__()
        self.past_actions = config.past_actions
        actions = config.history if config.past_actions else 1
        sizes = [config.history * dim + actions * action_size] + [config.width] * config.depth
        hidden = [nn.Sequential(nn.Linear(i, o), nn.SiLU()) for i, o in pairwise(sizes)]
        self.change = nn.Sequential(*hidden, nn.Linear(config.width, dim))

    def forward(self, memory: Memory, action: Tensor) -> Tensor:
        """Return the next embedding (B, D) after `action` (B, A)."""
        if self.past_actions:
            inputs = memory.inputs(action)
        else:
            inputs = torch.cat([memory.embeddings.flatten(1), action], dim=1)
        return memory.embeddings[:, -1] + self.change(inputs)

    @torch.no_grad()
    def unroll(self, memory: Memory, actions: Tensor) -> Tensor:
        """Predict open loop without a gradient, (B, H, A) -> embeddings (B, H, D).

        Equals repeated calls of `forward`, but faster: all embeddings lie in one buffer, so that
        each step reads its inputs without a copy and writes where the next step reads.
        """
        first, *hidden, last = [it for it in self.change.modules() if isinstance(it, nn.Linear)]
        (batch, history, dim), horizon = memory.embeddings.shape, actions.shape[1]
        if self.past_actions:
            actions = torch.cat([memory.actions, actions], dim=1)
            actions = actions.unfold(1, history, 1).transpose(2, 3)
        seen = actions.transpose(0, 1).reshape(horizon, batch, -1)
        row = memory.embeddings.new_empty(batch, history + horizon, dim)
        row[:, :history] = memory.embeddings
        of_embeddings, of_actions = first.weight.T.split([history * dim, seen.shape[2]])
        moved = row.new_empty(batch, first.out_features)
        layers = [
            (layer.bias, layer.weight.T, row.new_empty(batch, layer.out_features))
            for layer in hidden
        ]
        for now, action in enumerate(seen.unbind(), start=history):
            torch.addmm(first.bias, action, of_actions, out=moved)
            moved.addmm_(row[:, now - history : now].flatten(1), of_embeddings)
            values = functional.silu(moved, inplace=True)
            for bias, weight, output in layers:
                torch.addmm(bias, values, weight, out=output)
                values = functional.silu(output, inplace=True)
            torch.add(row[:, now - 1], last.bias, out=row[:, now])
            row[:, now].addmm_(values, last.weight.T)
        return row[:, history:]
