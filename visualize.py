"""Watch an agent: goal, reality and imagination, as a video."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mujepa.agent.checkpoint import Mode, load_checkpoint
from mujepa.agent.device import DeviceName
from mujepa.cli import run
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.errors import UserError
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.video import draw_frames, record_episode, video_suffix, write_video
from mujepa.screen import say

ENVIRONMENT_FPS = 25


@dataclass(frozen=True)
class VisualizeConfig:
    """Record an episode of a trained agent: its goal image beside what happens.

    The white path is where the agent imagines its present plan to lead, read from imagined
    embeddings by a linear probe.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of a checkpoint or of a training run."""
    out: Path = Path("episode.mp4")
    """The video, .mp4 or .gif."""
    episode: int = 0
    """Which of the episodes that `mujepa evaluate` would use with the same seed."""
    seed: int = 0
    """Seed of the episodes."""
    vary: tuple[str, ...] = ()
    """What differs from episode to episode, as `mujepa evaluate` takes it."""
    every: int = 1
    """Keep every so many environment steps; a .gif is small with 2."""
    cost: str | None = None
    """Another cost than the checkpoint's, for example `goal`."""
    actor: Mode | None = None
    """Who acts, if not as the checkpoint says, as `mujepa evaluate` takes it."""
    device: DeviceName = "auto"
    """Where to compute."""

    def __post_init__(self) -> None:
        if self.episode < 0 or self.seed < 0 or self.every < 1:
            raise UserError(
                f"--episode {self.episode} and --seed {self.seed} must not be negative, "
                f"--every {self.every} at least 1"
            )
        read_variation(self.vary)


def visualize(config: VisualizeConfig) -> None:
    """Write the video that a configuration describes; see `mujepa visualize --help`.

    Raises:
        UserError: bad input, no OpenGL library, or the video cannot be written.
    """
    video_suffix(config.out)
    checkpoint = load_checkpoint(config.checkpoint, config.device)
    world = World(
        find_task(checkpoint.config.task), checkpoint.config.image_size,
        variation=read_variation(config.vary),
    )  # fmt: skip
    manifest = make_manifest(world, config.episode + 1, config.seed)
    agent = checkpoint.agent(cost=config.cost, mode=config.actor)
    episode, seed = manifest.episodes[config.episode], manifest.seeds[config.episode]
    recording = record_episode(agent, checkpoint.networks.probe, world, episode, seed)
    frames = draw_frames(recording, world.task, config.every)
    write_video(config.out, frames, ENVIRONMENT_FPS / config.every)
    say(f"{config.out}: final distance {world.task.text(recording.distance[-1])}")


if __name__ == "__main__":
    sys.exit(run(visualize, VisualizeConfig))
