"""Cost: what the agent wants, as a readable sum of small terms over an imagined trajectory.

Intrinsic terms (`goal`, `effort`) are fixed functions; the `critic` term is trained. An expression
such as `critic + 0.05*goal.last` names the terms and their weights.

Letters: B environments, N candidates, H horizon, D embedding, A action.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mujepa.agent.critic import Critic
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
"""A trajectory and a goal -> cost (B, N)."""

AGGREGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda values: values.mean(dim=-1),
    "last": lambda values: values[..., -1],
    "min": lambda values: values.amin(dim=-1),
}
"""How the costs of the steps (B, N, H) become the cost of the trajectory (B, N)."""


def goal_distance(trajectory: Trajectory, goal: Goal) -> Tensor:
    """Squared distance to the goal's embedding, averaged over dimensions, by step -> (B, N, H)."""
    return (trajectory.embeddings - goal.embedding[:, None, None]).square().mean(dim=-1)


def effort(trajectory: Trajectory, goal: Goal) -> Tensor:
    """Squared size of the action, averaged over actuators, by step -> (B, N, H)."""
    return trajectory.actions.square().mean(dim=-1)


def critic_distance(critic: Critic) -> CostTerm:
    """Return the term that asks the critic for the model steps to the goal, -> (B, N, H)."""

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        reached = critic.features(trajectory.embeddings, trajectory.previous)
        return critic.distance(reached, goal.features[:, None, None])

    return term


class Cost:
    """A weighted sum of terms.

    Args:
        expression: terms joined by `+`, each `[WEIGHT*]NAME[.mean|.last|.min]`; NAME is `goal`,
            `critic` or `effort`, and without a suffix the mean over the horizon is taken.
        critic: the trained critic, for the term of that name.

    Raises:
        UserError: the expression names an unknown term, aggregate or weight.
    """

    def __init__(self, expression: str, critic: Critic) -> None:
        self.expression = expression
        known: dict[str, CostTerm] = {
            "goal": goal_distance, "critic": critic_distance(critic), "effort": effort,
        }  # fmt: skip
        self.weights: dict[str, float] = {}
        self._terms: dict[str, tuple[CostTerm, Callable[[Tensor], Tensor]]] = {}
        for part in expression.split("+"):
            match = re.fullmatch(
                r"(?:(\d*\.?\d+(?:e-?\d+)?)\*)?([a-z_]+)(?:\.([a-z]+))?", part.replace(" ", "")
            )
            if not match or match[2] not in known or (match[3] or "mean") not in AGGREGATES:
                raise UserError(
                    f"cost {expression!r}: cannot read {part.strip()!r}; write terms as "
                    f"WEIGHT*NAME.AGGREGATE with NAME one of {', '.join(known)} "
                    f"and AGGREGATE one of {', '.join(AGGREGATES)}"
                )
            aggregate = match[3] or "mean"
            name = f"{match[2]}.{aggregate}"
            self.weights[name] = self.weights.get(name, 0.0) + float(match[1] or 1)
            self._terms[name] = (known[match[2]], AGGREGATES[aggregate])

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
