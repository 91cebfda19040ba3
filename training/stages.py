"""A stage of training: what is optimised, the terms of one update, diagnostics, what follows it.

This file has the world model and the predictor alone; `frozen_stages` has what is trained on frozen
embeddings. Each update draws from a random stream of its own (seed, stage, update), so that a
resumed run repeats an uninterrupted one.

Letters: B batch, T time, D embedding, A action, E episodes, K history, R predicted steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mujepa.agent.checkpoint import Networks
from mujepa.evaluation.diagnostics import effective_rank
from mujepa.rollouts.sampling import sample_windows
from mujepa.runtime import distributed
from mujepa.runtime.errors import UserError
from mujepa.runtime.seeds import Draw
from mujepa.training.config import TrainConfig
from mujepa.training.data import LatentDataset, encode_episodes
from mujepa.training.losses import ExtraTerm, InverseDynamics, encode_batch, prediction_error
from mujepa.training.validation import dynamics_error, ranking


class Stage(ABC):
    """A stage of training: it trains the networks named in `parts`, all others are frozen."""

    weights: dict[str, float]
    """Weights of the terms, by name."""

    def __init__(
        self,
        config: TrainConfig,
        latents: LatentDataset,
        networks: Networks,
        parts: Sequence[str],
        cost: str,
        extra_terms: Sequence[ExtraTerm] = (),
    ) -> None:
        self.config, self.latents, self.data = config, latents, latents.data
        self.networks, self.parts, self.cost = networks, parts, cost
        self._prepare(extra_terms)

    @abstractmethod
    def _prepare(self, extra_terms: Sequence[ExtraTerm]) -> None:
        """Set the weights of the terms, and make what the stage needs besides the networks."""

    def modules(self) -> nn.ModuleDict:
        """Return what is optimised."""
        parts = {it.rpartition(".")[2]: self.networks.get_submodule(it) for it in self.parts}
        return nn.ModuleDict(parts)

    @abstractmethod
    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the unweighted loss terms of one update, of this process's share of the batch."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Return diagnostics on held-out episodes; `score` is the one to maximise."""

    def finish(self) -> None:  # noqa: B027 - most stages have nothing to do
        """Do what follows the last update."""

    def _held_out_embeddings(self) -> Tensor:
        return self.networks.jepa.encode_windows(self.data.validation.observations)


class WorldModelStage(Stage):
    """Encoder and predictor, end to end: predict embeddings open loop without collapsing them."""

    def _prepare(self, extra_terms: Sequence[ExtraTerm]) -> None:
        jepa, device = self.networks.jepa, self.data.device
        held = self.data.validation.observations.shape[1]
        if held <= jepa.history:
            raise UserError(
                f"held-out episodes of {self.data.dataset.folder} have {held} frames; a history of "
                f"{jepa.history} needs {jepa.history + 1}: use longer episodes"
            )
        self._inverse = InverseDynamics(jepa.dim, jepa.history, jepa.action_size).to(device)
        self._extra = {it.name: (it, it.head(jepa).to(device)) for it in extra_terms}
        self.weights = self.config.loss.weights() | {it.name: it.weight for it in extra_terms}

    def modules(self) -> nn.ModuleDict:
        """Return the world model, and the heads that only its training needs."""
        heads = {name: head for name, (_, head) in self._extra.items()}
        return nn.ModuleDict({**super().modules(), "inverse": self._inverse, **heads})

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the terms on a batch of windows of K + R frames."""
        data, jepa, config = self.data, self.networks.jepa, self.config
        random, length = data.random(Draw.WORLD_MODEL, update), jepa.history + config.rollout
        windows = sample_windows(data.dataset, data.split.train, config.batch, length, random)
        episodes, offsets = (numbers[distributed.share()] for numbers in windows)
        observations = data.observe(episodes, offsets, length)
        actions = data.dataset.gather("action", episodes, offsets, length)[:, :-1]
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        actions = data.unit_actions(actions)
        batch = encode_batch(config.loss, jepa, self._inverse, observations, actions, generator)
        extra = {name: extra.term(head, batch) for name, (extra, head) in self._extra.items()}
        return config.loss.terms(batch) | extra

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return diagnostics of representation and dynamics."""
        data, jepa, probe = self.data, self.networks.jepa, self.networks.probe
        self._recalibrate(episodes=128)
        embeddings = self._held_out_embeddings()
        found = dynamics_error(data, jepa, embeddings)
        found["effective_rank"] = effective_rank(embeddings.flatten(0, 1))
        if data.validation.achieved is not None:
            goals = torch.from_numpy(data.validation.achieved.astype(np.float32)).flatten(0, 1)
            frames = embeddings.flatten(0, 1), goals.to(embeddings.device)
            probe.fit(*frames)
            found["probe_r2"] = probe.r2(*frames)
        return found | ranking(data, self.networks, self.cost, embeddings)

    @torch.no_grad()
    def finish(self) -> None:
        """Recalibrate the batch normalisation on training frames, and fit the probe."""
        self._recalibrate(episodes=512)
        episodes = self.data.split.train[:512]
        if (achieved := self.data.achieved(episodes)) is not None:
            embeddings = encode_episodes(self.data, self.networks.jepa, episodes)
            self.networks.probe.fit(embeddings, achieved)

    def _recalibrate(self, episodes: int) -> None:
        normalise = self.networks.jepa.encoder.normalise
        momentum, normalise.momentum = normalise.momentum, None  # None: average over batches
        normalise.reset_running_stats()
        normalise.train()
        encode_episodes(self.data, self.networks.jepa, self.data.split.train[:episodes])
        normalise.eval()
        normalise.momentum = momentum


class PredictorStage(Stage):
    """The predictor alone, on frozen embeddings: without images to read, updates are cheap."""

    def _prepare(self, extra_terms: Sequence[ExtraTerm]) -> None:
        self.weights = {"prediction": 1.0}

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the term on windows as long as plans, as far as the episodes are long enough."""
        latents, jepa = self.latents, self.networks.jepa
        longest = int(latents.lengths.max()) - jepa.history
        rollout = max(self.config.rollout, min(self.data.horizon, longest))
        random, size = self.data.random(Draw.PREDICTOR, update), (self.config.predictor_batch,)
        frames = latents.draw(random, size, past=jepa.history - 1, future=rollout)
        frames = frames[distributed.share()]
        ahead = frames[:, None] + np.arange(rollout)
        predicted = jepa.unroll(latents.memory(frames), latents.actions[ahead])
        return {"prediction": prediction_error(predicted, latents.embeddings[ahead + 1])}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return diagnostics of the dynamics, and how well candidates are ranked."""
        embeddings = self._held_out_embeddings()
        ranks = ranking(self.data, self.networks, self.cost, embeddings)
        return ranks | dynamics_error(self.data, self.networks.jepa, embeddings)
