"""A second level: where the world can be some strides from now, and which place to head for first.

A stride is many model steps long. What can happen in it is summed up by a macro action u, a few
numbers that an encoder reads from both ends of a stride, and that a decoder needs beside the
beginning to tell the end (a conditional variational autoencoder, arXiv 1312.6114). The same planner
that searches actions searches macro actions here, against the same cost; the end of the first
stride becomes the goal of the level below (LeCun 2022, hierarchical JEPA).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mujepa.agent.cost import Goal, Trajectory
from mujepa.agent.memory import Memory
from mujepa.planners import Bounds, PlannerConfig, make_planner
from mujepa.runtime import distributed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mujepa.agent.configurator import Configurator

REACH = 2.0
"""Macro actions are searched within so many standard deviations of what the data did."""


@dataclass(frozen=True)
class StridesConfig:
    """The second level.

    Attributes:
        ahead: strides that the second level looks ahead; 0 for no second level.
        length: model steps in a stride.
        macro: U, numbers in a macro action.
        width: hidden units.
        divergence_weight: of the distance of macro actions from a standard Gaussian.
        samples: macro sequences per iteration of the search.
        iterations: of the search.
    """

    ahead: int = 0
    length: int = 8
    macro: int = 4
    width: int = 256
    divergence_weight: float = 0.02
    samples: int = 128
    iterations: int = 3

    def __post_init__(self) -> None:
        if self.ahead < 0 or min(self.length, self.macro, self.width) < 1:
            raise ValueError(
                f"strides need ahead >= 0, and length, macro and width of at least 1, got {self}"
            )
        self.planner()

    def planner(self) -> PlannerConfig:
        """Return the planner of macro actions."""
        return PlannerConfig(
            kind="icem",
            horizon=max(1, self.ahead),
            samples=self.samples,
            iterations=self.iterations,
            initial_std=0.5,
            correlation=0.0,
        )


class Strides(nn.Module):
    """The predictor of the second level: z_{t+S} = z_t + f(z_t, u), and the reader of u.

    Letters: B batch, N candidates, J strides, D embedding, U macro action.

    Args:
        config: sizes.
        dim: D.
    """

    def __init__(self, config: StridesConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.read = _perceptron(2 * dim, config.width, 2 * config.macro)
        self.move = _perceptron(dim + config.macro, config.width, dim)

    def infer(self, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the macro action between (..., D) and (..., D)."""
        read = self.read(torch.cat([begin, end - begin], dim=-1)).float()
        mean, log_variance = read.chunk(2, dim=-1)
        return mean, log_variance.clamp(-8, 4)

    def forward(self, begin: Tensor, macro: Tensor) -> Tensor:
        """Return the end (..., D) of a stride from (..., D) with a macro action (..., U)."""
        return begin + self.move(torch.cat([begin, macro], dim=-1))

    def rollout(self, begin: Tensor, macros: Tensor) -> Tensor:
        """Imagine strides one after the other, (B, D) and (B, N, J, U) -> (B, N, J, D)."""
        here, ends = begin[:, None].expand(-1, macros.shape[1], -1), []
        for macro in macros.unbind(dim=2):
            here = self(here, macro)
            ends.append(here)
        return torch.stack(ends, dim=2)


def strides_terms(
    strides: Strides, begin: Tensor, end: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Compute the terms that the second level learns from.

    Args:
        strides: the networks.
        begin: (B, D), where strides of the data began.
        end: (B, D), where they ended.
        generator: source of the noise on the macro actions, on the CPU.

    Returns:
        `stride`, the squared error of the end, and `divergence`, the Kullback-Leibler divergence of
        the macro action from a standard Gaussian, over the size of the embedding.
    """
    mean, log_variance = strides.infer(begin, end)
    rows, size = mean.shape
    noise = torch.randn(distributed.count() * rows, size, generator=generator)
    noise = noise[distributed.share()].to(mean)
    macro = mean + noise * (log_variance / 2).exp()
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1) / 2
    return {
        "stride": (strides(begin, macro) - end).square().mean(),
        "divergence": divergence.mean() / begin.shape[-1],
    }


class Guide:
    """Searches macro actions, and says which goal the level below should have.

    Args:
        strides: the second level.
        configurator: world model, critic and cost; the cost has to judge places, not actions.

    Raises:
        ValueError: the cost asks how well the way is known, and a stride has none.
    """

    def __init__(self, strides: Strides, configurator: Configurator) -> None:
        cost = configurator.cost
        if any(name.startswith("uncertainty.") for name in cost.weights):
            raise ValueError(
                f"cost {cost.expression!r}: a second level (--strides.ahead) knows no uncertainty; "
                "leave out one of the two"
            )
        self.strides = strides
        self.configurator = configurator
        self.planner = make_planner(strides.config.planner())

    def subgoal(self, now: Tensor, goal: Goal, generators: Sequence[torch.Generator]) -> Goal:
        """Return the end of the first stride of the best plan, or the goal if it is near.

        Near is what the critic says is at most a stride away, and what a single stride gets to as
        closely as more of them would: where the best plan is closest to the goal at the end of its
        first stride.

        Args:
            now: (B, D).
            goal: of B rows.
            generators: one for each row.
        """
        reach = now.new_full((self.strides.config.macro,), REACH)
        bounds = Bounds(-reach, reach)

        def judged(macros: Tensor) -> Tensor:
            """Return the cost by stride, (B, N, J)."""
            ends = self.strides.rollout(now, macros)
            rest = ends.flatten(0, 2)[:, None]
            single = Trajectory(
                rest[:, None], rest.new_zeros(len(rest), 1, 1, 1), Memory(rest, rest[:, :0])
            )
            many = ends.shape[1] * ends.shape[2]
            wanted = Goal(
                goal.embedding.repeat_interleave(many, dim=0),
                goal.features.repeat_interleave(many, dim=0),
            )
            return self.configurator.cost(single, wanted).view(ends.shape[:3])

        plan = self.planner.plan(
            lambda macros: judged(macros).amin(dim=-1),
            self.planner.start(len(now), bounds),
            bounds,
            generators,
        )
        best = plan.actions[:, None]
        first = self.strides.rollout(now, best)[:, 0, 0]
        critic = self.configurator.critic
        steps = critic.distance(critic.features(now, now), goal.features)
        near = (steps <= self.strides.config.length) | (judged(best)[:, 0].argmin(dim=-1) == 0)
        below = self.configurator.wanted(first)
        return Goal(
            torch.where(near[:, None], goal.embedding, below.embedding),
            torch.where(near[:, None], goal.features, below.features),
        )


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, outputs),
    )
