"""The search loop over action sequences that all planners share.

A planner sees nothing but a function from actions to costs; an algorithm implements `sample`, and
`update` or `refine`. Letters: B environments, N candidates, H horizon in model steps, A action
size, K elites, I iterations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mujepa.planners.noise import correlated_noise
from mujepa.runtime.settings import Count, Positive, settings

Generators = Sequence[torch.Generator]  # one for each of the B environments, on the CPU
CostFn = Callable[[Tensor], Tensor]
"""Actions (B, N, H, A) -> cost (B, N); lower is better, NaN counts as infinitely bad."""
ACCELERATOR_CHUNK = 64  # factor by which the chunk is larger on an accelerator than on a CPU


@dataclass(frozen=True)
class Bounds:
    """The box of valid actions: `low` and `high`, (A,) each."""

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        shapes_fit = self.low.shape == self.high.shape and self.low.ndim == 1
        if not shapes_fit or not bool((self.low < self.high).all()):
            raise ValueError(
                f"bounds need low < high of one shape (A,), got {self.low} and {self.high}"
            )

    @property
    def half(self) -> Tensor:
        """Half-widths of the box, (A,)."""
        return (self.high - self.low) / 2

    def clip(self, actions: Tensor) -> Tensor:
        """Return the nearest actions inside the box, (..., A)."""
        return torch.clamp(actions, self.low, self.high)


@dataclass(frozen=True)
class SamplingState:
    """The distribution from which a planner samples, and sequences that it tries in any case."""

    mean: Tensor  # (B, H, A)
    std: Tensor  # (B, H, A)
    elites: Tensor | None = None  # (B, K, H, A), kept by the planner or added as candidates

    def add_candidates(self, actions: Tensor) -> SamplingState:
        """Return the state with sequences (B, K, H, A) among the next candidates."""
        elites = actions if self.elites is None else torch.cat([actions, self.elites], dim=1)
        return replace(self, elites=elites)


@dataclass(frozen=True)
class Trace:
    """The progress of a search."""

    lowest: Tensor  # lowest cost of each iteration, (I, B)
    median: Tensor  # median cost of each iteration, (I, B)
    candidates: Tensor  # candidates of the last iteration, (B, N, H, A)
    costs: Tensor  # costs of the last iteration, (B, N)


@dataclass(frozen=True)
class Plan:
    """The result of a search."""

    actions: Tensor  # the best sequence found, (B, H, A)
    cost: Tensor  # its cost, (B,); infinite if no candidate had a finite cost
    sampling: SamplingState  # the final one; `Planner.shift` turns it into the next warm start
    trace: Trace  # costs by iteration, and the last candidates


@settings
class Planner(ABC):
    """An optimiser of action sequences; subclasses implement `sample`.

    Raises:
        UserError: a setting is out of range.
    """

    needs_gradient: ClassVar[bool] = False  # whether the planner differentiates the cost function

    horizon: Count = 5  # H, model steps to look ahead
    samples: Count = 64  # N, candidates per iteration
    iterations: Count = 4  # I, rounds of sampling and updating
    initial_std: Positive = 0.7  # standard deviation of a cold start, in half-widths of the bounds
    correlation: Annotated[float, Field(ge=0, lt=1)] = 0.5  # of the noise of neighbouring steps
    chunk: Count = 1024
    """Maximum number of sequences in one call of the cost function, over all environments. The
    default fits the cache of a CPU core; an accelerator gets 64 times as many."""

    @abstractmethod
    def sample(self, state: SamplingState, bounds: Bounds, generators: Generators) -> Tensor:
        """Draw candidates (B, N, H, A), row b with `generators[b]` only; `plan` clips them."""

    def update(
        self, state: SamplingState, bounds: Bounds, actions: Tensor, costs: Tensor
    ) -> SamplingState:
        """Return the next distribution, given costs (B, N), NaN-free, of actions (B, N, H, A).

        By default the mean moves to the best candidate; where no cost is finite, it stays.
        """
        value, index = costs.min(dim=1)
        best = actions[torch.arange(len(actions), device=index.device), index]
        mean = torch.where(value.isfinite()[:, None, None], best, state.mean)
        return replace(state, mean=mean, elites=None)

    def refine(self, cost: CostFn, actions: Tensor, bounds: Bounds) -> Tensor:
        """Return improved candidates (B, N, H, A); by default the candidates as they are."""
        return actions

    @property
    def rounds(self) -> int:
        """How many times candidates are drawn and evaluated."""
        return self.iterations

    def population(self, iteration: int) -> int:
        """Return the number of candidates of an iteration."""
        return self.samples

    def start(self, batch: int, bounds: Bounds) -> SamplingState:
        """Return the distribution of a cold start, centred in the bounds."""
        centre = (bounds.high + bounds.low) / 2
        shape = (batch, self.horizon, len(bounds.low))
        return SamplingState(centre.expand(shape), (self.initial_std * bounds.half).expand(shape))

    def shift(self, state: SamplingState, bounds: Bounds, steps: int = 1) -> SamplingState:
        """Return the warm start `steps` model steps later, with the initial deviation."""
        cold = self.start(len(state.mean), bounds)
        elites = None if state.elites is None else advance(state.elites, steps)
        return SamplingState(advance(state.mean, steps), cold.std, elites)

    def noise(self, like: Tensor, generators: Generators, samples: int) -> Tensor:
        """Draw noise correlated over time (B, N, H, A) for means (B, H, A)."""
        _, horizon, size = like.shape
        return correlated_noise(generators, samples, horizon, size, self.correlation).to(like)

    def plan(
        self, cost: CostFn, state: SamplingState, bounds: Bounds, generators: Generators
    ) -> Plan:
        """Search for the action sequence of lowest cost.

        The mean of the distribution is a candidate in every iteration, so that the result is never
        worse than the warm start. Each of the B environments has a CPU generator, so that a plan
        depends neither on the other environments nor on the device.

        Raises:
            ValueError: shapes do not match.
        """
        batch = len(generators)
        shape = (batch, self.horizon, len(bounds.low))
        if state.mean.shape != shape or state.std.shape != shape:
            raise ValueError(
                f"a mean of shape {tuple(state.mean.shape)} and a deviation of shape "
                f"{tuple(state.std.shape)} do not fit {batch} generators, horizon {self.horizon} "
                f"and {len(bounds.low)} actions"
            )
        best, best_cost = bounds.clip(state.mean), state.mean.new_full((batch,), torch.inf)
        lowest, median = [], []
        candidates, costs = best[:, None], best_cost[:, None]
        for iteration in range(self.rounds):
            known = state.mean[:, None]
            if state.elites is not None:
                known = torch.cat([known, state.elites], dim=1)
            candidates = torch.cat([known, self.sample(state, bounds, generators)], dim=1)
            candidates = bounds.clip(candidates[:, : self.population(iteration)])
            candidates = self.refine(cost, candidates, bounds)
            costs = self._evaluate(cost, candidates)
            value, index = costs.min(dim=1)
            better = value < best_cost
            chosen = candidates[torch.arange(batch, device=index.device), index]
            best = torch.where(better[:, None, None], chosen, best)
            best_cost = torch.where(better, value, best_cost)
            lowest.append(value)
            median.append(costs.median(dim=1).values)
            state = self.update(state, bounds, candidates, costs)
        trace = Trace(torch.stack(lowest), torch.stack(median), candidates, costs)
        return Plan(best, best_cost, state, trace)

    def _evaluate(self, cost: CostFn, actions: Tensor) -> Tensor:
        parts = []
        for part in self.chunks(actions):
            costs = cost(part)
            if costs.shape != part.shape[:2]:
                raise ValueError(
                    f"the cost function returned {tuple(costs.shape)} "
                    f"for actions {tuple(part.shape)}"
                )
            parts.append(costs)
        costs = torch.cat(parts, dim=1)
        return torch.nan_to_num(costs, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def chunks(self, actions: Tensor) -> tuple[Tensor, ...]:
        """Split candidates (B, N, H, A) along N into parts of at most `chunk` sequences."""
        most = self.chunk if actions.device.type == "cpu" else ACCELERATOR_CHUNK * self.chunk
        return actions.split(max(1, most // len(actions)), dim=1)


def advance(actions: Tensor, steps: int) -> Tensor:
    """Return sequences (..., H, A) `steps` model steps later, their last action repeated."""
    steps = min(steps, actions.shape[-2])
    tail = actions[..., -1:, :].expand(*actions.shape[:-2], steps, -1)
    return torch.cat([actions[..., steps:, :], tail], dim=-2)
