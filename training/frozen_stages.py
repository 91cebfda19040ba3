"""The stages that follow the world model, on its frozen embeddings: ensemble, critic, actor.

Letters: B batch, N pairs, T time, K history, H horizon, D embedding, A action, E members.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mujepa.agent.configurator import Configurator
from mujepa.agent.device import full_precision
from mujepa.agent.memory import Memory
from mujepa.evaluation.diagnostics import distance_correlation, every_step
from mujepa.runtime import distributed
from mujepa.training.frozen_losses import (
    ActorBatch,
    ActorLossConfig,
    CriticBatch,
    CriticLossConfig,
    actor_terms,
    critic_terms,
    ensemble_terms,
    imagined_cost,
)
from mujepa.training.latent_dataset import LatentDataset
from mujepa.training.stages import ranking

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mujepa.agent.checkpoint import Networks


@dataclass
class FrozenStage:
    """A stage on frozen embeddings.

    Args:
        embedded: the data, embedded.
        networks: what is learned; what was learned before is frozen.
        updates: how many.
        batch: B, rows per update.
        learning_rate: of AdamW.
        cost: what the planner minimises.
    """

    embedded: LatentDataset
    networks: Networks
    updates: int
    batch: int
    learning_rate: float
    cost: str


@dataclass
class EnsembleStage(FrozenStage):
    """The ensemble, on single steps of the data, other ones for each member."""

    name: str = "ensemble"

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms."""
        return {"members": 1.0}

    def modules(self) -> nn.ModuleDict:
        """Return the ensemble."""
        return nn.ModuleDict({"ensemble": self.networks.ensemble})

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the term on single steps."""
        data, ensemble = self.embedded, self.networks.ensemble
        random = data.experience.random(2, update)
        shape = (ensemble.config.members, self.batch)
        drawn = data.draw(random, shape, past=self.networks.jepa.history - 1, future=1)
        drawn = drawn[:, distributed.share()]
        shape, frames = drawn.shape, drawn.ravel()
        inputs = data.memory(frames).inputs(data.actions[frames])
        changes = data.embeddings[frames + 1] - data.embeddings[frames]
        return ensemble_terms(ensemble, inputs.unflatten(0, shape), changes.unflatten(0, shape))

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the members' error, and how well they rank the errors of the world model."""
        members, model, disagreement = self._held_out()
        rank = distance_correlation(disagreement.cpu().numpy(), model.cpu().numpy())
        return {
            "ensemble_error": members,
            "uncertainty_ranking": rank,
            "score": -members,
        }

    @torch.no_grad()
    def finish(self) -> None:
        """Set the unit of the disagreement: on average it is the error of the world model."""
        _, model, disagreement = self._held_out()
        self.networks.ensemble.scale.mul_(model.mean() / disagreement.mean().clamp(min=1e-12))

    def _held_out(self) -> tuple[float, Tensor, Tensor]:
        """Return the members' error, and by held-out step that of the model and the disagreement.

        Errors are squared and averaged over dimensions.
        """
        held = self.embedded.experience.validation
        jepa, ensemble = self.networks.jepa, self.networks.ensemble
        embeddings = jepa.encode_windows(held.observations)
        memory, action, target = every_step(embeddings, held.actions, jepa.history)
        expected = memory.embeddings[:, -1] + ensemble(memory.inputs(action)).mean(dim=0)
        model = jepa.surprise(memory, action, target)
        members = float((expected - target).square().mean())
        return members, model, ensemble.disagreement(memory, action)


@dataclass
class CriticStage(FrozenStage):
    """The temporal-distance critic.

    Attributes:
        loss: weights of the terms.
        imagined: share of starting points that the world model imagines instead of seeing.
    """

    loss: CriticLossConfig = field(default_factory=CriticLossConfig)
    imagined: float = 0.5
    name: str = "critic"

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms."""
        return self.loss.weights()

    def modules(self) -> nn.ModuleDict:
        """Return the critic."""
        return nn.ModuleDict({"critic": self.networks.critic})

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the terms on pairs of frames of one episode, and frames of other episodes."""
        data = self.embedded
        random = data.experience.random(1, update)
        past = self.networks.critic.config.history - 1  # frames at the start that have no history
        episodes = random.integers(len(data.lengths), size=(2, self.batch))
        room = data.lengths[episodes] - past
        moments = past + np.sort(
            (random.random((2, self.batch)) * room[0]).astype(np.int64), axis=0
        )
        other = past + (random.random(self.batch) * room[1]).astype(np.int64)
        back, share = int(random.integers(1, 6)), distributed.share()
        episodes, moments, other = (it[..., share] for it in (episodes, moments, other))
        rows = data.first[episodes[0]] + moments
        starts = self._pairs(rows[0])
        many = len(range(int(self.imagined * self.batch))[share])
        if many:
            imagined = self._imagine(rows[0, :many], moments[0, :many], back)
            starts = torch.cat([imagined, starts[many:]])
        steps = torch.from_numpy((moments[1] - moments[0]).astype(np.float32)).to(data.embeddings)
        # As goals are: at rest. Otherwise rushing past the goal looks like being there.
        strangers = self._pairs(data.first[episodes[1]] + other)[:, -1:].expand(-1, 2, -1)
        following = None
        if "bellman" in self.weights:
            ends = data.first[episodes[0]] + data.lengths[episodes[0]] - 1
            following = self._pairs(np.minimum(rows[0] + 1, ends)[many:])
        critic, goals = self.networks.critic, self._pairs(rows[1])
        return critic_terms(
            CriticBatch(self.loss, critic, starts, goals, strangers, steps, following)
        )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return how well the planner's cost ranks states and candidates."""
        data = self.embedded.experience
        embeddings = self.networks.jepa.encode_windows(data.validation.observations)
        ranks = ranking(data, self.networks, self.cost, embeddings)
        return ranks | {"score": ranks["candidate_ranking"]}

    def finish(self) -> None:
        """Nothing is left to do."""

    @torch.no_grad()
    def _imagine(self, rows: NDArray[np.int64], moments: NDArray[np.int64], steps: int) -> Tensor:
        """Return pairs of frames as imagined from `steps` earlier; without such a past, as seen."""
        jepa = self.networks.jepa
        past = jepa.history - 1
        possible = moments >= steps + past
        back = np.where(possible, rows - steps, past)
        memory = self.embedded.memory(back)
        imagined = jepa.unroll(memory, self.embedded.actions[back[:, None] + np.arange(steps)])
        pairs = torch.cat([memory.embeddings[:, -1:], imagined], dim=1)[:, -2:]
        there = torch.from_numpy(possible).to(pairs.device)[:, None, None]
        return torch.where(there, pairs, self._pairs(rows))

    def _pairs(self, rows: NDArray[np.int64]) -> Tensor:
        """Return frames with those before them, (N,) -> (N, 2, D)."""
        return self.embedded.embeddings[rows[:, None] + np.array([-1, 0])]


@dataclass
class ActorStage(FrozenStage):
    """The reactive policy: act in the world model, towards what was and will be asked for.

    Attributes:
        loss: weights of the terms.
        horizon: H, model steps that it acts in imagination.
    """

    loss: ActorLossConfig = field(default_factory=ActorLossConfig)
    horizon: int = 5
    name: str = "actor"

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms."""
        return self.loss.weights()

    def modules(self) -> nn.ModuleDict:
        """Return the actor."""
        return nn.ModuleDict({"actor": self.networks.actor})

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the terms on problems: from a frame of the data to a goal.

        A third of the goals each: a later frame of the episode, any frame, one that the task draws.
        """
        data = self.embedded
        random = data.experience.random(3, update)
        past = self.networks.jepa.history - 1
        frames = data.draw(random, (self.batch,), past, future=1)
        episodes = np.searchsorted(data.first, frames, side="right") - 1
        left = data.first[episodes] + data.lengths[episodes] - 1 - frames
        later = frames + 1 + (random.random(self.batch) * left).astype(np.int64)
        anywhere = data.draw(random, (self.batch,))
        drawn = random.integers(len(self.task_goals), size=self.batch)
        kind, share = np.arange(self.batch) % 3, distributed.share()
        frames, later, anywhere, drawn, kind = (
            it[share] for it in (frames, later, anywhere, drawn, kind)
        )
        goals = data.embeddings[np.where(kind == 0, later, anywhere)]
        goals[kind == 2] = self.task_goals[drawn[kind == 2]]
        followed = torch.from_numpy(kind == 0).to(goals.device)
        return actor_terms(
            ActorBatch(
                self.loss, self.networks.actor, self._configurator, data.memory(frames), goals,
                self.horizon, data.actions[frames], followed,
            )
        )  # fmt: skip

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the cost that the actor expects of its own doing, on held-out problems."""
        data, jepa = self.embedded.experience, self.networks.jepa
        embeddings = jepa.encode_windows(data.validation.observations)
        goals = self.task_goals[: len(embeddings)]
        memory = Memory(
            embeddings[: len(goals), : jepa.history],
            data.validation.actions[: len(goals), : jepa.history - 1],
        )
        goal = self._configurator.goal_from_embedding(goals)
        cost = float(
            imagined_cost(self.networks.actor, self._configurator, memory, goal, self.horizon)
        )
        return {"actor_cost": cost, "score": -cost}

    def finish(self) -> None:
        """Nothing is left to do."""

    @functools.cached_property
    def task_goals(self) -> Tensor:
        """Embeddings of goals that the task draws, (G, D); evaluation draws others."""
        data = self.embedded.experience
        states = np.stack([episode.goal for episode in data.problems])
        variants = data.world.variants(episode.draw for episode in data.problems)
        with torch.no_grad():
            seen = torch.from_numpy(data.world.observe_goals(states, data.observes, variants))
            return full_precision(self.networks.jepa.encode)(seen.to(data.device))

    @functools.cached_property
    def _configurator(self) -> Configurator:
        networks = self.networks
        return Configurator(networks.jepa, networks.critic, networks.cost(self.cost))
