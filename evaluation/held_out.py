"""Held-out episodes of a task's behaviour policy, apart from training and evaluation.

Letters: E episodes, T model steps, S state, A action, D embedding, P image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mujepa.agent.jepa import JEPA
from mujepa.envs.variation import Variants
from mujepa.envs.world import World
from mujepa.rollouts.collection import rollout_behavior
from mujepa.runtime.seeds import Stream, stream

ENCODE_FRAMES = 1024
"""Frames that are encoded at once."""


@dataclass(frozen=True)
class Episodes:
    """Episodes of equal length."""

    states: NDArray[np.float64]  # (E, T + 1, S)
    actions: Tensor  # (E, T, A), in [-1, 1]
    embeddings: Tensor  # of what the encoder reads there, (E, T + 1, D)
    images: Tensor | None = None  # (E, T + 1, P, P, 3) uint8


def sample_episodes(jepa: JEPA, world: World, frames: int, seed: int, kind: int) -> Episodes:
    """Sample about `frames` frames: at least two episodes, as long as those of the task's data.

    `kind` is 0 for the training of a decoder, 1 for figures: they share no episode.
    """
    task = world.task
    steps = task.episode_steps or 2 * task.budget_steps // task.frame_skip
    indices = range(max(2, frames // (steps + 1)))
    streams = [stream(seed, Stream.HELD_OUT, 2 * index + kind) for index in indices]
    return rollout_episodes(jepa, world, streams, steps)


@torch.no_grad()
def rollout_episodes(
    jepa: JEPA, world: World, streams: Sequence[np.random.Generator], steps: int
) -> Episodes:
    """Run the behaviour policy for `steps` model steps, in one episode for each random stream."""
    states, actions, variants = rollout_behavior(world, streams, steps)
    flat = states.reshape(-1, world.state_size)
    rows = variants and [variant for variant in variants for _ in range(steps + 1)]
    images = torch.from_numpy(world.render(flat, rows))
    observed = images
    if jepa.observes != "pixels":
        observed = torch.from_numpy(world.observe(flat, jepa.observes, rows))
    device = next(jepa.parameters()).device
    parts = observed.split(ENCODE_FRAMES)
    embeddings = torch.cat([jepa.encode(part.to(device)) for part in parts])
    shape = states.shape[:2]
    unit = torch.from_numpy(world.to_unit(actions)).to(device)
    return Episodes(states, unit, embeddings.unflatten(0, shape), images.unflatten(0, shape))


@torch.no_grad()
def encode_states(
    jepa: JEPA, world: World, states: NDArray[np.float64], variants: Variants = None
) -> Tensor:
    """Return the embeddings (E, T, D) of states (E, T, S), in the variant of each episode."""
    device, found = next(jepa.parameters()).device, []
    for index, episode in enumerate(states):
        rows = variants and [variants[index]] * len(episode)
        observed = torch.from_numpy(world.observe(episode, jepa.observes, rows))
        found.append(jepa.encode(observed.to(device)))
    return torch.stack(found)
