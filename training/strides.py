"""The stage of the second level, on frozen embeddings of the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mujepa.agent.hierarchy import Strides, strides_terms
from mujepa.runtime import distributed
from mujepa.runtime.errors import UserError
from mujepa.training.frozen_stages import FrozenStage

if TYPE_CHECKING:
    from mujepa.evaluation.diagnostics import ValidationSet


@dataclass
class StridesStage(FrozenStage):
    """The second level, on strides of the data.

    Raises:
        UserError: the held-out episodes are shorter than a stride.
    """

    name: str = "strides"

    def __post_init__(self) -> None:
        frames, length = self._held.observations.shape[1], self._strides.config.length
        if frames <= length:
            raise UserError(
                f"--strides.length {length} needs episodes of {length + 1} frames, held-out ones "
                f"have {frames}; collect with more --steps or take shorter strides"
            )

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms."""
        return {"stride": 1.0, "divergence": self._strides.config.divergence_weight}

    def modules(self) -> nn.ModuleDict:
        """Return the second level."""
        return nn.ModuleDict({"strides": self._strides})

    def terms(self, update: int) -> dict[str, Tensor]:
        """Return the terms on strides."""
        data, length = self.embedded, self._strides.config.length
        random = data.experience.random(5, update)
        frames = data.draw(random, (self.batch,), future=length)
        frames = frames[distributed.share()]
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        begin, end = data.embeddings[frames], data.embeddings[frames + length]
        return strides_terms(self._strides, begin, end, generator)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the error on held-out strides, the macro action known, over standing still."""
        length = self._strides.config.length
        embeddings = self.networks.jepa.encode_windows(self._held.observations)
        begin, end = embeddings[:, :-length], embeddings[:, length:]
        told = self._strides(begin, self._strides.infer(begin, end)[0])
        error = (told - end).square().mean() / (begin - end).square().mean().clamp(min=1e-12)
        return {"stride_error": float(error), "score": -float(error)}

    def finish(self) -> None:
        """Nothing is left to do."""

    @property
    def _held(self) -> ValidationSet:
        return self.embedded.experience.validation

    @property
    def _strides(self) -> Strides:
        assert self.networks.strides is not None
        return self.networks.strides
