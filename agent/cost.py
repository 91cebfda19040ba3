"""Cost: what the agent wants, as a readable sum of small terms over an imagined trajectory.

Intrinsic terms (`goal`, `goal_l1`, `goal_cosine`, `effort`, `smoothness`) are fixed functions;
`avoid(x>0.1)` reads physical quantities with the probe; the `critic` term is trained. An expression
such as `critic + 0.05*goal.last + 100*avoid(x>0.1)` names the terms and their weights.

Letters: B environments, N candidates, H horizon, D embedding, A action.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mujepa.agent.critic import Critic
from mujepa.agent.probe import LinearProbe
from mujepa.agent.region import Region, read_region
from mujepa.errors import UserError


@dataclass(frozen=True)
class Trajectory:
    """Imagined futures.

    Attributes:
        embeddings: (B, N, H, D).
        actions: (B, N, H, A) that lead to them, in [-1, 1].
        now: (B, D), from which they set out.
    """

    embeddings: Tensor
    actions: Tensor
    now: Tensor

    @property
    def previous(self) -> Tensor:
        """The embeddings one step earlier, (B, N, H, D)."""
        first = self.now[:, None, None].expand_as(self.embeddings[:, :, :1])
        return torch.cat([first, self.embeddings[:, :, :-1]], dim=2)


@dataclass(frozen=True)
class Goal:
    """What is wanted: the goal's `embedding` (B, D) and its `features` (B, 2F) from the critic."""

    embedding: Tensor
    features: Tensor


CostTerm = Callable[[Trajectory, Goal], Tensor]
"""A trajectory and a goal -> cost by step (B, N, H)."""

AGGREGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda values: values.mean(dim=-1),
    "last": lambda values: values[..., -1],
    "min": lambda values: values.amin(dim=-1),
    "max": lambda values: values.amax(dim=-1),
}
"""How the costs of the steps (B, N, H) become the cost of the trajectory (B, N)."""


def goal_distance(trajectory: Trajectory, goal: Goal) -> Tensor:
    """Squared distance to the goal's embedding, averaged over dimensions, by step -> (B, N, H)."""
    return (trajectory.embeddings - goal.embedding[:, None, None]).square().mean(dim=-1)


def goal_l1(trajectory: Trajectory, goal: Goal) -> Tensor:
    """Absolute difference from the goal's embedding, averaged, by step -> (B, N, H)."""
    return (trajectory.embeddings - goal.embedding[:, None, None]).abs().mean(dim=-1)


def goal_cosine(trajectory: Trajectory, goal: Goal) -> Tensor:
    """One minus the cosine of the angle to the goal's embedding, by step -> (B, N, H)."""
    wanted = goal.embedding[:, None, None]
    return 1 - torch.cosine_similarity(trajectory.embeddings, wanted, dim=-1)


def effort(trajectory: Trajectory, goal: Goal) -> Tensor:
    """Squared size of the action, averaged over actuators, by step -> (B, N, H)."""
    return trajectory.actions.square().mean(dim=-1)


def smoothness(trajectory: Trajectory, goal: Goal) -> Tensor:
    """Squared change of the action since the step before; none at the first -> (B, N, H)."""
    actions = trajectory.actions
    before = torch.cat([actions[:, :, :1], actions[:, :, :-1]], dim=2)
    return (actions - before).square().mean(dim=-1)


def avoidance(region: Region, probe: LinearProbe) -> CostTerm:
    """Return the term for how deep in a region the probe reads the body, in its unit, by step."""

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        return region.depth(probe(trajectory.embeddings)).relu()

    return term


def critic_distance(critic: Critic) -> CostTerm:
    """Return the term that asks the critic for the model steps to the goal, -> (B, N, H)."""

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        reached = critic.features(trajectory.embeddings, trajectory.previous)
        return critic.distance(reached, goal.features[:, None, None])

    return term


TERM = re.compile(
    r"(?:(?P<weight>\d*\.?\d+(?:e-?\d+)?)\*)?(?P<name>[a-z_][a-z_0-9]*)"
    r"(?:\((?P<region>[^()]*)\))?(?:\.(?P<aggregate>[a-z]+))?"
)


class Cost:
    """A weighted sum of terms.

    Args:
        expression: terms joined by `+`, each `[WEIGHT*]NAME[.mean|.last|.min|.max]`; NAME is
            `goal` (squared distance), `goal_l1`, `goal_cosine`, `critic`, `effort`, `smoothness` or
            `avoid(REGION)`, and without a suffix the mean over the horizon is taken.
        critic: the trained critic, for the term of that name.
        probe: what reads physical quantities from embeddings, for `avoid`.

    Attributes:
        weights: of the terms, by name with aggregate.
        regions: that are avoided.

    Raises:
        UserError: the expression names an unknown term, aggregate, weight or quantity.
    """

    def __init__(self, expression: str, critic: Critic, probe: LinearProbe | None = None) -> None:
        self.expression = expression
        self.regions: list[Region] = []
        known: dict[str, CostTerm] = {
            "goal": goal_distance, "goal_l1": goal_l1, "goal_cosine": goal_cosine,
            "critic": critic_distance(critic), "effort": effort, "smoothness": smoothness,
        }  # fmt: skip
        self.weights: dict[str, float] = {}
        self._terms: dict[str, tuple[CostTerm, Callable[[Tensor], Tensor]]] = {}
        for part in expression.split("+"):
            match = TERM.fullmatch(part.replace(" ", ""))
            aggregate = (match and match["aggregate"]) or "mean"
            if match and match["name"] == "avoid" and match["region"] and probe is not None:
                region = self._region(match["region"], probe)
                term, label = avoidance(region, probe), f"avoid({region.text})"
            elif match and match["name"] in known and match["region"] is None:
                term, label = known[match["name"]], match["name"]
            else:
                term, label = None, ""
            weight = float((match and match["weight"]) or 1)
            if not match or not term or aggregate not in AGGREGATES or not math.isfinite(weight):
                raise UserError(
                    f"cost {expression!r}: cannot read {part.strip()!r}; write terms as "
                    f"WEIGHT*NAME.AGGREGATE with NAME one of {', '.join(known)}, avoid(x>0.1) "
                    f"and AGGREGATE one of {', '.join(AGGREGATES)}"
                )
            name = f"{label}.{aggregate}"
            self.weights[name] = self.weights.get(name, 0.0) + weight
            self._terms[name] = (term, AGGREGATES[aggregate])

    def _region(self, text: str, probe: LinearProbe) -> Region:
        try:
            region = read_region(text, probe.names)
        except ValueError as error:
            raise UserError(f"cost {self.expression!r}: {error}") from error
        self.regions.append(region)
        return region

    def parts(self, trajectory: Trajectory, goal: Goal) -> dict[str, Tensor]:
        """Return the unweighted terms by name, such as `goal.mean`, (B, N) each."""
        return {
            name: aggregate(term(trajectory, goal))
            for name, (term, aggregate) in self._terms.items()
        }

    def __call__(self, trajectory: Trajectory, goal: Goal) -> Tensor:
        """Return the weighted sum, (B, N)."""
        parts = self.parts(trajectory, goal)
        return torch.stack([self.weights[name] * value for name, value in parts.items()]).sum(dim=0)
