"""The search loop over action sequences, once for all planners.

A planner sees nothing but a function from actions to costs. `Planner.plan` owns the bounds, the
warm start, the chunking, the best sequence so far and the trace; an algorithm is `sample` and
`update`.

Letters: B environments, N candidates, H horizon in model steps, A action size, K elites,
I iterations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mujepa.planners.noise import checked_correlation

CostFn = Callable[[Tensor], Tensor]
"""Actions (B, N, H, A) -> cost (B, N); lower is better, NaN counts as infinitely bad."""

Slope = Callable[[Tensor], Tensor]
"""Actions (B, N, H, A) -> the gradient of their costs, of the same shape; zero where not finite."""

ACCELERATED = 64
"""Sequences at once on an accelerator over those on a CPU."""


@dataclass(frozen=True)
class Bounds:
    """The box that every action stays in: `low` and `high`, (A,) each."""

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        if (
            self.low.shape != self.high.shape
            or self.low.ndim != 1
            or not bool((self.low < self.high).all())
        ):
            raise ValueError(
                f"bounds need low < high of one shape (A,), got {self.low} and {self.high}"
            )

    def clip(self, actions: Tensor) -> Tensor:
        """Return the actions (..., A) moved to the nearest ones inside the box."""
        return torch.clamp(actions, self.low, self.high)


@dataclass(frozen=True)
class Search:
    """A distribution over action sequences: `mean` and `std`, (B, H, A) each.

    Single sequences that are worth a look beside it are the `elites`, (B, K, H, A): those that a
    planner remembers, and those that are proposed to it.
    """

    mean: Tensor
    std: Tensor
    elites: Tensor | None = None

    def propose(self, actions: Tensor) -> Search:
        """Return the search with sequences (B, K, H, A) among those that are looked at first."""
        known = actions if self.elites is None else torch.cat([actions, self.elites], dim=1)
        return replace(self, elites=known)


@dataclass(frozen=True)
class Trace:
    """How the search went.

    Attributes:
        lowest: the lowest cost of each round, (I, B).
        median: the median cost of each round, (I, B).
        candidates: what the last round looked at, (B, N, H, A).
        costs: of these, (B, N).
    """

    lowest: Tensor
    median: Tensor
    candidates: Tensor
    costs: Tensor


@dataclass(frozen=True)
class Plan:
    """The outcome of a search.

    Attributes:
        actions: the best sequence of all that were tried, (B, H, A).
        cost: its cost, (B,); infinite if no candidate had a finite one.
        search: the final distribution; `Planner.shift` turns it into the next warm start.
        trace: costs by iteration, and the last candidates.
    """

    actions: Tensor
    cost: Tensor
    search: Search
    trace: Trace


class Planner(ABC):
    """A sampling-based optimiser of action sequences.

    Args:
        horizon: H, model steps to look ahead.
        samples: N, candidates per iteration.
        iterations: I, rounds of sampling and updating.
        initial_std: standard deviation of a fresh search, in half-widths of the bounds.
        correlation: of the noise between neighbouring model steps, in [0, 1).
        chunk: most sequences given to the cost function at once, over all environments: on a CPU
            what fits a core's cache; an accelerator gets 64 times as many.

    Raises:
        ValueError: a number is out of range.
    """

    differentiates = False
    """Whether it asks for the gradient of the cost."""

    def __init__(
        self,
        *,
        horizon: int = 6,
        samples: int = 256,
        iterations: int = 5,
        initial_std: float = 0.7,
        correlation: float = 0.5,
        chunk: int = 1024,
    ) -> None:
        for name, value in (
            ("horizon", horizon),
            ("samples", samples),
            ("iterations", iterations),
            ("chunk", chunk),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not initial_std > 0:
            raise ValueError(f"initial_std must be positive, got {initial_std}")
        self.horizon = horizon
        self.samples = samples
        self.iterations = iterations
        self.initial_std = initial_std
        self.correlation = checked_correlation(correlation)
        self.chunk = chunk

    @abstractmethod
    def sample(
        self, search: Search, bounds: Bounds, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Draw candidates (B, N, H, A), of which row b uses `generators[b]` alone.

        They need not respect the bounds.
        """

    @abstractmethod
    def update(
        self, search: Search, bounds: Bounds, actions: Tensor, costs: Tensor, slope: Slope
    ) -> Search:
        """Return the distribution after seeing costs (B, N), NaN-free, of actions (B, N, H, A).

        `slope` gives the gradient of the cost anywhere, where the cost has one.
        """

    def start(self, batch: int, bounds: Bounds) -> Search:
        """Return the distribution of a search that knows nothing: centred in the bounds."""
        centre, half = (bounds.high + bounds.low) / 2, (bounds.high - bounds.low) / 2
        shape = (batch, self.horizon, len(bounds.low))
        return Search(centre.expand(shape), (self.initial_std * half).expand(shape))

    def shift(self, search: Search, bounds: Bounds, steps: int = 1) -> Search:
        """Return the warm start `steps` model steps on: the plan's rest, its last action held."""
        fresh = self.start(len(search.mean), bounds)
        elites = None if search.elites is None else self._advance(search.elites, steps)
        return Search(self._advance(search.mean, steps), fresh.std, elites)

    def follow(self, plan: Plan, bounds: Bounds, steps: int) -> Plan:
        """Return a plan that was followed for `steps` model steps, its last action held."""
        actions = self._advance(plan.actions, steps)
        return replace(plan, actions=actions, search=self.shift(plan.search, bounds, steps))

    @property
    def rounds(self) -> int:
        """How many times candidates are looked at."""
        return self.iterations

    def population(self, iteration: int) -> int:
        """Return how many candidates an iteration looks at."""
        return self.samples

    def plan(
        self, cost: CostFn, search: Search, bounds: Bounds, generators: Sequence[torch.Generator]
    ) -> Plan:
        """Search for the action sequence of lowest cost.

        The mean of the distribution is itself a candidate in every iteration, so the result is
        never worse than the warm start.

        Args:
            cost: the cost function, called with at most `chunk` sequences.
            search: where to start, from `start` or `shift`.
            bounds: the box of the actions.
            generators: one source of randomness for each of the B environments, on the CPU, so that
                an environment's plan depends neither on its neighbours nor on the device.

        Raises:
            ValueError: shapes do not fit.
        """
        batch = len(generators)
        shape = (batch, self.horizon, len(bounds.low))
        if search.mean.shape != shape or search.std.shape != shape:
            raise ValueError(
                f"search of shapes {tuple(search.mean.shape)} and {tuple(search.std.shape)} does "
                f"not fit {batch} generators, horizon {self.horizon} and {len(bounds.low)} actions"
            )
        slope = partial(self._differentiate, cost)
        best, best_cost = bounds.clip(search.mean), search.mean.new_full((batch,), torch.inf)
        lowest, median = [], []
        candidates, costs = best[:, None], best_cost[:, None]
        for iteration in range(self.rounds):
            known = search.mean[:, None]
            if search.elites is not None:
                known = torch.cat([known, search.elites], dim=1)
            candidates = torch.cat([known, self.sample(search, bounds, generators)], dim=1)
            candidates = bounds.clip(candidates[:, : self.population(iteration)])
            costs = self._evaluate(cost, candidates)
            value, index = costs.min(dim=1)
            better = value < best_cost
            chosen = candidates[torch.arange(batch, device=index.device), index]
            best = torch.where(better[:, None, None], chosen, best)
            best_cost = torch.where(better, value, best_cost)
            lowest.append(value)
            median.append(costs.median(dim=1).values)
            search = self.update(search, bounds, candidates, costs, slope)
        trace = Trace(torch.stack(lowest), torch.stack(median), candidates, costs)
        return Plan(best, best_cost, search, trace)

    def _advance(self, actions: Tensor, steps: int) -> Tensor:
        """Return sequences (..., H, A) `steps` steps on, their last action held."""
        steps = min(steps, self.horizon)
        tail = actions[..., -1:, :].expand(*actions.shape[:-2], steps, -1)
        return torch.cat([actions[..., steps:, :], tail], dim=-2)

    def _evaluate(self, cost: CostFn, actions: Tensor) -> Tensor:
        parts = []
        for part in self._chunks(actions):
            costs = cost(part)
            if costs.shape != part.shape[:2]:
                raise ValueError(
                    f"the cost function returned {tuple(costs.shape)} "
                    f"for actions {tuple(part.shape)}"
                )
            parts.append(costs)
        costs = torch.cat(parts, dim=1)
        return torch.nan_to_num(costs, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def _chunks(self, actions: Tensor) -> tuple[Tensor, ...]:
        most = self.chunk if actions.device.type == "cpu" else ACCELERATED * self.chunk
        return actions.split(max(1, most // len(actions)), dim=1)

    def _differentiate(self, cost: CostFn, actions: Tensor) -> Tensor:
        gradients = []
        for part in self._chunks(actions):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                costs = cost(leaf)
                if not costs.requires_grad:
                    raise ValueError("the cost function has no gradient; use a sampling planner")
                gradients += torch.autograd.grad(costs.sum(), leaf)
        return torch.nan_to_num(torch.cat(gradients, dim=1), nan=0.0, posinf=0.0, neginf=0.0)
