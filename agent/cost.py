"""Cost: a readable sum of small terms over a predicted trajectory.

Intrinsic terms (`goal`, `goal_l1`, `goal_cosine`, `effort`, `smoothness`) are fixed functions;
`avoid(x>0.1)`, `reach(x>0.1)` and `state(x, y)` read physical quantities with the probe;
`uncertainty` is the disagreement of the ensemble; the `critic` term is trained. An expression such
as `critic + 0.05*goal.last + 100*avoid(x>0.1)` names the terms and their weights.

Letters: B environments, N candidates, H horizon, K history, D embedding, A action.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mujepa.agent.critic import Critic
from mujepa.agent.ensemble import Ensemble
from mujepa.agent.memory import Memory
from mujepa.agent.probe import LinearProbe
from mujepa.agent.region import Region, find_quantities, read_region
from mujepa.runtime.errors import UserError


@dataclass(frozen=True)
class Trajectory:
    """Predicted futures."""

    embeddings: Tensor  # (B, N, H, D)
    actions: Tensor  # (B, N, H, A) that lead to them, in [-1, 1]
    memory: Memory  # of B rows, before the first step

    @property
    def previous(self) -> Tensor:
        """The embeddings one step earlier, (B, N, H, D)."""
        now = self.memory.embeddings[:, -1]
        first = now[:, None, None].expand_as(self.embeddings[:, :, :1])
        return torch.cat([first, self.embeddings[:, :, :-1]], dim=2)

    def memories(self) -> Memory:
        """Return the memory before each step, (B, N, H, K, D) and (B, N, H, K - 1, A)."""
        history, steps = self.memory.embeddings.shape[1], self.embeddings.shape[2]

        def windows(past: Tensor, future: Tensor, size: int) -> Tensor:
            before = past[:, None].expand(-1, future.shape[1], -1, -1)
            path = torch.cat([before, future], dim=2)
            return path[:, :, torch.arange(steps)[:, None] + torch.arange(size)]

        return Memory(
            windows(self.memory.embeddings, self.embeddings, history),
            windows(self.memory.actions, self.actions, history - 1),
        )


@dataclass(frozen=True)
class Goal:
    """A goal: its `embedding` (B, D) and its `features` (B, 2F) from the critic."""

    embedding: Tensor
    features: Tensor


CostTerm = Callable[[Trajectory, Goal], Tensor]  # A trajectory and a goal -> cost by step (B, N, H)
CostFunction = Callable[[Trajectory, Goal], Tensor]
"""A user's whole cost: a trajectory and a goal -> cost (B, N)."""
AGGREGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda values: values.mean(dim=-1),
    "last": lambda values: values[..., -1],
    "min": lambda values: values.amin(dim=-1),
    "max": lambda values: values.amax(dim=-1),
}
"""How the costs of the steps (B, N, H) become the cost of the trajectory (B, N)."""


def goal_distance(trajectory: Trajectory, goal: Goal) -> Tensor:
    """Squared distance to the goal's embedding, averaged over dimensions."""
    return (trajectory.embeddings - goal.embedding[:, None, None]).square().mean(dim=-1)


def goal_l1(trajectory: Trajectory, goal: Goal) -> Tensor:
    """Absolute difference from the goal's embedding, averaged over dimensions."""
    return (trajectory.embeddings - goal.embedding[:, None, None]).abs().mean(dim=-1)


def goal_cosine(trajectory: Trajectory, goal: Goal) -> Tensor:
    """One minus the cosine of the angle to the goal's embedding."""
    target = goal.embedding[:, None, None]
    return 1 - torch.cosine_similarity(trajectory.embeddings, target, dim=-1)


def effort(trajectory: Trajectory, goal: Goal) -> Tensor:
    """Squared action, averaged over actuators."""
    return trajectory.actions.square().mean(dim=-1)


def smoothness(trajectory: Trajectory, goal: Goal) -> Tensor:
    """Squared change of the action, averaged; the first step counts if the memory has an action."""
    actions = trajectory.actions
    held = trajectory.memory.actions[:, None, -1:].expand(-1, actions.shape[1], -1, -1)
    first = held if held.shape[2] else actions[:, :, :1]
    before = torch.cat([first, actions[:, :, :-1]], dim=2)
    return (actions - before).square().mean(dim=-1)


def avoidance(region: Region, probe: LinearProbe) -> CostTerm:
    """Return the term for the depth inside a region, as the probe reads it, in its unit."""
    return lambda trajectory, goal: region.depth(probe(trajectory.embeddings)).relu()


def predicate(region: Region, probe: LinearProbe) -> CostTerm:
    """Return the term for the distance from a region, as the probe reads it, in its unit."""
    return lambda trajectory, goal: (-region.depth(probe(trajectory.embeddings))).relu()


def state_distance(quantities: Sequence[int], probe: LinearProbe) -> CostTerm:
    """Return the term for the distance to the goal in some of the probe's quantities."""
    chosen = list(quantities)

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        target = probe(goal.embedding)[:, None, None, chosen]
        return torch.linalg.vector_norm(probe(trajectory.embeddings)[..., chosen] - target, dim=-1)

    return term


def critic_distance(critic: Critic) -> CostTerm:
    """Return the term for the critic's distance to the goal [model steps]."""

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        now = trajectory.embeddings
        reached = critic.features(now, trajectory.previous if critic.config.history > 1 else now)
        return critic.distance(reached, goal.features[:, None, None])

    return term


def disagreement(ensemble: Ensemble) -> CostTerm:
    """Return the term for the disagreement of the ensemble, in units of a squared error."""
    return lambda trajectory, goal: ensemble.disagreement(trajectory.memories(), trajectory.actions)


def every_step(function: CostFunction) -> CostTerm:
    """Return a user's cost (B, N) as a term that is the same at every step."""

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        return function(trajectory, goal)[..., None].expand(trajectory.embeddings.shape[:3])

    return term


TERM = re.compile(
    r"(?:(?P<weight>-?\d*\.?\d+(?:e-?\d+)?)\*)?(?P<name>[a-z_][a-z_0-9]*)"
    r"(?:\((?P<argument>[^()]*)\))?(?:\.(?P<aggregate>[a-z]+))?"
)


class Cost:
    """A weighted sum of terms, or a user's function.

    An expression has terms joined by `+`, each `[WEIGHT*]NAME[.mean|.last|.min|.max]`; without a
    suffix, a term is averaged over the horizon. NAME is `goal` (squared distance), `goal_l1`,
    `goal_cosine`, `critic`, `effort`, `smoothness`, `uncertainty` (alone may have a negative
    weight), `avoid(REGION)`, `reach(REGION)` or `state(QUANTITY, ...)`. `weights` holds the weights
    by name with aggregate, `regions` the regions to avoid.

    Raises:
        UserError: the expression names an unknown term, aggregate, weight or quantity.
    """

    def __init__(
        self,
        expression: str | CostFunction,
        critic: Critic,
        probe: LinearProbe | None = None,
        ensemble: Ensemble | None = None,
    ) -> None:
        self.regions: list[Region] = []
        self.weights: dict[str, float] = {}
        self._terms: dict[str, tuple[CostTerm, Callable[[Tensor], Tensor]]] = {}
        if not isinstance(expression, str):
            self.expression = getattr(expression, "__name__", type(expression).__name__)
            self._add(self.expression, 1.0, every_step(expression), "last")
            return
        self.expression = expression
        self._known: dict[str, CostTerm] = {
            "goal": goal_distance, "goal_l1": goal_l1, "goal_cosine": goal_cosine,
            "critic": critic_distance(critic), "effort": effort, "smoothness": smoothness,
        }  # fmt: skip
        if ensemble is not None:
            self._known["uncertainty"] = disagreement(ensemble)
        for part in expression.split("+"):
            self._read(part, probe)

    def _read(self, part: str, probe: LinearProbe | None) -> None:
        match = TERM.fullmatch(part.replace(" ", ""))
        if match:
            name, argument = match["name"], match["argument"]
            weight, aggregate = float(match["weight"] or 1), match["aggregate"] or "mean"
            if argument is None:
                term, label = self._known.get(name), name
            elif argument and probe is not None:
                term, label = self._physical(name, argument, probe)
            else:
                term, label = None, ""
            valid = weight >= 0 or label == "uncertainty"  # only curiosity seeks a cost
            if term and valid and aggregate in AGGREGATES and math.isfinite(weight):
                self._add(label, weight, term, aggregate)
                return
        raise UserError(
            f"cost {self.expression!r}: cannot read {part.strip()!r}; write terms as "
            f"WEIGHT*NAME.AGGREGATE with NAME one of {', '.join(self._known)}, avoid(x>0.1), "
            f"reach(x>0.1), state(x, y) and AGGREGATE one of {', '.join(AGGREGATES)}"
        )

    def _physical(
        self, name: str, argument: str, probe: LinearProbe
    ) -> tuple[CostTerm | None, str]:
        try:
            if name == "state":
                quantities = find_quantities(argument, probe.names)
                return state_distance(quantities, probe), f"state({argument})"
            if name in ("avoid", "reach"):
                region = read_region(argument, probe.names)
                self.regions += [region] if name == "avoid" else []
                term = avoidance if name == "avoid" else predicate
                return term(region, probe), f"{name}({region.text})"
        except ValueError as error:
            raise UserError(f"cost {self.expression!r}: {error}") from error
        return None, ""

    def _add(self, label: str, weight: float, term: CostTerm, aggregate: str) -> None:
        name = f"{label}.{aggregate}"
        self.weights[name] = self.weights.get(name, 0.0) + weight
        self._terms[name] = (term, AGGREGATES[aggregate])

    def parts(self, trajectory: Trajectory, goal: Goal) -> dict[str, Tensor]:
        """Return the unweighted terms by name, such as `goal.mean`, (B, N) each."""
        return {
            name: reduce(term(trajectory, goal)) for name, (term, reduce) in self._terms.items()
        }

    def by_step(self, trajectory: Trajectory, goal: Goal) -> Tensor:
        """Return the weighted sum of the terms at each step, before aggregation, (B, N, H)."""
        terms = {name: term(trajectory, goal) for name, (term, _) in self._terms.items()}
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum(dim=0)

    def __call__(self, trajectory: Trajectory, goal: Goal) -> Tensor:
        """Return the weighted sum, (B, N)."""
        parts = self.parts(trajectory, goal)
        return torch.stack([self.weights[name] * value for name, value in parts.items()]).sum(dim=0)
