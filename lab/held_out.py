"""Experience that training never saw, to judge the world model by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mujepa.rollouts.collect import roam

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.jepa import JEPA
    from mujepa.envs.world import World

STREAM = 5
"""Second word of the random streams; those of collection and evaluation are others."""


@dataclass(frozen=True)
class HeldOut:
    """Episodes of the behaviour policy.

    Letters: B episodes, T frames, D embedding, A action, S state.

    Attributes:
        embeddings: what the encoder makes of the frames, (B, T, D).
        actions: (B, T - 1, A), in [-1, 1].
        states: (B, T, S) simulator states.
    """

    embeddings: Tensor
    actions: Tensor
    states: NDArray[np.float64]


def live_through(world: World, jepa: JEPA, episodes: int, steps: int, seed: int) -> HeldOut:
    """Let the behaviour policy act in episodes of `steps` model steps, and encode what is seen."""
    streams = [np.random.default_rng([seed, STREAM, index]) for index in range(episodes)]
    states, actions, _ = roam(world, streams, steps)
    embeddings = encode_states(world, jepa, states)
    return HeldOut(embeddings, torch.from_numpy(world.to_unit(actions)).to(embeddings), states)


@torch.no_grad()
def encode_states(world: World, jepa: JEPA, states: NDArray[np.float64]) -> Tensor:
    """Return the embeddings (B, T, D) of what is seen in states (B, T, S)."""
    device = next(jepa.parameters()).device
    films = (torch.from_numpy(world.observe(episode, jepa.observes)) for episode in states)
    return torch.stack([jepa.encode(film.to(device)) for film in films])
