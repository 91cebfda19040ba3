"""Loss terms of the stages on frozen embeddings: critic, actor and ensemble.

Letters: B batch, N pairs, D embedding, A action, K history, H horizon, E members.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mujepa.agent.actor import Actor
from mujepa.agent.configurator import Configurator
from mujepa.agent.cost import Goal, Trajectory
from mujepa.agent.critic import Critic
from mujepa.agent.ensemble import Ensemble
from mujepa.agent.memory import Memory
from mujepa.runtime import distributed
from mujepa.runtime.settings import Finite, Index, settings
from mujepa.training.losses import Weights

RIVALS = 256
"""Pairs of each batch among which the contrastive term tells goals apart."""


@settings
class CriticLossConfig(Weights):
    """Weights and settings of the critic's terms.

    Attributes:
        temporal: weight of the expectile regression to the model steps between two frames.
        apart: weight of the hinge that keeps frames of different episodes apart.
        bellman: weight of the expectile regression to one step more than from the next frame.
        contrastive: weight of telling a frame's own future from those of others.
        expectile: weight of overestimates, over that of underestimates 1 - expectile; above .5 the
            critic learns the shortest of the times in the data.
        apart_steps: model steps that frames of different episodes are kept apart.
    """

    temporal: Finite = 1.0
    apart: Finite = 0.05
    bellman: Finite = 0.0
    contrastive: Finite = 0.0
    expectile: Annotated[float, Field(gt=0, lt=1)] = 0.9
    apart_steps: Finite = 30.0


@dataclass(frozen=True)
class CriticBatch:
    """Pairs of a frame's embedding and the one before it, oldest first, (N, 2, D).

    Goals are reached `steps` (N,) after the starts; strangers are of other episodes, at rest as
    goals are. For `bellman`, `following` (M, 2, D) is one step after the last M starts, or equal to
    the start where an episode ends, which then does not count.
    """

    config: CriticLossConfig
    critic: Critic
    starts: Tensor
    goals: Tensor
    strangers: Tensor
    steps: Tensor
    following: Tensor | None = None

    def expectile(self, error: Tensor) -> Tensor:
        """Return the expectile loss of errors (N,)."""
        side = torch.where(error > 0, self.config.expectile, 1 - self.config.expectile)
        return distributed.mean(side * error.square())


def _temporal(batch: CriticBatch) -> Tensor:
    return batch.expectile(batch.critic(batch.starts, batch.goals) - batch.steps)


def _apart(batch: CriticBatch) -> Tensor:
    return (batch.config.apart_steps - batch.critic(batch.starts, batch.strangers)).relu().mean()


def _bellman(batch: CriticBatch) -> Tensor:
    critic, following = batch.critic, batch.following
    assert following is not None
    rest = slice(len(batch.starts) - len(following), None)
    here, there = batch.starts[rest], batch.strangers[rest]
    moved = (here != following).flatten(1).any(dim=1)
    target = 1 + critic(following, there).detach()
    return batch.expectile((critic(here, there) - target) * moved)


def _contrastive(batch: CriticBatch) -> Tensor:
    starts, goals = (distributed.gathered(it)[:RIVALS] for it in (batch.starts, batch.goals))
    distance = batch.critic(starts[:, None], goals[None])
    own = torch.arange(len(distance), device=distance.device)
    entropy = nn.functional.cross_entropy
    return (entropy(-distance, own) + entropy(-distance.T, own)) / 2


CriticLossConfig.table = {
    "temporal": _temporal,
    "apart": _apart,
    "bellman": _bellman,
    "contrastive": _contrastive,
}


@settings
class ActorLossConfig(Weights):
    """Weights of the actor's terms.

    Attributes:
        imagined: weight of the planner's cost of what the actor does in the world model (as in
            Dreamer, arXiv 1912.01603; Henaff et al., arXiv 1901.02705).
        behaviour: weight of imitating the data in hindsight (arXiv 1903.01973).
        horizon: model steps that the actor is unrolled; 0 for the planner's horizon.
    """

    imagined: Finite = 1.0
    behaviour: Finite = 0.0
    horizon: Index = 0


@dataclass(frozen=True)
class ActorBatch:
    """B pairs of a frame of the data, with its memory, and a goal (B, D).

    `actions` (B, A) are those of the data; `followed` (B,) tells whether they went on to the goal.
    """

    config: ActorLossConfig
    actor: Actor
    configurator: Configurator
    memory: Memory
    goals: Tensor
    horizon: int
    actions: Tensor
    followed: Tensor


def imagined_cost(
    actor: Actor, configurator: Configurator, memory: Memory, goal: Goal, horizon: int
) -> Tensor:
    """Return the planner's mean cost of what the actor does in the world model -> ()."""
    embeddings, actions = actor.rollout(configurator.jepa, memory, goal.embedding, horizon)
    trajectory = Trajectory(embeddings[:, None], actions[:, None], memory)
    return configurator.cost(trajectory, goal).mean()


def _imagined(batch: ActorBatch) -> Tensor:
    goal = batch.configurator.goal_from_embedding(batch.goals)
    return imagined_cost(batch.actor, batch.configurator, batch.memory, goal, batch.horizon)


def _behaviour(batch: ActorBatch) -> Tensor:
    error = (batch.actor(batch.memory, batch.goals) - batch.actions).square().mean(dim=-1)
    count = distributed.total(batch.followed.sum()).clamp(min=1)
    return distributed.total((error * batch.followed).sum()) / count


ActorLossConfig.table = {"imagined": _imagined, "behaviour": _behaviour}


def ensemble_terms(ensemble: Ensemble, inputs: Tensor, changes: Tensor) -> dict[str, Tensor]:
    """Return the error of the members in the changes (E, B, D) from inputs (E, B, K * (D + A))."""
    return {"members": (ensemble(inputs) - changes).square().mean()}
