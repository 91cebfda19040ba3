"""The frozen episodes on which a task is evaluated."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mujepa.envs.world import Episode, World
from mujepa.runtime.seeds import Stream, stream


@dataclass(frozen=True)
class Manifest:
    """Starts and goals of episodes, and a seed for what is random within each.

    `digest` is the SHA-256 of the starts and goals, rounded to a micrometre; equal digests mean
    equal episodes.
    """

    episodes: list[Episode]
    seeds: list[int]
    digest: str = ""

    @property
    def ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Start and goal states, (E, S) each."""
        starts, goals = zip(*((one.start, one.goal) for one in self.episodes), strict=True)
        return np.stack(starts), np.stack(goals)

    @property
    def digests(self) -> list[str]:
        """The beginning of the SHA-256 of each episode's start and goal, rounded as in `digest`."""
        rows = np.round(np.concatenate(self.ends, axis=1), 6)
        return [hashlib.sha256(row.tobytes()).hexdigest()[:12] for row in rows]

    def part(self, which: slice) -> Manifest:
        """Return some of the episodes; the digest stays that of all."""
        return replace(self, episodes=self.episodes[which], seeds=self.seeds[which])

    def first(self, count: int | None) -> Manifest:
        """Return the first `count` episodes, or all; the digest stays that of all."""
        return self.part(slice(count))


def make_manifest(world: World, episodes: int, seed: int) -> Manifest:
    """Draw the episodes of a task, the same for the same seed; more episodes only append.

    Starts that are already solved are excluded. Evaluation has a random stream of its own, so no
    episode occurs in the training data.
    """
    return manifest_of([draw_episode(world, index, seed) for index in range(episodes)], seed)


def draw_episode(world: World, index: int, seed: int) -> Episode:
    """Return one episode of the manifest of a seed, by its number."""
    return world.sample_episode(stream(seed, Stream.EVALUATION, index))


def manifest_of(episodes: list[Episode], seed: int) -> Manifest:
    """Return a manifest of episodes, with their digest and a seed for each."""
    words = np.random.SeedSequence([seed, Stream.EVALUATION]).generate_state(len(episodes))
    made = Manifest(episodes, words.tolist())
    content = np.round(np.concatenate(made.ends, axis=1), 6)
    return replace(made, digest=hashlib.sha256(content.tobytes()).hexdigest())
