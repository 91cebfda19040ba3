"""Fresh frames of a task's behaviour policy, in memory, that neither training nor judging has seen.

Letters: E episodes, T model steps, S state, A action, D embedding, P image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mujepa.rollouts.collection import rollout_behavior

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.jepa import JEPA
    from mujepa.envs.world import World

STREAM = 6
"""Second word of their random streams, apart from those of collection, training, evaluation."""
ENCODE_FRAMES = 1024
"""Frames that are encoded at once."""


@dataclass(frozen=True)
class Lived:
    """Episodes that somebody lived through.

    Attributes:
        states: of the simulator, (E, T + 1, S).
        actions: between them, (E, T, A), in [-1, 1].
        embeddings: of what the encoder reads there, (E, T + 1, D).
    """

    states: NDArray[np.float64]
    actions: Tensor
    embeddings: Tensor


@dataclass(frozen=True)
class Fresh(Lived):
    """Episodes of the behaviour policy.

    Attributes:
        images: of the states, (E, T + 1, P, P, 3) uint8.
    """

    images: Tensor


def fresh_episodes(jepa: JEPA, world: World, frames: int, seed: int, kind: int) -> Fresh:
    """Draw about so many frames, of at least two episodes as long as those of the task's data.

    Args:
        jepa: whose embeddings.
        world: the task's, with what varies in it.
        frames: how many.
        seed: of the episodes.
        kind: 0 for a decoder to learn from, 1 for pictures: they share no episode.
    """
    task = world.task
    steps = task.episode_steps or 2 * task.budget_steps // task.frame_skip
    episodes = max(2, frames // (steps + 1))
    words = ([seed, STREAM, 2 * index + kind] for index in range(episodes))
    return live_through(jepa, world, [np.random.default_rng(word) for word in words], steps)


@torch.no_grad()
def live_through(
    jepa: JEPA, world: World, streams: Sequence[np.random.Generator], steps: int
) -> Fresh:
    """Let the behaviour policy act for `steps` model steps in an episode of each random stream."""
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
    return Fresh(states, unit, embeddings.unflatten(0, shape), images.unflatten(0, shape))


@torch.no_grad()
def encode_states(jepa: JEPA, world: World, states: NDArray[np.float64]) -> Tensor:
    """Return the embeddings (E, T, D) of what is seen in states (E, T, S) of the task's world."""
    device = next(jepa.parameters()).device
    films = (torch.from_numpy(world.observe(episode, jepa.observes)) for episode in states)
    return torch.stack([jepa.encode(film.to(device)) for film in films])
