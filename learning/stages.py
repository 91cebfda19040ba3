"""The two stages of training: the world model, then the critic on its frozen embeddings.

A stage says what is optimised, how one update's terms are computed, how to judge, and what to do
at its end. Each update draws from a random stream of its own (seed, stage, update), so that a
resumed run repeats an uninterrupted one.

Letters: B batch, T time, D embedding, A action, E episodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mujepa.agent.configurator import Configurator
from mujepa.agent.critic import critic_terms
from mujepa.agent.losses import InverseDynamics, LossConfig, world_model_terms
from mujepa.agent.memory import Memory
from mujepa.evaluation.diagnostics import (
    candidate_ranking,
    distance_correlation,
    effective_rank,
    open_loop_error,
)
from mujepa.learning.experience import Experience, encode_episodes
from mujepa.rollouts.sampling import sample_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mujepa.agent.checkpoint import Networks


class Stage(Protocol):
    """What the training loop asks of a stage."""

    name: str
    updates: int
    learning_rate: float
    weights: dict[str, float]
    cost: str

    def modules(self) -> nn.ModuleDict:
        """Return what is optimised."""
        ...

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the unweighted loss terms of one update."""
        ...

    def validate(self) -> dict[str, float]:
        """Return diagnostics on held-out episodes; `score` is the one to maximise."""
        ...

    def finish(self) -> None:
        """Do what is left after the last update."""
        ...


class WorldModelStage:
    """Encoder and predictor, end to end: predict embeddings open loop without collapsing them.

    Args:
        experience: the data.
        networks: what is learned; the critic is left alone.
        loss: weights of the terms.
        updates: how many.
        batch: B, windows per update.
        rollout: R, steps predicted open loop.
        learning_rate: of AdamW.
    """

    name = "world model"
    cost = "goal"

    def __init__(
        self,
        experience: Experience,
        networks: Networks,
        loss: LossConfig,
        *,
        updates: int,
        batch: int,
        rollout: int,
        learning_rate: float,
    ) -> None:
        self.experience, self.networks, self.loss = experience, networks, loss
        self.updates, self.batch, self.rollout, self.learning_rate = (
            updates,
            batch,
            rollout,
            learning_rate,
        )
        self.weights = loss.weights()
        jepa = networks.jepa
        self._inverse = InverseDynamics(jepa.dim, jepa.history, jepa.action_size).to(
            experience.device
        )

    def modules(self) -> nn.ModuleDict:
        """Return the world model and the inverse-dynamics head."""
        return nn.ModuleDict({"jepa": self.networks.jepa, "inverse": self._inverse})

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the terms on a batch of windows of K + R frames."""
        data, jepa = self.experience, self.networks.jepa
        random = data.random(0, update)
        length = jepa.history + self.rollout
        where = sample_windows(data.dataset, data.split.train, self.batch, length, random)
        observations = data.observe(*where, length)
        actions = data.unit_actions(data.dataset.gather("action", *where, length)[:, :-1])
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        return world_model_terms(self.loss, jepa, self._inverse, observations, actions, generator)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return diagnostics of representation and dynamics."""
        data = self.experience
        self._recalibrate(episodes=128)
        embeddings = self.networks.jepa.encode_windows(data.validation.observations)
        horizon = min(8, embeddings.shape[1] - self.networks.jepa.history)
        error, frozen = open_loop_error(
            self.networks.jepa, embeddings, data.validation.actions, horizon
        )
        self.networks.probe.fit(*_frames(embeddings, data.validation.achieved))
        by_step = {
            f"open_loop_{step}": error[step - 1] / max(frozen[step - 1], 1e-12)
            for step in sorted({1, 4, horizon})
            if step <= horizon
        }
        return {
            **by_step,
            "effective_rank": effective_rank(embeddings.flatten(0, 1)),
            "probe_r2": self.networks.probe.r2(*_frames(embeddings, data.validation.achieved)),
            **_ranking(data, self.networks, self.cost, embeddings),
            "score": 1 - error[horizon - 1] / max(frozen[horizon - 1], 1e-12),
        }

    @torch.no_grad()
    def finish(self) -> None:
        """Recalibrate the batch normalisation on training frames, and fit the probe."""
        self._recalibrate(episodes=512)
        self.networks.probe.fit(
            *encode_episodes(self.experience, self.networks.jepa, self.experience.split.train[:512])
        )

    @torch.no_grad()
    def _recalibrate(self, episodes: int) -> None:
        """Replace the running statistics of the embeddings by those of whole training episodes."""
        normalise = self.networks.jepa.encoder.normalise
        momentum, normalise.momentum = (
            normalise.momentum,
            None,
        )  # None: the plain average over batches
        normalise.reset_running_stats()
        normalise.train()
        encode_episodes(self.experience, self.networks.jepa, self.experience.split.train[:episodes])
        normalise.eval()
        normalise.momentum = momentum


class CriticStage:
    """The temporal-distance critic, on embeddings that are computed once.

    Args:
        experience: the data.
        networks: what is learned; the world model is frozen.
        updates: how many.
        batch: N, pairs per update.
        imagined: share of starting points that are imagined by the world model instead of seen.
        learning_rate: of AdamW.
        cost: what the planner minimises once the critic is there.
    """

    name = "critic"

    def __init__(
        self,
        experience: Experience,
        networks: Networks,
        *,
        updates: int,
        batch: int,
        imagined: float,
        learning_rate: float,
        cost: str,
    ) -> None:
        self.experience, self.networks, self.imagined = experience, networks, imagined
        self.updates, self.batch, self.learning_rate, self.cost = (
            updates,
            batch,
            learning_rate,
            cost,
        )
        self.weights = {"temporal": 1.0, "apart": networks.critic.config.apart_weight}
        self._embeddings: Tensor | None = None

    def modules(self) -> nn.ModuleDict:
        """Return the critic."""
        return nn.ModuleDict({"critic": self.networks.critic})

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the terms on pairs of frames of one episode, and frames of other episodes."""
        data = self.experience
        if self._embeddings is None:
            self._prepare()
        assert self._embeddings is not None
        random = data.random(1, update)
        past = self.networks.critic.config.history - 1  # frames at the start that have no history
        episodes = random.integers(len(self._lengths), size=(2, self.batch))
        room = self._lengths[episodes] - past
        moments = past + np.sort(
            (random.random((2, self.batch)) * room[0]).astype(np.int64), axis=0
        )
        other = past + (random.random(self.batch) * room[1]).astype(np.int64)
        rows = self._first[episodes[0]] + moments
        starts = self._pairs(rows[0])
        many = int(self.imagined * self.batch)
        if many:
            imagined = self._imagine(
                rows[0, :many], moments[0, :many], steps=int(random.integers(1, 6))
            )
            starts = torch.cat([imagined, starts[many:]])
        steps = torch.from_numpy((moments[1] - moments[0]).astype(np.float32)).to(data.device)
        # As goals are: at rest. Otherwise rushing past the goal looks like being there.
        strangers = self._pairs(self._first[episodes[1]] + other)[:, -1:].expand(-1, 2, -1)
        return critic_terms(self.networks.critic, starts, self._pairs(rows[1]), strangers, steps)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return how well the planner's cost ranks states and candidates."""
        embeddings = self.networks.jepa.encode_windows(self.experience.validation.observations)
        ranking = _ranking(self.experience, self.networks, self.cost, embeddings)
        return ranking | {"score": ranking["candidate_ranking"]}

    def finish(self) -> None:
        """Nothing is left to do."""

    @torch.no_grad()
    def _prepare(self) -> None:
        """Encode every training episode once."""
        data = self.experience
        episodes = data.split.train
        self._lengths = data.dataset.lengths[episodes]
        self._first = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        self._embeddings, _ = encode_episodes(data, self.networks.jepa, episodes)
        actions = [data.dataset.episode("action", int(episode)) for episode in episodes]
        self._actions = data.unit_actions(np.concatenate(actions))

    @torch.no_grad()
    def _imagine(self, rows: NDArray[np.int64], moments: NDArray[np.int64], steps: int) -> Tensor:
        """Return pairs of frames as imagined from `steps` earlier; without such a past, as seen."""
        assert self._embeddings is not None
        jepa = self.networks.jepa
        back = rows - steps
        past = back[:, None] + np.arange(1 - jepa.history, 1)
        possible = moments >= steps + jepa.history - 1
        past, back = np.where(possible[:, None], past, 0), np.where(possible, back, 0)
        memory = Memory(self._embeddings[past], self._actions[past[:, :-1]])
        imagined = jepa.unroll(memory, self._actions[back[:, None] + np.arange(steps)])
        pairs = torch.cat([memory.embeddings[:, -1:], imagined], dim=1)[:, -2:]
        there = torch.from_numpy(possible).to(pairs.device)[:, None, None]
        return torch.where(there, pairs, self._pairs(rows))

    def _pairs(self, rows: NDArray[np.int64]) -> Tensor:
        """Return frames with those before them, (N,) -> (N, 2, D)."""
        assert self._embeddings is not None
        return self._embeddings[rows[:, None] + np.array([-1, 0])]


def _frames(embeddings: Tensor, achieved: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    flat = torch.from_numpy(achieved.astype(np.float32)).flatten(0, 1)
    return embeddings.flatten(0, 1), flat.to(embeddings.device)


def _ranking(
    data: Experience, networks: Networks, cost: str, embeddings: Tensor
) -> dict[str, float]:
    """Correlate the cost with the simulator, over pairs of states and over candidates."""
    random = np.random.default_rng(0)
    batch, time = embeddings.shape[:2]
    past = networks.critic.config.history - 1
    ends = random.integers(batch * (time - past), size=(2, 2048))
    states = data.validation.states[:, past:].reshape(batch * (time - past), -1)
    true = data.world.separation(states[ends[0]], states[ends[1]])
    now = embeddings[:, past:].flatten(0, 1)
    before = embeddings[:, : time - past].flatten(0, 1)
    here, there = (torch.stack([before[end], now[end]], dim=1) for end in ends)
    estimates = {
        "goal": (here[:, 1] - there[:, 1]).square().sum(dim=-1),
        "critic": networks.critic(here, there),
    }
    estimate = estimates["critic" if "critic" in cost else "goal"].cpu().numpy()
    configurator = Configurator(networks.jepa, networks.critic, networks.cost(cost))
    rank = candidate_ranking(
        configurator, data.world, data.validation, embeddings, horizon=6, seed=0
    )
    return {
        "distance_correlation": distance_correlation(estimate, true),
        "candidate_ranking": rank,
    }
