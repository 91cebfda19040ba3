"""The frozen episodes that a task is judged on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mujepa.envs.world import Episode, World

STREAM = 3
"""Second word of the random streams of evaluation; collection has 0, so that the two never meet."""


@dataclass(frozen=True)
class Manifest:
    """Episodes to judge on: starts and goals, and a seed for what is random within each.

    Attributes:
        episodes: start and goal states.
        seeds: one for each episode.
        digest: SHA-256 over the starts and goals, rounded to a micrometre; equal digests are
            equal episodes.
    """

    episodes: list[Episode]
    seeds: list[int]
    digest: str

    def first(self, count: int | None) -> Manifest:
        """Return the first `count` episodes, or all; the digest stays that of the whole."""
        return replace(self, episodes=self.episodes[:count], seeds=self.seeds[:count])


def make_manifest(world: World, episodes: int, seed: int) -> Manifest:
    """Draw the episodes of a task, the same for the same seed; more episodes only append.

    Starts that are already solved are excluded, and the random streams are apart from those of
    collection, so that no episode is one of the training data.
    """
    return manifest_of([draw_episode(world, index, seed) for index in range(episodes)], seed)


def draw_episode(world: World, index: int, seed: int) -> Episode:
    """Return one episode of the manifest of a seed, by its number."""
    return world.sample_episode(np.random.default_rng([seed, STREAM, index]))


def manifest_of(episodes: list[Episode], seed: int) -> Manifest:
    """Return the manifest of episodes: with their digest, and a seed for each."""
    content = np.stack([np.concatenate([episode.start, episode.goal]) for episode in episodes])
    digest = hashlib.sha256(np.round(content, 6).tobytes()).hexdigest()
    words = np.random.SeedSequence([seed, STREAM]).generate_state(len(episodes))
    return Manifest(episodes, [int(word) for word in words], digest)
