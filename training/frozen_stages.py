"""The stages that follow the world model, on its frozen embeddings: ensemble, critic, actor.

Letters: B batch, N pairs, T time, K history, H horizon, D embedding, A action, E members.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mujepa.agent.configurator import Configurator
from mujepa.agent.memory import Memory
from mujepa.evaluation.diagnostics import distance_correlation, every_step
from mujepa.runtime import distributed
from mujepa.runtime.seeds import Draw
from mujepa.training.frozen_losses import ActorBatch, CriticBatch, ensemble_terms, imagined_cost
from mujepa.training.losses import ExtraTerm
from mujepa.training.precision import full_precision
from mujepa.training.stages import Stage
from mujepa.training.validation import ranking


class EnsembleStage(Stage):
    """The ensemble, on single steps of the data, different ones for each member."""

    def _prepare(self, extra_terms: Sequence[ExtraTerm]) -> None:
        self.weights = {"members": 1.0}

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the term on single steps."""
        latents, ensemble = self.latents, self.networks.ensemble
        random, past = self.data.random(Draw.ENSEMBLE, update), self.networks.jepa.history - 1
        size = (ensemble.config.members, self.config.batch)
        drawn = latents.draw(random, size, past=past, future=1)[:, distributed.share()]
        shape, frames = drawn.shape, drawn.ravel()
        inputs = latents.memory(frames).inputs(latents.actions[frames])
        changes = latents.embeddings[frames + 1] - latents.embeddings[frames]
        return ensemble_terms(ensemble, inputs.unflatten(0, shape), changes.unflatten(0, shape))

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the members' error, and how well they rank the errors of the world model."""
        members, model, disagreement = self._held_out_errors()
        rank = distance_correlation(disagreement.cpu().numpy(), model.cpu().numpy())
        return {"ensemble_error": members, "uncertainty_ranking": rank, "score": -members}

    @torch.no_grad()
    def finish(self) -> None:
        """Set the unit of the disagreement: on average it is the error of the world model."""
        _, model, disagreement = self._held_out_errors()
        self.networks.ensemble.scale.mul_(model.mean() / disagreement.mean().clamp(min=1e-12))

    def _held_out_errors(self) -> tuple[float, Tensor, Tensor]:
        """Return the error of members, and of the model and the disagreement by held-out step."""
        jepa, ensemble = self.networks.jepa, self.networks.ensemble
        steps = self._held_out_embeddings(), self.data.validation.actions
        memory, action, target = every_step(*steps, jepa.history)
        expected = memory.embeddings[:, -1] + ensemble(memory.inputs(action)).mean(dim=0)
        model = (jepa.predictor(memory, action) - target).square().mean(dim=-1)
        members = float((expected - target).square().mean())
        return members, model, ensemble.disagreement(memory, action)


class CriticStage(Stage):
    """The temporal-distance critic, on pairs of frames."""

    def _prepare(self, extra_terms: Sequence[ExtraTerm]) -> None:
        self.weights = self.config.critic_loss.weights()

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the terms on pairs of frames of one episode, and frames of other episodes."""
        latents, batch, loss = self.latents, self.config.critic_batch, self.config.critic_loss
        random = self.data.random(Draw.CRITIC, update)
        past = self.networks.critic.config.history - 1  # frames at the start that have no history
        episodes = random.integers(len(latents.lengths), size=(2, batch))
        room = latents.lengths[episodes] - past
        moments = past + np.sort((random.random((2, batch)) * room[0]).astype(np.int64), axis=0)
        other = past + (random.random(batch) * room[1]).astype(np.int64)
        back, share = int(random.integers(1, 6)), distributed.share()
        episodes, moments, other = (it[..., share] for it in (episodes, moments, other))
        rows = latents.first[episodes[0]] + moments
        starts = self._pairs(rows[0])
        many = len(range(int(self.config.imagined * batch))[share])
        if many:
            predicted = self._predicted_pairs(rows[0, :many], moments[0, :many], back)
            starts = torch.cat([predicted, starts[many:]])
        steps = torch.from_numpy((moments[1] - moments[0]).astype(np.float32))
        # At rest, as goals are. Otherwise rushing past a goal looks like being there.
        strangers = self._pairs(latents.first[episodes[1]] + other)[:, -1:].expand(-1, 2, -1)
        following = None
        if loss.bellman:
            ends = latents.first[episodes[0]] + latents.lengths[episodes[0]] - 1
            following = self._pairs(np.minimum(rows[0] + 1, ends)[many:])
        return loss.terms(
            CriticBatch(
                loss, self.networks.critic, starts, self._pairs(rows[1]), strangers,
                steps.to(latents.embeddings), following,
            )
        )  # fmt: skip

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return how well the planner's cost ranks states and candidates."""
        ranks = ranking(self.data, self.networks, self.cost, self._held_out_embeddings())
        score = "candidate_ranking" if self.data.world else "step_correlation"
        return ranks | {"score": ranks[score]}

    @torch.no_grad()
    def _predicted_pairs(
        self, rows: NDArray[np.int64], moments: NDArray[np.int64], steps: int
    ) -> Tensor:
        """Return pairs of frames as predicted from `steps` earlier, or as seen without a past."""
        jepa, latents = self.networks.jepa, self.latents
        past = jepa.history - 1
        possible = moments >= steps + past
        back = np.where(possible, rows - steps, past)
        memory = latents.memory(back)
        predicted = jepa.unroll(memory, latents.actions[back[:, None] + np.arange(steps)])
        pairs = torch.cat([memory.embeddings[:, -1:], predicted], dim=1)[:, -2:]
        there = torch.from_numpy(possible).to(pairs.device)[:, None, None]
        return torch.where(there, pairs, self._pairs(rows))

    def _pairs(self, rows: NDArray[np.int64]) -> Tensor:
        return self.latents.embeddings[rows[:, None] + np.array([-1, 0])]  # (N, 2, D)


class ActorStage(Stage):
    """The reactive policy: act in the world model, towards frames of the data and goals."""

    def _prepare(self, extra_terms: Sequence[ExtraTerm]) -> None:
        self.weights = self.config.actor_loss.weights()
        self._horizon = self.config.actor_loss.horizon or self.data.horizon

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the terms on pairs of a frame of the data and a goal.

        A third of the goals each: a later frame of the episode, any frame, and one that the task
        draws; without a simulator, any frame instead.
        """
        latents, batch = self.latents, self.config.actor_batch
        random, past = self.data.random(Draw.ACTOR, update), self.networks.jepa.history - 1
        frames = latents.draw(random, (batch,), past, future=1)
        episodes = np.searchsorted(latents.first, frames, side="right") - 1
        left = latents.first[episodes] + latents.lengths[episodes] - 1 - frames
        later = frames + 1 + (random.random(batch) * left).astype(np.int64)
        anywhere = latents.draw(random, (batch,))
        drawn = random.integers(len(self.goals), size=batch)
        kind, share = np.arange(batch) % 3, distributed.share()
        frames, later, anywhere, drawn, kind = (
            it[share] for it in (frames, later, anywhere, drawn, kind)
        )
        goals = latents.embeddings[np.where(kind == 0, later, anywhere)]
        if self.data.world:
            goals[kind == 2] = self.goals[drawn[kind == 2]]
        followed = torch.from_numpy(kind == 0).to(goals.device)
        loss = self.config.actor_loss
        return loss.terms(
            ActorBatch(
                loss, self.networks.actor, self._configurator, latents.memory(frames), goals,
                self._horizon, latents.actions[frames], followed,
            )
        )  # fmt: skip

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the cost that the actor expects of its own actions, from held-out frames."""
        jepa, embeddings = self.networks.jepa, self._held_out_embeddings()
        goals = self.goals[: len(embeddings)]
        memory = Memory(
            embeddings[: len(goals), : jepa.history],
            self.data.validation.actions[: len(goals), : jepa.history - 1],
        )
        goal = self._configurator.goal_from_embedding(goals)
        actor, configurator = self.networks.actor, self._configurator
        cost = float(imagined_cost(actor, configurator, memory, goal, self._horizon))
        return {"actor_cost": cost, "score": -cost}

    @functools.cached_property
    def goals(self) -> Tensor:
        """Embeddings of goals that the task draws, or of the last held-out frames, (G, D)."""
        with torch.no_grad():
            if not self.data.world:
                return self._held_out_embeddings()[:, -1]
            return full_precision(self.networks.jepa.encode)(self.data.goal_observations)

    @functools.cached_property
    def _configurator(self) -> Configurator:
        networks = self.networks
        return Configurator(networks.jepa, networks.critic, networks.cost(self.cost))
