"""The stage in which the predictor goes on alone, on frozen embeddings.

Letters: K history, R predicted steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from mujepa.runtime import distributed
from mujepa.training.frozen_stages import FrozenStage
from mujepa.training.losses import prediction_error
from mujepa.training.stages import judge_dynamics, ranking

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class PredictorStage(FrozenStage):
    """The predictor alone, further: without an image to read, many updates are cheap.

    Attributes:
        rollout: R, steps predicted open loop.
    """

    rollout: int = 8
    name: str = "predictor"

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms."""
        return {"prediction": 1.0}

    def modules(self) -> nn.ModuleDict:
        """Return the predictor."""
        return nn.ModuleDict({"predictor": self.networks.jepa.predictor})

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the term on windows of K + R frames."""
        data, jepa = self.embedded, self.networks.jepa
        random = data.experience.random(9, update)
        frames = data.draw(random, (self.batch,), past=jepa.history - 1, future=self.rollout)
        frames = frames[distributed.share()]
        ahead = frames[:, None] + np.arange(self.rollout)
        predicted = jepa.unroll(data.memory(frames), data.actions[ahead])
        return {"prediction": prediction_error(predicted, data.embeddings[ahead + 1])}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return diagnostics of the dynamics, and how well candidates are ranked."""
        data, jepa = self.embedded.experience, self.networks.jepa
        embeddings = jepa.encode_windows(data.validation.observations)
        ranks = ranking(data, self.networks, self.cost, embeddings)
        return ranks | judge_dynamics(data, jepa, embeddings)

    def finish(self) -> None:
        """Nothing is left to do."""
