"""Episodes as moving pictures: the goal, what happened, and what the agent imagined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image, ImageDraw

from mujepa.errors import UserError
from mujepa.files import replacing_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mujepa.agent.mpc import Agent
    from mujepa.agent.probe import LinearProbe
    from mujepa.envs.task import Task
    from mujepa.envs.world import Episode, World

PANEL = 256
"""Width and height of one panel [pixels]."""
DONE, UNDONE = (90, 220, 120), (240, 200, 90)
"""Colours of the frame around the real panel: goal reached, goal not reached."""


@dataclass(frozen=True)
class Recording:
    """One episode of the agent.

    Attributes:
        goal: the goal image, (P, P, 3).
        images: what the camera saw, (T + 1, P, P, 3).
        distance: to the goal, (T + 1,).
        imagined: at each step, where the plan in force leads to, (T, H, 2) [shares of the image],
            or None where the task's goal is not a position.
        cost: of the plan in force at each step, (T,).
    """

    goal: NDArray[np.uint8]
    images: NDArray[np.uint8]
    distance: NDArray[np.float64]
    imagined: NDArray[np.float64] | None
    cost: NDArray[np.float64]


@torch.no_grad()
def record_episode(
    agent: Agent, probe: LinearProbe, world: World, episode: Episode, seed: int
) -> Recording:
    """Run the agent through one episode and keep what it saw and what it imagined.

    The path of the plan in force is read from the imagined embeddings by the linear probe.
    """
    wanted = world.achieved(episode.goal[None])[0]
    variant = world.variant(episode.draw)
    variants = [variant] if variant else None
    goal = world.render(episode.goal[None], variants)[0]
    state = agent.reset(world.observe(episode.goal[None], agent.observes, variants)[0], seed)
    simulation = episode.start[None]
    images, distance, paths, costs = [], [], [], []
    path, cost = np.empty(0), 0.0
    for step in range(world.task.budget_steps + 1):
        images.append(world.render(simulation, variants)[0])
        distance.append(world.task.distance(world.achieved(simulation)[0], wanted))
        if step == world.task.budget_steps:
            break
        state, action = agent.act(state, world.observe(simulation, agent.observes, variants)[0])
        if step % agent.frame_skip == 0:
            imagined, expected = agent.foresee(state)
            path, cost = probe(imagined[0]).cpu().double().numpy(), float(expected[0])
        paths.append(path)
        costs.append(cost)
        simulation = world.step(simulation, action[None], variants)
    ends = np.stack(paths)[..., :3]
    positions = world.project(ends, variant) if world.goal_size >= 3 else None
    return Recording(goal, np.stack(images), np.array(distance), positions, np.array(costs))


def draw_frames(recording: Recording, task: Task, every: int = 1) -> list[NDArray[np.uint8]]:
    """Return frames of two panels, goal and reality, with the imagined path drawn over reality."""
    frames = []
    for step in range(0, len(recording.images), every):
        real = _enlarge(recording.images[step])
        draw = ImageDraw.Draw(real)
        if recording.imagined is not None:
            path = recording.imagined[min(step, len(recording.imagined) - 1)] * PANEL
            draw.line([tuple(point) for point in path], fill=(255, 255, 255), width=1)
            for share, (x, y) in zip(np.linspace(4, 2, len(path)), path, strict=True):
                draw.ellipse((x - share, y - share, x + share, y + share), outline=(255, 255, 255))
        distance = recording.distance[step]
        colour = DONE if distance <= task.tolerance else UNDONE
        draw.rectangle((0, 0, PANEL - 1, PANEL - 1), outline=colour, width=3)
        draw.text((8, 6), f"real + imagined path   {task.text(distance)}", fill=(255, 255, 255))
        goal = _enlarge(recording.goal)
        ImageDraw.Draw(goal).text((8, 6), "goal image", fill=(255, 255, 255))
        gap = np.full((PANEL, 8, 3), 255, np.uint8)
        frames.append(np.concatenate([np.asarray(goal), gap, np.asarray(real)], axis=1))
    return frames


def write_video(path: Path, frames: list[NDArray[np.uint8]], fps: float) -> None:
    """Write frames as .mp4 or .gif, by the ending of the name.

    Raises:
        UserError: another ending, or the file cannot be written.
    """
    suffix = video_suffix(path)
    options: dict[str, Any] = {"duration": 1000 / fps, "loop": 0}
    if suffix == ".mp4":
        options = {"plugin": "pyav", "codec": "libx264", "fps": fps}
    encoded = iio.imwrite("<bytes>", np.stack(frames), extension=suffix, **options)
    assert encoded is not None
    with replacing_file(path) as temporary:
        temporary.write_bytes(encoded)


def video_suffix(path: Path) -> str:
    """Return the ending of a video's name, in lower case.

    Raises:
        UserError: it is neither .mp4 nor .gif.
    """
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise UserError(f"{path}: a video's name ends in .mp4 or .gif, not {suffix or 'nothing'!r}")
    return suffix


def _enlarge(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).resize((PANEL, PANEL), Image.Resampling.NEAREST)
