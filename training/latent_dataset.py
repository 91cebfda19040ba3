"""The training episodes as the frozen encoder sees them.

Letters: B batch, E episodes, K history, D embedding, A action.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mujepa.agent.memory import Memory
from mujepa.runtime.errors import UserError
from mujepa.training.data import TrainingData, encode_episodes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.jepa import JEPA


@dataclass(frozen=True)
class LatentDataset:
    """The training episodes, embedded once for all stages, as soon as one asks.

    Frames are numbered through all episodes: `first` (E,) and `lengths` (E,) say which are whose.
    """

    experience: TrainingData
    jepa: JEPA

    @functools.cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each episode."""
        return self.experience.dataset.lengths[self.experience.split.train]

    @functools.cached_property
    def first(self) -> NDArray[np.int64]:
        """Number of the first frame of each episode."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]])

    @functools.cached_property
    def embeddings(self) -> Tensor:
        """Of all frames, (frames, D)."""
        with torch.no_grad():
            return encode_episodes(self.experience, self.jepa, self.experience.split.train)[0]

    @functools.cached_property
    def actions(self) -> Tensor:
        """Taken at each frame, (frames, A), in [-1, 1]."""
        dataset, episodes = self.experience.dataset, self.experience.split.train
        actions = [dataset.episode("action", int(episode)) for episode in episodes]
        return self.experience.unit_actions(np.concatenate(actions))

    def draw(
        self, random: np.random.Generator, shape: tuple[int, ...], past: int = 0, future: int = 0
    ) -> NDArray[np.int64]:
        """Draw frames that have so many before and after them in their episodes.

        Raises:
            UserError: no episode is long enough.
        """
        fitting = np.flatnonzero(self.lengths > past + future)
        if not len(fitting):
            raise UserError(
                f"no episode of {self.experience.dataset.folder} has {past + future + 1} frames; "
                "collect with more --steps"
            )
        episodes = fitting[random.integers(len(fitting), size=shape)]
        room = self.lengths[episodes] - past - future
        return self.first[episodes] + past + (random.random(shape) * room).astype(np.int64)

    def memory(self, frames: NDArray[np.int64]) -> Memory:
        """Return what is remembered at frames (B,) that have K - 1 before them."""
        past = frames[:, None] + np.arange(1 - self.jepa.history, 1)
        return Memory(self.embeddings[past], self.actions[past[:, :-1]])
