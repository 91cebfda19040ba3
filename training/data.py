"""What is learned from: the dataset, which episodes are held out, the world it came from."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mujepa.agent.device import full_precision
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.diagnostics import RankingBenchmark, ValidationSet, make_ranking_benchmark
from mujepa.rollouts.sampling import Split, split_dataset
from mujepa.rollouts.store import Dataset
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.encoder import Observes
    from mujepa.agent.jepa import JEPA
    from mujepa.envs.world import Episode

STREAM = 2
"""Second word of the random streams of training (collection has 0, the split 1, evaluation 3)."""
VALIDATION_EPISODES = 64
"""Held-out episodes that the diagnostics use at most."""
PROBLEMS = 256
"""Starts and goals that the task draws for training."""
TRIALS = 64
"""How many of them costs are ranked in."""
ENCODE_FRAMES = 2048
"""Frames that are encoded at once."""


@dataclass(frozen=True)
class TrainingData:
    """The data that all stages learn from, and the world that it came from.

    Attributes:
        dataset: the episodes.
        split: which of them are held out.
        validation: the first of these.
        world: the simulator.
        seed: of the random streams.
        device: where it is learned.
        observes: what the encoder reads.
        horizon: model steps that the planner will look ahead.
    """

    dataset: Dataset
    split: Split
    validation: ValidationSet
    world: World
    seed: int
    device: torch.device
    observes: Observes = "pixels"
    horizon: int = 5

    @functools.cached_property
    def problems(self) -> tuple[Episode, ...]:
        """Starts and goals that the task draws; evaluation draws others."""
        return tuple(self.world.sample_episode(self.random(4, i)) for i in range(PROBLEMS))

    @functools.cached_property
    def trials(self) -> RankingBenchmark:
        """What costs are ranked by, in some of the problems."""
        return make_ranking_benchmark(
            self.world, self.observes, self.problems[:TRIALS], self.horizon
        )

    def random(self, stage: int, update: int) -> np.random.Generator:
        """Return the random stream of one update."""
        return np.random.default_rng([self.seed, STREAM, stage, update])

    def observe(
        self, episodes: NDArray[np.int64], offsets: NDArray[np.int64], length: int
    ) -> Tensor:
        """Return what the encoder reads in windows of episodes, (B, T, ...)."""
        windows = _observe(self.dataset, self.world, self.observes, episodes, offsets, length)
        return windows.to(self.device)

    def observe_episode(self, episode: int) -> Tensor:
        """Return what the encoder reads in a whole episode, (frames, ...)."""
        first, length = np.zeros(1, np.int64), int(self.dataset.lengths[episode])
        return self.observe(np.array([episode]), first, length)[0]

    def unit_actions(self, actions: NDArray[np.float32]) -> Tensor:
        """Return actions in units of the bounds, [-1, 1]."""
        return torch.from_numpy(self.world.to_unit(actions)).to(self.device)


def load_training_data(
    folder: Path | str,
    validation_share: float,
    seed: int,
    device: torch.device,
    observes: Observes = "pixels",
    horizon: int = 5,
) -> TrainingData:
    """Open a dataset, verify it, and hold out some of its episodes.

    A string is the URL of a dataset, which is copied into the cache folder.

    Raises:
        UserError: the dataset is missing, damaged or too small.
    """
    dataset = Dataset(folder)
    assert dataset.spec.task
    world = World(
        find_task(dataset.spec.task),
        dataset.spec.image_size,
        threads=2,
        variation=read_variation(dataset.spec.variation),
    )
    split = split_dataset(dataset, validation_share, seed)
    episodes = split.validation[:VALIDATION_EPISODES]
    length = int(dataset.lengths[episodes].min())

    first = np.zeros_like(episodes)

    def column(name: str) -> NDArray[Any]:
        return dataset.gather(name, episodes, first, length)

    validation = ValidationSet(
        _observe(dataset, world, observes, episodes, first, length).to(device),
        torch.from_numpy(world.to_unit(column("action")[:, :-1])).to(device),
        column("state"),
        column("achieved"),
    )
    return TrainingData(dataset, split, validation, world, seed, device, observes, horizon)


def _observe(
    dataset: Dataset,
    world: World,
    observes: Observes,
    episodes: NDArray[np.int64],
    offsets: NDArray[np.int64],
    length: int,
) -> Tensor:
    if observes == "pixels":
        return torch.from_numpy(dataset.gather("pixels", episodes, offsets, length))
    states = dataset.gather("state", episodes, offsets, length)
    return torch.from_numpy(world.proprioception(states).astype(np.float32))


@torch.no_grad()
def encode_episodes(
    data: TrainingData, jepa: JEPA, episodes: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Encode whole episodes, one after the other.

    Returns:
        Embeddings (frames, D) and achieved goals (frames, G).

    Raises:
        UserError: the embeddings are not finite, because the weights exploded.
    """
    dataset = data.dataset
    frames, begin = int(dataset.lengths[episodes].sum()), 0
    embeddings = torch.empty(frames, jepa.dim, device=data.device)
    achieved = np.empty((len(embeddings), data.world.goal_size), np.float32)
    group = max(1, ENCODE_FRAMES // int(dataset.lengths.max()))
    for part in np.array_split(episodes, -(-len(episodes) // group)):
        seen = [data.observe_episode(int(episode)) for episode in part]
        end = begin + sum(map(len, seen))
        embeddings[begin:end] = full_precision(jepa.encode)(torch.cat(seen))
        if not bool(embeddings[begin:end].isfinite().all()):
            raise UserError(
                "training stopped: embedding of the world model is not finite; "
                "try a lower learning rate"
            )
        achieved[begin:end] = np.concatenate(
            [dataset.episode("achieved", int(episode)) for episode in part]
        )
        begin = end
    return embeddings, torch.from_numpy(achieved).to(data.device)
