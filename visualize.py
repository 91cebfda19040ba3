"""Watch an agent: goal, reality and imagination, as a video; or ask it what if, on a page."""

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
from mujepa.evaluation.decoder import DecoderConfig, load_decoder
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.video import draw_frames, record_episode, video_suffix, write_video
from mujepa.screen import progress_bar, say

ENVIRONMENT_FPS = 25


@dataclass(frozen=True)
class VisualizeConfig:
    """Open a page on which to ask a trained agent what if, or record an episode of it with --out.

    The page shows beside one another what the world and the model say of actions that you drag. The
    recording shows the goal image beside what happens; its white path is where the agent imagines
    its present plan to lead, read from imagined embeddings by a linear probe.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of a checkpoint or of a training run."""
    out: Path | None = None
    """The video, .mp4 or .gif. Without it a web page opens: docs/what-if.md."""
    host: str = "127.0.0.1"
    """Where the page listens; by default this machine alone can reach it."""
    port: int = 8421
    """Port of the page; 0 takes one that is free."""
    episode: int | None = None
    """Which of the episodes that `mujepa evaluate` would use with the same seed; by default the
    first, and on the page what was left there."""
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
        if (self.episode or 0) < 0 or self.seed < 0 or self.every < 1:
            raise UserError(
                f"--episode {self.episode} and --seed {self.seed} must not be negative, "
                f"--every {self.every} at least 1"
            )
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port {self.port} must be from 0 to 65535")
        if self.out is None and self.vary:
            raise UserError("the page shows the task's own world; give --vary with --out VIDEO")
        read_variation(self.vary)


def visualize(config: VisualizeConfig) -> None:
    """Open the page or write the video of a configuration; see `mujepa visualize --help`.

    Raises:
        UserError: bad input, no OpenGL library, a port that is taken, or the video cannot be
            written.
    """
    if config.out is None:
        return open_page(config)
    video_suffix(config.out)
    checkpoint = load_checkpoint(config.checkpoint, config.device)
    world = World(
        find_task(checkpoint.config.task), checkpoint.config.image_size,
        variation=read_variation(config.vary),
    )  # fmt: skip
    number = config.episode or 0
    manifest = make_manifest(world, number + 1, config.seed)
    agent = checkpoint.agent(cost=config.cost, mode=config.actor)
    episode, seed = manifest.episodes[number], manifest.seeds[number]
    recording = record_episode(agent, checkpoint.networks.probe, world, episode, seed)
    frames = draw_frames(recording, world.task, config.every)
    write_video(config.out, frames, ENVIRONMENT_FPS / config.every)
    say(f"{config.out}: final distance {world.task.text(recording.distance[-1])}")


def open_page(config: VisualizeConfig) -> None:
    """Serve the what-if page until interrupted.

    Raises:
        UserError: bad input, no OpenGL library, or a port that is taken.
    """
    checkpoint = load_checkpoint(config.checkpoint, config.device)
    world = World(find_task(checkpoint.config.task), checkpoint.config.image_size)
    from mujepa.whatif.server import FILE, Store, listen, serve  # here: only the page needs it
    from mujepa.whatif.session import Session

    session = Session(checkpoint, world, mode=config.actor, cost=config.cost, seed=config.seed)
    store = Store(config.checkpoint / FILE, session)
    if config.episode is not None:
        store.latest = session.episode(config.episode)
    elif config.cost is not None:
        store.latest = session.weigh(store.latest, config.cost)
    with (
        listen(config.host, config.port) as listener,
        progress_bar(DecoderConfig().updates, "decoder for pictures") as bar,
    ):
        decoder = load_decoder(checkpoint, world, bar.update)
        bar.close()
        serve(session, decoder, store, listener)


if __name__ == "__main__":
    sys.exit(run(visualize, VisualizeConfig))
