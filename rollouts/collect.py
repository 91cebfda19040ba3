"""Collect experience: environment + behaviour policy -> rollout dataset."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mujepa.envs.registry import find_task, named_task
from mujepa.envs.variation import read_variation
from mujepa.rollouts.collection import collect as collect_shards
from mujepa.rollouts.collection import make_spec, shard_sizes
from mujepa.rollouts.remote import is_url
from mujepa.rollouts.store import Dataset
from mujepa.runtime import console
from mujepa.runtime.cluster import check_cluster, connect
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError


@dataclass(frozen=True)
class CollectConfig:
    """Collect episodes of random, time-correlated actions, seen through the task's camera.

    What is already in --out is kept: an interrupted collection goes on, a larger number of episodes
    appends.
    """

    task: Annotated[str, tyro.conf.Positional]
    """Name of the task: `reacher`, `dm_control:reacher-easy`, or a MuJoCo file of your own."""
    out: Path
    """Folder of the dataset."""
    episodes: int | None = None
    """Episodes in total; by default as many as the task asks for, 2000 as a rule."""
    steps: int | None = None
    """Model steps per episode; by default as the task says, twice its budget as a rule."""
    workers: int = 0
    """Processes; 0 for one per core."""
    seed: int = 0
    """Seed of starts and actions."""
    vary: tuple[str, ...] = ()
    """What differs from episode to episode, NAME=LOW:HIGH or NAME=VALUE, such as `mass=0.5:2
    light=0.3:1`; `mujepa envs TASK` lists the factors."""
    cluster: str | None = None
    """Collect on a cluster of Ray: `local`, `auto` or `ray://HOST:PORT` (docs/scale.md); --out has
    to be on a disk that its machines share. The data are the same."""
    goal_site: str | None = None
    """For a MuJoCo file: the site whose position is the goal; by default its only one."""
    camera: str | None = None
    """For a MuJoCo file: its camera to look through; by default its first, or one that sees all."""
    tolerance: float | None = None
    """For a MuJoCo file: how near the goal counts as reached [m]; by default 5 % of its size."""

    def __post_init__(self) -> None:
        if is_url(self.out):
            raise UserError(
                f"--out {self.out}: episodes are collected into a folder of this machine; collect "
                "there, then copy the folder with the tool of your cloud"
            )
        for name in ("episodes", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, got {value}")
        if self.workers < 0 or self.seed < 0:
            raise UserError(f"--workers {self.workers} and --seed {self.seed} must not be negative")
        check_cluster(self.cluster)
        read_variation(self.vary)


def collect(config: CollectConfig) -> None:
    """Run the collection that a configuration describes; see `mujepa collect --help`.

    Raises:
        UserError: bad input, no OpenGL library, a full disk, or another spec in the folder.
    """
    task = named_task(config.task, config.goal_site, config.camera, config.tolerance)
    spec = make_spec(task, config.seed, config.steps, vary=config.vary)
    per_episode = spec.steps + 1
    episodes = config.episodes or find_task(task).episodes
    total = sum(shard_sizes(episodes)) * per_episode
    with (
        connect(config.cluster, config.workers) as workers,
        console.progress_bar(total, "collect", unit="frame") as bar,
    ):
        collected = 0
        for frames in collect_shards(config.out, spec, episodes, workers):
            bar.update(frames)
            collected += frames
        bar.update(total - bar.n)
    dataset = Dataset(config.out, verify=False)
    console.print(
        f"{config.out}: {len(dataset)} episodes, {dataset.frames} frames ({collected} new)"
    )


if __name__ == "__main__":
    sys.exit(run(collect, CollectConfig))
