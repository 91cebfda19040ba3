"""The first stage of training, the world model; what follows on its embeddings is in `frozen`.

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
from mujepa.evaluation.diagnostics import (
    candidate_ranking,
    distance_correlation,
    effective_rank,
    open_loop_error,
)
from mujepa.rollouts.sampling import sample_windows
from mujepa.runtime import distributed
from mujepa.training.data import TrainingData, encode_episodes
from mujepa.training.losses import (
    ExtraTerm,
    InverseDynamics,
    LossConfig,
    encode_batch,
    world_model_terms,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mujepa.agent.checkpoint import Networks
    from mujepa.agent.jepa import JEPA
    from mujepa.evaluation.diagnostics import RankingBenchmark

COSTS = (
    *("critic", "goal", "critic + 5*goal"),
    *("critic.min", "goal.min", "critic.min + 5*goal.min"),
)
"""What `--cost auto` chooses from: critic, latent distance and their mixture; mean or nearest."""
CLEARLY = 0.15
"""By how much another cost has to rank better than the critic."""


class Stage(Protocol):
    """What the training loop asks of a stage."""

    name: str
    updates: int
    learning_rate: float
    cost: str

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms."""
        ...

    def modules(self) -> nn.ModuleDict:
        """Return what is optimised."""
        ...

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the unweighted loss terms of one update, of this process's share of the batch."""
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
        extra_terms: further terms, each with a head of its own.
        updates: how many.
        batch: B, windows per update.
        rollout: R, steps predicted open loop.
        learning_rate: of AdamW.
    """

    name = "world model"
    cost = "goal"

    def __init__(
        self,
        experience: TrainingData,
        networks: Networks,
        loss: LossConfig,
        extra_terms: Sequence[ExtraTerm] = (),
        *,
        updates: int,
        batch: int,
        rollout: int,
        learning_rate: float,
    ) -> None:
        self.experience, self.networks, self.loss = experience, networks, loss
        self.updates, self.batch, self.rollout = updates, batch, rollout
        self.learning_rate = learning_rate
        self.weights = loss.weights() | {extra.name: extra.weight for extra in extra_terms}
        jepa = networks.jepa
        self._inverse = InverseDynamics(jepa.dim, jepa.history, jepa.action_size).to(
            experience.device
        )
        self._extra = {
            extra.name: (extra, extra.head(jepa).to(experience.device)) for extra in extra_terms
        }

    def modules(self) -> nn.ModuleDict:
        """Return the world model, and the heads that only its training needs."""
        heads = {name: head for name, (_, head) in self._extra.items()}
        return nn.ModuleDict({"jepa": self.networks.jepa, "inverse": self._inverse, **heads})

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the terms on a batch of windows of K + R frames."""
        data, jepa = self.experience, self.networks.jepa
        random = data.random(0, update)
        length = jepa.history + self.rollout
        windows = sample_windows(data.dataset, data.split.train, self.batch, length, random)
        episodes, offsets = (numbers[distributed.share()] for numbers in windows)
        observations = data.observe(episodes, offsets, length)
        actions = data.dataset.gather("action", episodes, offsets, length)[:, :-1]
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        actions = data.unit_actions(actions)
        batch = encode_batch(self.loss, jepa, self._inverse, observations, actions, generator)
        extra = {name: extra.term(head, batch) for name, (extra, head) in self._extra.items()}
        return world_model_terms(batch) | extra

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return diagnostics of representation and dynamics."""
        data = self.experience
        self._recalibrate(episodes=128)
        embeddings = self.networks.jepa.encode_windows(data.validation.observations)
        self.networks.probe.fit(*_frames(embeddings, data.validation.achieved))
        return {
            **judge_dynamics(data, self.networks.jepa, embeddings),
            "effective_rank": effective_rank(embeddings.flatten(0, 1)),
            "probe_r2": self.networks.probe.r2(*_frames(embeddings, data.validation.achieved)),
            **ranking(data, self.networks, self.cost, embeddings),
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


def _frames(embeddings: Tensor, achieved: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    flat = torch.from_numpy(achieved.astype(np.float32)).flatten(0, 1)
    return embeddings.flatten(0, 1), flat.to(embeddings.device)


def judge_dynamics(data: TrainingData, jepa: JEPA, embeddings: Tensor) -> dict[str, float]:
    """Return the open-loop error in embeddings (B, T, D) of the held-out episodes.

    After 1, 4 and 8 steps or as many as there are, over the error of a world that stands still; the
    `score` is the share of the last one's that is gone.
    """
    horizon = min(8, embeddings.shape[1] - jepa.history)
    error, frozen = open_loop_error(jepa, embeddings, data.validation.actions, horizon)
    shares = {
        step: error[step - 1] / max(frozen[step - 1], 1e-12)
        for step in sorted({1, 4, horizon})
        if step <= horizon
    }
    by_step = {f"open_loop_{step}": share for step, share in shares.items()}
    return by_step | {"score": 1 - shares[horizon]}


def ranking(
    data: TrainingData, networks: Networks, cost: str, embeddings: Tensor
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
    return {
        "distance_correlation": distance_correlation(estimate, true),
        "candidate_ranking": judge_cost(data.trials, networks, cost),
    }


def judge_cost(trials: RankingBenchmark, networks: Networks, cost: str) -> float:
    """Return how well a cost ranks what was tried, from -1 to 1."""
    configurator = Configurator(networks.jepa, networks.critic, networks.cost(cost))
    return candidate_ranking(configurator, trials)


def choose_cost(ranks: Mapping[str, float]) -> str:
    """Return the cost to plan with: the critic, unless another ranks clearly better.

    The critic sees beyond the horizon, which ranks within it do not tell; docs/ablations.md has
    both, ranks and success.

    Args:
        ranks: of each of `COSTS`, from `judge_cost`.
    """
    best = max(ranks, key=lambda cost: ranks[cost])
    return best if ranks[best] > ranks["critic"] + CLEARLY else "critic"
