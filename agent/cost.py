"""Cost: what the agent wants, as a readable sum of small terms over an imagined trajectory.

Intrinsic terms (`goal`, `goal_l1`, `goal_cosine`, `effort`, `smoothness`) are fixed functions;
`avoid(x>0.1)`, `reach(x>0.1)` and `state(x, y)` read physical quantities with the probe;
`uncertainty` asks an ensemble how little it knows; the `critic` term is trained. An expression such
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
    """Imagined futures.

    Attributes:
        embeddings: (B, N, H, D).
        actions: (B, N, H, A) that lead to them, in [-1, 1].
        memory: of B rows, from which they set out.
    """

    embeddings: Tensor
    actions: Tensor
    memory: Memory

    @property
    def previous(self) -> Tensor:
        """The embeddings one step earlier, (B, N, H, D)."""
        now = self.memory.embeddings[:, -1]
        first = now[:, None, None].expand_as(self.embeddings[:, :, :1])
        return torch.cat([first, self.embeddings[:, :, :-1]], dim=2)

    def memories(self) -> Memory:
        """Return what is remembered before each step, (B, N, H, K, D) and (B, N, H, K - 1, A)."""
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
    """Squared change of the action since the step before, by step -> (B, N, H).

    What comes before the first is remembered, unless the world model remembers a single frame.
    """
    actions = trajectory.actions
    held = trajectory.memory.actions[:, None, -1:].expand(-1, actions.shape[1], -1, -1)
    first = held if held.shape[2] else actions[:, :, :1]
    before = torch.cat([first, actions[:, :, :-1]], dim=2)
    return (actions - before).square().mean(dim=-1)


def avoidance(region: Region, probe: LinearProbe) -> CostTerm:
    """Return the term for how deep in a region the probe reads the body, in its unit, by step."""

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        return region.depth(probe(trajectory.embeddings)).relu()

    return term


def predicate(region: Region, probe: LinearProbe) -> CostTerm:
    """Return the term for how far from a region the probe reads the body, in its unit, by step.

    Conditions that are to hold, in place of what the goal image shows.
    """

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        return (-region.depth(probe(trajectory.embeddings))).relu()

    return term


def state_distance(quantities: Sequence[int], probe: LinearProbe) -> CostTerm:
    """Return the term for the distance to the goal in some quantities, in their unit, by step.

    The probe reads them from the imagined embeddings and from the goal's.
    """
    chosen = list(quantities)

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        wanted = probe(goal.embedding)[:, None, None, chosen]
        return torch.linalg.vector_norm(probe(trajectory.embeddings)[..., chosen] - wanted, dim=-1)

    return term


def critic_distance(critic: Critic) -> CostTerm:
    """Return the term that asks the critic for the model steps to the goal, -> (B, N, H)."""

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        now = trajectory.embeddings
        reached = critic.features(now, trajectory.previous if critic.config.history > 1 else now)
        return critic.distance(reached, goal.features[:, None, None])

    return term


def disagreement(ensemble: Ensemble) -> CostTerm:
    """Return the term for how much the ensemble disagrees about each step, -> (B, N, H).

    In units of a squared error of the embedding, averaged over dimensions.
    """

    def term(trajectory: Trajectory, goal: Goal) -> Tensor:
        return ensemble.disagreement(trajectory.memories(), trajectory.actions)

    return term


TERM = re.compile(
    r"(?:(?P<weight>-?\d*\.?\d+(?:e-?\d+)?)\*)?(?P<name>[a-z_][a-z_0-9]*)"
    r"(?:\((?P<argument>[^()]*)\))?(?:\.(?P<aggregate>[a-z]+))?"
)


class Cost:
    """A weighted sum of terms.

    Args:
        expression: terms joined by `+`, each `[WEIGHT*]NAME[.mean|.last|.min|.max]`; NAME is
            `goal` (squared distance), `goal_l1`, `goal_cosine`, `critic`, `effort`, `smoothness`,
            `uncertainty`, `avoid(REGION)`, `reach(REGION)` or `state(QUANTITY, ...)`, and without a
            suffix the mean over the horizon is taken. `uncertainty` may have a negative weight.
        critic: the trained critic, for the term of that name.
        probe: what reads physical quantities from embeddings, for `avoid`, `reach` and `state`.
        ensemble: what disagrees where it knows little, for `uncertainty`.

    Attributes:
        weights: of the terms, by name with aggregate.
        regions: that are avoided.

    Raises:
        UserError: the expression names an unknown term, aggregate, weight or quantity.
    """

    def __init__(
        self,
        expression: str,
        critic: Critic,
        probe: LinearProbe | None = None,
        ensemble: Ensemble | None = None,
    ) -> None:
        self.expression = expression
        self.regions: list[Region] = []
        known: dict[str, CostTerm] = {
            "goal": goal_distance, "goal_l1": goal_l1, "goal_cosine": goal_cosine,
            "critic": critic_distance(critic), "effort": effort, "smoothness": smoothness,
        }  # fmt: skip
        if ensemble is not None:
            known["uncertainty"] = disagreement(ensemble)
        self.weights: dict[str, float] = {}
        self._terms: dict[str, tuple[CostTerm, Callable[[Tensor], Tensor]]] = {}
        for part in expression.split("+"):
            match = TERM.fullmatch(part.replace(" ", ""))
            aggregate = (match and match["aggregate"]) or "mean"
            term, label = None, ""
            if match and match["argument"] and probe is not None:
                term, label = self._physical(match["name"], match["argument"], probe)
            elif match and match["argument"] is None:
                term, label = known.get(match["name"]), match["name"]
            weight = float((match and match["weight"]) or 1)
            if weight < 0 and label != "uncertainty":  # only curiosity seeks
                term = None
            if not match or not term or aggregate not in AGGREGATES or not math.isfinite(weight):
                raise UserError(
                    f"cost {expression!r}: cannot read {part.strip()!r}; write terms as "
                    f"WEIGHT*NAME.AGGREGATE with NAME one of {', '.join(known)}, avoid(x>0.1), "
                    f"reach(x>0.1), state(x, y) and AGGREGATE one of {', '.join(AGGREGATES)}"
                )
            name = f"{label}.{aggregate}"
            self.weights[name] = self.weights.get(name, 0.0) + weight
            self._terms[name] = (term, AGGREGATES[aggregate])

    def _physical(
        self, name: str, argument: str, probe: LinearProbe
    ) -> tuple[CostTerm | None, str]:
        """Return a term in physical units and its label; None if there is none of that name."""
        try:
            if name == "avoid":
                self.regions.append(read_region(argument, probe.names))
                return avoidance(self.regions[-1], probe), f"avoid({self.regions[-1].text})"
            if name == "reach":
                region = read_region(argument, probe.names)
                return predicate(region, probe), f"reach({region.text})"
            if name == "state":
                return state_distance(find_quantities(argument, probe.names), probe), (
                    f"state({argument})"
                )
        except ValueError as error:
            raise UserError(f"cost {self.expression!r}: {error}") from error
        return None, ""

    def parts(self, trajectory: Trajectory, goal: Goal) -> dict[str, Tensor]:
        """Return the unweighted terms by name, such as `goal.mean`, (B, N) each."""
        return {
            name: aggregate(term(trajectory, goal))
            for name, (term, aggregate) in self._terms.items()
        }

    def by_step(self, trajectory: Trajectory, goal: Goal) -> Tensor:
        """Return the weighted sum of the terms at each step, before it is aggregated, (B, N, H)."""
        terms = {name: term(trajectory, goal) for name, (term, _) in self._terms.items()}
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum(dim=0)

    def __call__(self, trajectory: Trajectory, goal: Goal) -> Tensor:
        """Return the weighted sum, (B, N)."""
        parts = self.parts(trajectory, goal)
        return torch.stack([self.weights[name] * value for name, value in parts.items()]).sum(dim=0)
