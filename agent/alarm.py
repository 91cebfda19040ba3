"""Alarm: what the agent does differently where the world is not what it expected.

Surprise is the squared error of the prediction of the image just seen. Where it is above a
threshold, set on episodes of the usual world, the agent slows down, or plans anew where it would
have followed its last plan. That is the configurator's part: it changes how the others work.

Letters: B environments, D embedding, A action, H horizon.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from mujepa.agent.jepa import JEPA
    from mujepa.agent.memory import Memory
    from mujepa.planners import Plan, Search

Response = Literal["slow", "replan"]
"""Take a share of the action, or plan anew."""
FALSE_ALARMS = 0.01
"""Share of the looks at the usual world that may set it off."""


@dataclass(frozen=True)
class Alarm:
    """When it is set off, and what follows.

    Attributes:
        threshold: surprise above which it is set off; infinite: it only watches.
        response: `slow` or `replan`.
        looks: it stays set off for so many looks at the world, the surprising one among them.
        share: of the action that is taken when slow, from what does nothing (0) to all of it (1).
    """

    threshold: float
    response: Response = "replan"
    looks: int = 5
    share: float = 0.5

    def __post_init__(self) -> None:
        if not self.threshold >= 0 or self.looks < 1 or not 0 <= self.share <= 1:
            raise ValueError(
                "threshold must not be negative, looks at least 1 and share from 0 to 1, "
                f"got {self}"
            )

    def next(self, left: Tensor | None, surprise: Tensor) -> Tensor:
        """Return for how many looks it stays set off in each environment, (B,).

        Args:
            left: the same at the look before; None: it has not been set off.
            surprise: of this look, (B,).
        """
        left = torch.zeros_like(surprise, dtype=torch.int64) if left is None else left
        return torch.where(surprise > self.threshold, self.looks, (left - 1).clamp(min=0))


def surprise(jepa: JEPA, memory: Memory, action: Tensor, seen: Tensor) -> Tensor:
    """Return the squared error of the prediction of what is seen, averaged over dimensions, (B,).

    Args:
        jepa: the world model.
        memory: before the step.
        action: (B, A) taken there.
        seen: (B, D), the embedding that followed.
    """
    return (jepa.predictor(memory, action) - seen).square().mean(dim=-1)


def merge_plans(old: Plan, new: Plan, renewed: Tensor) -> Plan:
    """Return the new plan in the environments (B,) that renewed theirs, the old one elsewhere.

    The trace is that of the new search, of all environments.
    """

    def merge(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(renewed.view(-1, *[1] * (new.ndim - 1)), new, old)

    def merge_searches(old: Search, new: Search) -> Search:
        elites = new.elites
        if old.elites is not None and elites is not None:
            elites = merge(old.elites, elites)
        return replace(
            new, mean=merge(old.mean, new.mean), std=merge(old.std, new.std), elites=elites
        )

    return replace(
        new,
        actions=merge(old.actions, new.actions),
        cost=merge(old.cost, new.cost),
        search=merge_searches(old.search, new.search),
    )
