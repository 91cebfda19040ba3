"""Look into an agent: ask it what if on a page, film it, or draw what it thinks."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mujepa.agent.checkpoint import ActorMode, Checkpoint, load_checkpoint
from mujepa.agent.device import DeviceName
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.report import write_png
from mujepa.evaluation.trace import trace_episode
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.visual.decoder import Decoder, DecoderConfig, load_decoder
from mujepa.visual.pictures import (
    draw_map,
    draw_plan,
    draw_surprise,
    measure_surprise,
    typical_error,
)
from mujepa.visual.rerun_file import check_rerun, write_rerun
from mujepa.visual.video import draw_frames, record_episode, video_suffix, write_video
from mujepa.visual.viewer import check_display, show_live

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mujepa.agent.mpc import Agent
    from mujepa.envs.world import Episode

ENVIRONMENT_FPS = 25
PICTURES = ("plan", "map", "surprise")


@dataclass(frozen=True)
class VisualizeConfig:
    """Look into a trained agent.

    Without `--out` a page opens that answers "what happens if I do this?": what the world and the
    model say, side by side, of actions that you drag (docs/what-if.md). With it:

    `--show episode` films an episode: its goal image, what happens, what the agent imagined.
    `--show plan` draws one decision as a filmstrip, `--show map` the embeddings of the task's world
    with an episode among them, `--show surprise` where in an episode the world model was wrong.

    The imagined images are made by a decoder, for people only, that is trained for about a minute
    the first time and kept in the checkpoint's folder.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of a checkpoint or of a training run."""
    out: Path | None = None
    """The video of an episode, .mp4 or .gif; the other pictures are .png. Without it a page opens.
    """
    show: Literal["episode", "plan", "map", "surprise"] = "episode"
    """What to show."""
    rerun: Path | None = None
    """Also, or only, write the episode as a Rerun recording, .rrd; needs the extra `view`."""
    viewer: bool = False
    """Watch the episode in MuJoCo's own viewer instead; needs a display."""
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
    """What differs from episode to episode, as `mujepa evaluate` takes it; `--show surprise` has
    the episode without it beside it."""
    step: int = 0
    """Of `--show plan`: the environment step whose plan is shown."""
    every: int = 1
    """Of `--show episode`: keep every so many environment steps; a .gif is small with 2."""
    cost: str | None = None
    """Another cost than the checkpoint's, for example `goal`."""
    actor: ActorMode | None = None
    """Who acts, if not as the checkpoint says, as `mujepa evaluate` takes it."""
    decoder_updates: int = DecoderConfig.updates
    """Updates of the decoder, if it is not there yet; 0 films an episode without it."""
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
        if self.step < 0 or self.decoder_updates < 0:
            raise UserError(
                f"--step {self.step} and --decoder-updates {self.decoder_updates} must not be "
                "negative"
            )
        if self.show == "plan" and self.decoder_updates == 0:
            raise UserError("--show plan needs a decoder, --decoder-updates 0 leaves it out")
        if self.show != "episode" and self.out is None:
            raise UserError(
                f"--show {self.show} draws a picture; name it, as in --out {self.show}.png"
            )
        read_variation(self.vary)
        if self.rerun is not None and self.rerun.suffix.lower() != ".rrd":
            raise UserError(f"--rerun {self.rerun}: a Rerun recording's name ends in .rrd")
        if (self.viewer or self.rerun) and self.show != "episode":
            raise UserError(f"--viewer and --rerun show an episode, not --show {self.show}")
        if not self.has_page:
            return
        if self.vary:
            raise UserError("the page shows the task's own world; give --vary with --out VIDEO")
        if self.decoder_updates == 0:
            raise UserError("the page needs a decoder, --decoder-updates 0 leaves it out")

    @property
    def has_page(self) -> bool:
        """Whether the page is asked for: nothing else is."""
        return self.out is None and self.rerun is None and not self.viewer

    def check_ending(self, out: Path) -> None:
        """Refuse a name whose ending does not fit what is shown.

        Raises:
            UserError: it does not.
        """
        if self.show == "episode" and out.suffix.lower() == ".png":
            raise UserError(
                f"{out} is no video: name it .mp4 or .gif, or choose a picture with --show "
                + ", ".join(PICTURES)
            )
        if self.show == "episode":
            video_suffix(out)
        elif out.suffix.lower() != ".png":
            raise UserError(
                f"--show {self.show} is a picture, {out} is not; "
                f"choose a name with --out {self.show}.png"
            )


def visualize(config: VisualizeConfig) -> None:
    """Open the page, or write a video or picture; see `mujepa visualize --help`.

    Raises:
        UserError: bad input, no OpenGL library, a port that is taken, or a file that cannot be
            written.
    """
    if config.has_page:
        open_page(config)
        return
    if config.out is not None:
        config.check_ending(config.out)
    if config.viewer:
        check_display()
    if config.rerun is not None:
        check_rerun()
    checkpoint = load_checkpoint(config.checkpoint, config.device)
    world = World(
        find_task(checkpoint.task_name), checkpoint.config.image_size,
        variation=read_variation(config.vary),
    )  # fmt: skip
    if config.step >= world.task.budget_steps:
        raise UserError(
            f"--step {config.step}: an episode has steps 0 to {world.task.budget_steps - 1}"
        )
    number = config.episode or 0
    manifest = make_manifest(world, number + 1, config.seed)
    agent = checkpoint.agent(cost=config.cost, actor=config.actor)
    episode, seed = manifest.episodes[number], manifest.seeds[number]
    if config.viewer:
        distance = show_live(agent, world, episode, seed)
        console.print(f"final distance {world.task.text(distance)}")
    if config.show == "episode":
        if config.out is not None or config.rerun is not None:
            _film(config, checkpoint, agent, world, episode, seed)
        return
    assert config.out is not None
    if config.show == "plan":
        decoder = _decoder(config, checkpoint, world)
        assert decoder is not None
        figure = draw_plan(agent, decoder, world, episode, seed, config.step)
    elif config.show == "map":
        figure = draw_map(agent, world, episode, seed)
    else:
        figure = _surprise(config, agent, world, episode, seed)
    write_png(config.out, figure)
    console.print(str(config.out))


def _film(
    config: VisualizeConfig,
    checkpoint: Checkpoint,
    agent: Agent,
    world: World,
    episode: Episode,
    seed: int,
) -> None:
    decoder, probe = _decoder(config, checkpoint, world), checkpoint.networks.probe
    recording = record_episode(agent, probe, world, episode, seed, decoder, fan=True)
    if config.out is not None:
        frames = draw_frames(recording, world.task, config.every)
        write_video(config.out, frames, ENVIRONMENT_FPS / config.every)
    if config.rerun is not None:
        write_rerun(config.rerun, recording, world.task, world.step_seconds)
    written = "  ".join(str(path) for path in (config.out, config.rerun) if path is not None)
    console.print(f"{written}: final distance {world.task.text(recording.distance[-1])}")


def open_page(config: VisualizeConfig) -> None:
    """Serve the what-if page until interrupted.

    Raises:
        UserError: bad input, no OpenGL library, or a port that is taken.
    """
    checkpoint = load_checkpoint(config.checkpoint, config.device)
    world = World(find_task(checkpoint.task_name), checkpoint.config.image_size)
    from mujepa.visual.whatif.server import listen, serve  # here: only the page needs them
    from mujepa.visual.whatif.session import FILE, Session, Store

    session = Session(checkpoint, world, mode=config.actor, cost=config.cost, seed=config.seed)
    store = Store(config.checkpoint / FILE, session)
    if config.episode is not None:
        store.latest = session.episode(config.episode)
    elif config.cost is not None:
        store.latest = session.set_cost(store.latest, config.cost)
    with listen(config.host, config.port) as listener:
        decoder = _decoder(config, checkpoint, world)
        assert decoder is not None
        serve(session, decoder, store, listener)


def _surprise(
    config: VisualizeConfig, agent: Agent, world: World, episode: Episode, seed: int
) -> Figure:
    plain = World(world.task, world.image_size)
    typical = typical_error(agent, plain, config.seed)
    episodes = {"as the task is" if config.vary else "the episode": replace(episode, draw=None)}
    if config.vary:
        episodes[" ".join(config.vary)] = episode
    return draw_surprise(
        {
            name: measure_surprise(trace_episode(agent, world, one, seed), typical)
            for name, one in episodes.items()
        }
    )


def _decoder(config: VisualizeConfig, checkpoint: Checkpoint, world: World) -> Decoder | None:
    if config.decoder_updates == 0:
        return None
    settings = DecoderConfig(updates=config.decoder_updates)
    with console.progress_bar(settings.updates, "decoder") as bar:
        return load_decoder(checkpoint, world, bar.update, settings)


if __name__ == "__main__":
    sys.exit(run(visualize, VisualizeConfig))
