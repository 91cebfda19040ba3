"""Planning by the gradient of the cost through the model."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mujepa.planners.base import Bounds, CostFn, Generators, Planner, SamplingState
from mujepa.runtime.settings import Positive, settings

BETAS = 0.9, 0.99
"""Of Adam (arXiv 1412.6980): over some ten steps the second moment has to adapt fast."""


@settings
class GradientDescent(Planner):
    """Projected gradient descent with Adam from the warm start and from random starts.

    `samples` is the number of starts, `iterations` that of the steps. The cost needs a gradient: a
    learned model has one, the simulator has none.
    """

    needs_gradient: ClassVar[bool] = True

    learning_rate: Positive = 0.1  # of Adam, in half-widths of the bounds

    @property
    def rounds(self) -> int:
        """One round: the starts are drawn once, and all steps refine them."""
        return 1

    def sample(self, state: SamplingState, bounds: Bounds, generators: Generators) -> Tensor:
        """Draw random starts from a cold start's distribution."""
        cold = self.start(len(generators), bounds)
        noise = self.noise(state.mean, generators, self.samples)
        return cold.mean[:, None] + cold.std[:, None] * noise

    def refine(self, cost: CostFn, actions: Tensor, bounds: Bounds) -> Tensor:
        """Return the starts, and where the steps of Adam take them."""
        unit = (actions / bounds.half).detach().requires_grad_()
        adam = torch.optim.Adam([unit], lr=self.learning_rate, betas=BETAS)
        for _ in range(self.iterations):
            unit.grad = torch.cat([_gradient(cost, p, bounds) for p in self.chunks(unit)], dim=1)
            adam.step()
            with torch.no_grad():
                unit.copy_(bounds.clip(unit * bounds.half) / bounds.half)
        refined = bounds.clip(unit.detach() * bounds.half)
        return torch.cat([actions, refined], dim=1)


def _gradient(cost: CostFn, unit: Tensor, bounds: Bounds) -> Tensor:
    """Return the gradient of the costs in unit actions (B, N, H, A), zero where not finite."""
    with torch.enable_grad():
        leaf = unit.detach().requires_grad_()
        costs = cost(leaf * bounds.half)
        if not costs.requires_grad:
            raise ValueError("the cost function has no gradient; use a sampling planner")
        (gradient,) = torch.autograd.grad(costs.sum(), leaf)
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
