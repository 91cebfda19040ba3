"""`mujepa visualize`: the what-if page, videos and pictures of an agent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from matplotlib.figure import Figure

from mujepa.agent.checkpoint import ActorMode, Checkpoint, load_checkpoint
from mujepa.agent.device import DeviceName
from mujepa.agent.mpc import Agent
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import Episode, World
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.report import write_png
from mujepa.evaluation.trace import trace_episode
from mujepa.runtime import console
from mujepa.runtime.errors import UserError
from mujepa.runtime.settings import Count, Index, Seed, settings
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

ENVIRONMENT_FPS = 25
RERUN = ".rrd"


@settings
class VisualizeConfig:
    """Visualize a trained agent.

    Without `--out` a page opens that answers "what happens if I do this?": it shows what the world
    does and what the model predicts for actions that you drag (docs/what-if.md). With `--out`:

    `--show episode` records an episode: goal image, simulator and predictions. `--show plan` draws
    one decision as a filmstrip, `--show map` a 2-D map of embeddings with the path of an episode,
    `--show surprise` where in an episode the world model was wrong.

    A decoder draws the predicted images, for people only. It is trained for about a minute the
    first time and kept in the checkpoint's folder.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of a checkpoint or of a training run."""
    out: Path | None = None
    """File to write: a video (.mp4, .gif) or a Rerun recording (.rrd, needs the extra `view`) of an
    episode, or a picture (.png). Without it the page opens."""
    show: Literal["episode", "plan", "map", "surprise", "viewer"] = "episode"
    """What to show; `viewer` runs the episode in MuJoCo's own viewer and needs a display."""
    port: str = "8421"
    """Port of the page, 0 for a free one; HOST:PORT makes it reachable from other machines."""
    episode: Index | None = None
    """Index among the episodes of `mujepa evaluate` with the same seed; by default the first, and
    on the page the latest state."""
    seed: Seed = 0
    """Seed of the episodes."""
    vary: tuple[str, ...] = ()
    """Factors that vary from episode to episode, as in `mujepa evaluate`; `--show surprise` draws
    the episode with and without them."""
    step: Index = 0
    """With `--show plan`: environment step of the decision."""
    every: Count = 1
    """With `--show episode`: keep every N-th environment step; 2 makes a .gif small."""
    cost: str | None = None
    """Another cost than the checkpoint's, for example `goal`."""
    actor: ActorMode | None = None
    """Who acts, if not as the checkpoint says, as in `mujepa evaluate`."""
    decoder_updates: Index = DecoderConfig.updates
    """Updates of the decoder, if it is not trained yet; 0 for a video without predicted images."""
    device: DeviceName = "auto"
    """Device of the networks."""

    def __post_init__(self) -> None:
        _ = self.address
        read_variation(self.vary)
        if self.show == "plan" and self.decoder_updates == 0:
            raise UserError("--show plan needs a decoder, --decoder-updates 0 leaves it out")
        if self.has_page and self.vary:
            raise UserError("the page shows the task's own world; give --vary with --out VIDEO")
        if self.has_page and self.decoder_updates == 0:
            raise UserError("the page needs a decoder, --decoder-updates 0 leaves it out")
        if self.show in ("plan", "map", "surprise"):
            if self.out is None:
                raise UserError(f"--show {self.show} draws a picture; add --out {self.show}.png")
            if self.out.suffix.lower() != ".png":
                raise UserError(
                    f"--show {self.show} is a picture, {self.out} is not; "
                    f"choose a name with --out {self.show}.png"
                )
        elif self.out is not None and self.out.suffix.lower() == ".png":
            raise UserError(
                f"{self.out} is no video: name it .mp4 or .gif, or choose a picture with --show "
                "plan, map, surprise"
            )

    @property
    def has_page(self) -> bool:
        """Whether the page is shown."""
        return self.out is None and self.show == "episode"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the page."""
        host, _, port = self.port.rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            raise UserError(f"--port {self.port} is neither a port, 0 to 65535, nor HOST:PORT")
        return host.strip("[]") or "127.0.0.1", int(port)


def visualize(config: VisualizeConfig) -> None:
    """Open the page, or write a video or picture; see `mujepa visualize --help`."""
    if config.has_page:
        open_page(config)
        return
    if config.show == "viewer":
        check_display()
    elif config.show == "episode" and config.out is not None:
        check_rerun() if config.out.suffix == RERUN else video_suffix(config.out)
    checkpoint = load_checkpoint(config.checkpoint, config.device)
    world = World(
        find_task(checkpoint.task_name), checkpoint.config.image_size,
        variation=read_variation(config.vary),
    )  # fmt: skip
    if config.step >= world.task.budget_steps:
        raise UserError(
            f"--step {config.step}: an episode has steps 0 to {world.task.budget_steps - 1}"
        )
    manifest = make_manifest(world, (config.episode or 0) + 1, config.seed)
    agent = checkpoint.agent(cost=config.cost, actor=config.actor)
    episode, seed = manifest.episodes[-1], manifest.seeds[-1]
    if config.show == "viewer":
        distance = show_live(agent, world, episode, seed)
        console.print(f"final distance {world.task.text(distance)}")
        return
    assert config.out is not None
    decoder = None
    if config.show in ("episode", "plan") and config.decoder_updates:
        decoder = _decoder(config, checkpoint, world)
    if config.show != "episode":
        write_png(config.out, _draw(config, decoder, agent, world, episode, seed))
        console.print(str(config.out))
        return
    probe = checkpoint.networks.probe
    recording = record_episode(agent, probe, world, episode, seed, decoder, fan=True)
    if config.out.suffix == RERUN:
        write_rerun(config.out, recording, world.task, world.step_seconds)
    else:
        frames = draw_frames(recording, world.task, config.every)
        write_video(config.out, frames, ENVIRONMENT_FPS / config.every)
    distance = world.task.text(recording.distance[-1])
    console.print(f"{config.out}: final distance {distance}")


def _draw(
    config: VisualizeConfig,
    decoder: Decoder | None,
    agent: Agent,
    world: World,
    episode: Episode,
    seed: int,
) -> Figure:
    if config.show == "plan":
        assert decoder
        return draw_plan(agent, decoder, world, episode, seed, config.step)
    if config.show == "map":
        return draw_map(agent, world, episode, seed)
    typical = typical_error(agent, World(world.task, world.image_size), config.seed)
    episodes = {"as the task is" if config.vary else "the episode": replace(episode, draw=None)}
    if config.vary:
        episodes[" ".join(config.vary)] = episode
    traces = {name: trace_episode(agent, world, one, seed) for name, one in episodes.items()}
    return draw_surprise({name: measure_surprise(it, typical) for name, it in traces.items()})


def open_page(config: VisualizeConfig) -> None:
    """Serve the what-if page until interrupted."""
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
    with listen(*config.address) as listener:
        serve(session, _decoder(config, checkpoint, world), store, listener)


def _decoder(config: VisualizeConfig, checkpoint: Checkpoint, world: World) -> Decoder:
    decoder = DecoderConfig(updates=config.decoder_updates)
    with console.progress_bar(decoder.updates, "decoder") as bar:
        return load_decoder(checkpoint, world, bar.update, decoder)
