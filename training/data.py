"""What the stages learn from: a dataset, its split, the simulator if there is one, embeddings.

Letters: B batch, E episodes, T time, P image size, S state, G achieved goal, K history,
D embedding, A action.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mujepa.agent.encoder import Observes
from mujepa.agent.jepa import JEPA
from mujepa.agent.memory import Memory
from mujepa.envs.registry import find_task
from mujepa.envs.task import Task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import Episode, World
from mujepa.evaluation.diagnostics import RankingBenchmark, make_ranking_benchmark
from mujepa.rollouts.sampling import Split, split_dataset
from mujepa.rollouts.store import Dataset, DatasetSpec
from mujepa.runtime.errors import UserError
from mujepa.runtime.seeds import Draw, Stream, stream
from mujepa.training.precision import full_precision

VALIDATION_EPISODES = 64
"""Largest number of held-out episodes for diagnostics."""
START_GOAL_PAIRS = 256
"""Starts and goals that the task draws for training."""
RANKED_PAIRS = 64
"""How many of them costs are ranked in."""
ENCODE_FRAMES = 2048
"""Frames that are encoded at once."""


@dataclass(frozen=True)
class ValidationSet:
    """Held-out episodes, cut to the same length and kept in memory.

    Observations (B, T, ...), actions (B, T - 1, A) in [-1, 1]; states (B, T, S) and achieved goals
    (B, T, G) if recorded.
    """

    observations: Tensor
    actions: Tensor
    states: NDArray[np.float64] | None
    achieved: NDArray[np.float64] | None


@dataclass(frozen=True)
class TrainingData:
    """A dataset and the world that it came from, None if it came from no simulator.

    The encoder reads `observes`; the planner looks `horizon` model steps ahead.
    """

    dataset: Dataset
    split: Split
    world: World | None
    seed: int
    device: torch.device
    observes: Observes = "pixels"
    horizon: int = 5

    @functools.cached_property
    def validation(self) -> ValidationSet:
        """The first held-out episodes."""
        episodes = self.split.validation[:VALIDATION_EPISODES]
        first, length = np.zeros_like(episodes), int(self.dataset.lengths[episodes].min())

        def column(name: str) -> NDArray[Any]:
            return self.dataset.gather(name, episodes, first, length)

        recorded = self.dataset.columns
        return ValidationSet(
            self.observe(episodes, first, length),
            self.unit_actions(column("action")[:, :-1]),
            column("state") if "state" in recorded else None,
            column("achieved") if "achieved" in recorded else None,
        )

    @functools.cached_property
    def start_goal_pairs(self) -> tuple[Episode, ...]:
        """Starts and goals that the task draws; evaluation draws others."""
        assert self.world is not None
        streams = (self.random(Draw.GOALS, index) for index in range(START_GOAL_PAIRS))
        return tuple(self.world.sample_episode(one) for one in streams)

    @functools.cached_property
    def goal_observations(self) -> Tensor:
        """What the encoder reads at the goals of these pairs, (256, ...)."""
        assert self.world is not None
        states = np.stack([episode.goal for episode in self.start_goal_pairs])
        variants = self.world.variants(episode.draw for episode in self.start_goal_pairs)
        seen = self.world.observe_goals(states, self.observes, variants)
        return torch.from_numpy(seen).to(self.device)

    @functools.cached_property
    def ranking_benchmark(self) -> RankingBenchmark:
        """Action sequences tried in the simulator, from some of these starts."""
        assert self.world is not None
        pairs = self.start_goal_pairs[:RANKED_PAIRS]
        return make_ranking_benchmark(self.world, self.observes, pairs, self.horizon)

    @property
    def left_out(self) -> list[str]:
        """Names of the diagnostics that need a simulator or states that are missing."""
        names = [] if self.world else ["cost selection", "candidate ranking"]
        if not self.world or self.validation.states is None:
            names.append("distance correlation")
        return names if self.validation.achieved is not None else [*names, "probe"]

    def random(self, draw: Draw, update: int) -> np.random.Generator:
        """Return the random stream of one update."""
        return stream(self.seed, Stream.TRAINING, draw, update)

    def observe(
        self, episodes: NDArray[np.int64], offsets: NDArray[np.int64], length: int
    ) -> Tensor:
        """Return what the encoder reads in windows of episodes, (B, T, ...)."""
        if self.observes == "pixels":
            seen = self.dataset.gather("pixels", episodes, offsets, length)
        else:
            assert self.world is not None
            states = self.dataset.gather("state", episodes, offsets, length)
            seen = self.world.proprioception(states).astype(np.float32)
        return torch.from_numpy(seen).to(self.device)

    def achieved(self, episodes: NDArray[np.int64]) -> Tensor | None:
        """Return the achieved goals of whole episodes, (frames, G), if recorded."""
        if "achieved" not in self.dataset.columns:
            return None
        goals = [self.dataset.episode("achieved", int(episode)) for episode in episodes]
        return torch.from_numpy(np.concatenate(goals).astype(np.float32)).to(self.device)

    def observe_episode(self, episode: int) -> Tensor:
        """Return what the encoder reads in a whole episode, (frames, ...)."""
        first, length = np.zeros(1, np.int64), int(self.dataset.lengths[episode])
        return self.observe(np.array([episode]), first, length)[0]

    def unit_actions(self, actions: NDArray[np.float32]) -> Tensor:
        """Return actions in units of the bounds, [-1, 1]."""
        if self.world:
            unit = self.world.to_unit(actions)
        else:
            spec = self.dataset.spec
            low, high = np.array(spec.action_low), np.array(spec.action_high)
            unit = (2 * (actions - low) / (high - low) - 1).astype(np.float32)
        return torch.from_numpy(unit).to(self.device)


def load_training_data(
    folder: Path | str,
    validation_share: float,
    seed: int,
    device: torch.device,
    observes: Observes = "pixels",
    horizon: int = 5,
    task: Task | None = None,
) -> TrainingData:
    """Open a dataset, verify it, and hold out some of its episodes.

    A dataset without a task gets the simulator of `task`, if given.
    """
    dataset, world = Dataset(folder), None
    spec = dataset.spec
    task = find_task(spec.task) if spec.task else task
    if task:
        variation = read_variation(spec.variation)
        world = World(task, spec.image_size, threads=2, variation=variation)
        if not spec.task:
            _check_fit(spec, world)
    if observes != "pixels" and not (world and "state" in dataset.columns):
        raise UserError(
            f"--jepa.encoder.kind mlp reads states, and {folder} has none; leave it out"
        )
    split = split_dataset(dataset, validation_share, seed)
    return TrainingData(dataset, split, world, seed, device, observes, horizon)


def _check_fit(spec: DatasetSpec, world: World) -> None:
    for name, there, here in (
        ("frame_skip", spec.frame_skip, world.task.frame_skip),
        ("action_low", spec.action_low, world.action_low.tolist()),
        ("action_high", spec.action_high, world.action_high.tolist()),
    ):
        if there != here:
            raise UserError(
                f"the dataset has {name} {there}, and {world.task.name} {here}; name another task, "
                "or train from data:FOLDER without a simulator"
            )


@torch.no_grad()
def encode_episodes(data: TrainingData, jepa: JEPA, episodes: NDArray[np.int64]) -> Tensor:
    """Encode whole episodes, one after the other -> (frames, D)."""
    group, found = max(1, ENCODE_FRAMES // int(data.dataset.lengths.max())), []
    for part in np.array_split(episodes, -(-len(episodes) // group)):
        seen = torch.cat([data.observe_episode(int(episode)) for episode in part])
        found.append(full_precision(jepa.encode)(seen))
        if not bool(found[-1].isfinite().all()):
            raise UserError(
                "training stopped: embedding of the world model is not finite; "
                "try a lower learning rate"
            )
    return torch.cat(found)


@dataclass(frozen=True)
class LatentDataset:
    """The training episodes, encoded once for all stages, at first use.

    Frames are numbered through all episodes.
    """

    data: TrainingData
    jepa: JEPA

    @functools.cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each episode, (E,)."""
        return self.data.dataset.lengths[self.data.split.train]

    @functools.cached_property
    def first(self) -> NDArray[np.int64]:
        """Number of the first frame of each episode, (E,)."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]])

    @functools.cached_property
    def embeddings(self) -> Tensor:
        """Of all frames, (frames, D)."""
        return encode_episodes(self.data, self.jepa, self.data.split.train)

    @functools.cached_property
    def actions(self) -> Tensor:
        """Taken at each frame, (frames, A), in [-1, 1]."""
        episodes = self.data.split.train
        actions = [self.data.dataset.episode("action", int(episode)) for episode in episodes]
        return self.data.unit_actions(np.concatenate(actions))

    def draw(
        self, random: np.random.Generator, shape: tuple[int, ...], past: int = 0, future: int = 0
    ) -> NDArray[np.int64]:
        """Draw frames with `past` frames before and `future` after them in their episode."""
        fitting = np.flatnonzero(self.lengths > past + future)
        if not len(fitting):
            raise UserError(
                f"no episode of {self.data.dataset.folder} has {past + future + 1} frames; "
                "collect with more --steps"
            )
        episodes = fitting[random.integers(len(fitting), size=shape)]
        room = self.lengths[episodes] - past - future
        return self.first[episodes] + past + (random.random(shape) * room).astype(np.int64)

    def memory(self, frames: NDArray[np.int64]) -> Memory:
        """Return the memory at frames (B,) that have K - 1 before them."""
        past = frames[:, None] + np.arange(1 - self.jepa.history, 1)
        return Memory(self.embeddings[past], self.actions[past[:, :-1]])
