"""Planning by the gradient of the cost through the model, alone and after sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mujepa.planners.base import Bounds, Planner, Search, Slope
from mujepa.planners.icem import ICEM
from mujepa.planners.noise import correlated_noise

BETAS, EPSILON = (0.9, 0.99), 1e-8
"""Of Adam (arXiv 1412.6980); for some ten steps the second moment has to follow fast."""


@dataclass(frozen=True)
class Descent(Search):
    """A search under way: the restarts are its `elites`; Adam's moments, and its steps so far."""

    first: Tensor | None = None
    second: Tensor | None = None
    steps: int = 0


class GradientDescent(Planner):
    """Projected gradient descent with Adam from several starts, the warm start among them.

    The cost has to have a gradient: a learned model does, the simulator does not.

    Args:
        learning_rate: of Adam, in half-widths of the bounds.
        **settings: those of every planner; `samples` are the starts, `iterations` the steps.

    Raises:
        ValueError: a number is out of range.
    """

    differentiates = True

    def __init__(self, *, learning_rate: float = 0.1, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        self.learning_rate = checked_rate(learning_rate)

    @property
    def rounds(self) -> int:
        """How many times candidates are looked at: before each step, and after the last."""
        return self.iterations + 1

    def population(self, iteration: int) -> int:
        """Return how many candidates a round looks at: the starts, and the best so far."""
        return self.samples + 1

    def sample(
        self, search: Search, bounds: Bounds, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Draw the starts: the warm start, and others from a search that knows nothing."""
        if isinstance(search, Descent):
            return search.mean[:, None][:, :0]
        _, horizon, size = search.mean.shape
        fresh = self.start(len(generators), bounds)
        noise = correlated_noise(generators, self.samples - 1, horizon, size, self.correlation)
        others = fresh.mean[:, None] + fresh.std[:, None] * noise.to(search.mean)
        return torch.cat([search.mean[:, None], others], dim=1)

    def update(
        self, search: Search, bounds: Bounds, actions: Tensor, costs: Tensor, slope: Slope
    ) -> Search:
        """Take a step of Adam from every start; the mean becomes the best of what was seen."""
        value, index = costs.min(dim=1)
        best = actions[torch.arange(len(actions), device=index.device), index]
        mean = torch.where(value.isfinite()[:, None, None], best, search.mean)
        steps = search.steps if isinstance(search, Descent) else 0
        if steps == self.iterations:
            return replace(search, mean=mean)
        starts = actions[:, 1:]
        half = (bounds.high - bounds.low) / 2
        gradient = slope(starts) * half
        zero = torch.zeros_like(gradient)
        moments, steps = (zero, zero), steps + 1
        if isinstance(search, Descent) and search.first is not None and search.second is not None:
            moments = search.first, search.second
        first = BETAS[0] * moments[0] + (1 - BETAS[0]) * gradient
        second = BETAS[1] * moments[1] + (1 - BETAS[1]) * gradient.square()
        scaled = (second / (1 - BETAS[1] ** steps)).sqrt() + EPSILON
        move = self.learning_rate * half * first / (1 - BETAS[0] ** steps) / scaled
        return Descent(mean, search.std, bounds.clip(starts - move), first, second, steps)

    def shift(self, search: Search, bounds: Bounds, steps: int = 1) -> Search:
        """Return the warm start `steps` model steps on; all starts but this one are drawn anew."""
        return super().shift(replace(search, elites=None), bounds, steps)


class Hybrid(ICEM):
    """Improved cross-entropy method whose kept elites take a few steps along the gradient.

    Args:
        gradient_steps: how many, after each iteration.
        learning_rate: root mean square of a step, in half-widths of the bounds.
        **settings: those of the improved cross-entropy method.

    Raises:
        ValueError: a number is out of range.
    """

    differentiates = True

    def __init__(
        self,
        *,
        gradient_steps: int = 2,
        learning_rate: float = 0.1,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**settings)
        if gradient_steps < 1:
            raise ValueError(f"gradient_steps must be at least 1, got {gradient_steps}")
        self.gradient_steps = gradient_steps
        self.learning_rate = checked_rate(learning_rate)

    def update(
        self, search: Search, bounds: Bounds, actions: Tensor, costs: Tensor, slope: Slope
    ) -> Search:
        """Refit, and keep the elites both as they are and a few steps down the slope."""
        search = super().update(search, bounds, actions, costs, slope)
        assert search.elites is not None
        half, moved = (bounds.high - bounds.low) / 2, search.elites
        for _ in range(self.gradient_steps):
            gradient = slope(moved) * half
            size = gradient.square().mean(dim=(-1, -2), keepdim=True).sqrt()
            moved = bounds.clip(moved - self.learning_rate * half * gradient / (size + EPSILON))
        return replace(search, elites=torch.cat([moved, search.elites], dim=1))


def checked_rate(learning_rate: float) -> float:
    """Return the learning rate.

    Raises:
        ValueError: it is not positive.
    """
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    return learning_rate
