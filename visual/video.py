"""Episodes as moving pictures: the goal, what happened, and what the agent imagined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image, ImageDraw

from mujepa.evaluation.trace import memory_of, trace_episode
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import replacing_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mujepa.agent.mpc import Agent, AgentState
    from mujepa.agent.probe import LinearProbe
    from mujepa.envs.task import Task
    from mujepa.envs.world import Episode, World
    from mujepa.evaluation.trace import EpisodeTrace
    from mujepa.visual.decoder import Decoder

PANEL, GAP, CURVE = 256, 8, 56
"""Width and height of one panel, the gap between two, the height of the curve below [pixels]."""
DONE, UNDONE = (90, 220, 120), (240, 200, 90)
"""Colours of the frame around the real panel: goal reached, goal not reached."""
WHITE, DARK, FAN = (255, 255, 255), (24, 27, 34), (120, 200, 255)
FAN_SIZE = 32
"""Candidates that are drawn: the cheapest ones of the search's last round."""


@dataclass(frozen=True)
class Recording:
    """One episode of the agent, in T environment steps.

    Attributes:
        goal: the goal image, (P, P, 3).
        images: what the camera saw, (T + 1, P, P, 3).
        distance: to the goal, (T + 1,).
        imagined: at each step, the path of the plan in force from where the agent is, (T, H + 1, 2)
            [shares of the image], or None where the task's goal is not a position.
        cost: of the plan in force at each step, (T,).
        fan: at each step, the paths of candidates of the latest search, the cheapest first,
            (N, H + 1, 2); empty where nothing was searched or asked for.
        decoded: at each step, what the agent imagined some model steps ago for now, (T, P, P, 3),
            or None where nobody can decode it.
        ago: how many model steps that was, (T,).
    """

    goal: NDArray[np.uint8]
    images: NDArray[np.uint8]
    distance: NDArray[np.float64]
    imagined: NDArray[np.float64] | None
    cost: NDArray[np.float64]
    fan: list[NDArray[np.float64]]
    decoded: NDArray[np.uint8] | None
    ago: NDArray[np.int64]


@torch.no_grad()
def record_episode(
    agent: Agent,
    probe: LinearProbe,
    world: World,
    episode: Episode,
    seed: int,
    decoder: Decoder | None = None,
    *,
    fan: bool = False,
) -> Recording:
    """Run the agent through one episode and keep what it saw and what it imagined.

    Paths are read from the imagined embeddings by the linear probe. What it imagined for now sets
    out from what it saw and remembered up to a horizon ago, under the actions that it has taken
    since.

    Args:
        agent: who acts.
        probe: reads positions from embeddings.
        world: where.
        episode: start and goal.
        seed: of the planner.
        decoder: reads images from embeddings.
        fan: keep the paths of the candidates as well.
    """
    walked = trace_episode(agent, world, episode, seed)
    is_position = world.goal_size >= 3

    def places(embeddings: torch.Tensor) -> NDArray[np.float64]:
        points = probe(embeddings)[..., :3].cpu().double().numpy()
        return world.project(points, walked.variant)

    paths, costs, fans = [], [], [np.empty((0, 0, 2))]
    for mind in walked.decisions:
        imagined, cost = agent.predict(mind)
        costs.append(float(cost[0]))
        now = memory_of(mind).embeddings[:, -1:]
        if is_position:
            paths.append(places(torch.cat([now, imagined], dim=1)[0]))
        if is_position and fan and mind.plan is not None:
            searched = (mind.step - 1) // agent.frame_skip == mind.planned_at
            fans.append(places(_candidates(agent, mind)) if searched else fans[-1])
    decoded = None
    ago = np.minimum(np.arange(len(costs)), agent.planner.horizon)
    if decoder is not None:
        decoded = _held(decoder.decode(_imagined_for_now(walked, ago)), walked)
    return Recording(
        goal=walked.goal_image,
        images=walked.images(walked.states),
        distance=walked.distance(walked.states),
        imagined=_held(np.stack(paths), walked) if paths else None,
        cost=_held(np.array(costs), walked),
        fan=[fans[1:][i] for i in _looks(walked)] if len(fans) > 1 else [],
        decoded=decoded,
        ago=_held(ago, walked),
    )


def draw_frames(recording: Recording, task: Task, every: int = 1) -> list[NDArray[np.uint8]]:
    """Return frames: goal and reality, what was imagined if it was decoded; below, the cost.

    Over reality lie the path of the plan and, thin, those of the candidates.
    """
    frames = []
    for step in range(0, len(recording.images), every):
        now = min(step, len(recording.cost) - 1)
        panels = [_panel(recording.goal, "goal image"), _reality(recording, task, step)]
        if recording.decoded is not None:
            ago = int(recording.ago[now])
            text = f"imagined {ago} model step{'s' * (ago != 1)} ago" if ago else "seen, decoded"
            panels.append(_panel(recording.decoded[now], text))
        gap = np.full((PANEL, GAP, 3), 255, np.uint8)
        row = [part for panel in panels for part in (gap, np.asarray(panel))][1:]
        above = np.concatenate(row, axis=1)
        below = _curve(recording.cost, now, above.shape[1])
        frames.append(np.concatenate([above, below]))
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


def _candidates(agent: Agent, mind: AgentState) -> torch.Tensor:
    """Return what the cheapest candidates of a search lead to, from now on, (N, H + 1, D)."""
    assert mind.plan is not None
    trace, memory = mind.plan.trace, memory_of(mind)
    best = trace.costs[0].argsort(stable=True)[:FAN_SIZE]
    imagined = agent.configurator.rollout(memory, trace.candidates[:, best])[0]
    now = memory.embeddings[:, -1:].expand(len(imagined), -1, -1)
    return torch.cat([now, imagined], dim=1)


def _imagined_for_now(walked: EpisodeTrace, ago: NDArray[np.int64]) -> torch.Tensor:
    """Return, at each look, the embedding that was to be expected so many looks ago, (M, D)."""
    seen, actions = walked.embeddings, walked.actions
    expected = [seen[:1]]
    for now in range(1, len(ago)):
        then = now - int(ago[now])
        memory = memory_of(walked.decisions[then])
        expected.append(walked.agent.jepa.unroll(memory, actions[None, then:now])[:, -1])
    return torch.cat(expected)


def _looks(walked: EpisodeTrace) -> NDArray[np.int64]:
    """Return at which look each step stands, (T,)."""
    return np.arange(len(walked.agent_states)) // walked.agent.frame_skip


def _held(values: NDArray[Any], walked: EpisodeTrace) -> NDArray[Any]:
    """Return what is known at each look for each step."""
    return values[_looks(walked)]


def _panel(image: NDArray[np.uint8], text: str) -> Image.Image:
    panel = Image.fromarray(image).resize((PANEL, PANEL), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(panel, "RGBA")
    draw.rectangle((0, 0, PANEL, 21), fill=(*DARK, 150))
    draw.text((8, 6), text, fill=WHITE)
    return panel


def _reality(recording: Recording, task: Task, step: int) -> Image.Image:
    distance = recording.distance[step]
    text = "real" if recording.imagined is None else "real + imagined paths"
    panel = _panel(recording.images[step], f"{text}   {task.text(distance)}")
    draw = ImageDraw.Draw(panel, "RGBA")
    now = min(step, len(recording.cost) - 1)
    if recording.fan:
        paths = recording.fan[now] * PANEL
        for rank in reversed(range(len(paths))):  # the cheapest last, on top
            alpha = int(60 + 160 * (1 - rank / len(paths)) ** 2)
            draw.line([tuple(point) for point in paths[rank]], fill=(*FAN, alpha), width=1)
    if recording.imagined is not None:
        path = recording.imagined[now] * PANEL
        draw.line([tuple(point) for point in path], fill=WHITE, width=2)
        for share, (x, y) in zip(np.linspace(4, 2, len(path) - 1), path[1:], strict=True):
            draw.ellipse((x - share, y - share, x + share, y + share), outline=WHITE)
    colour = DONE if distance <= task.tolerance else UNDONE
    draw.rectangle((0, 0, PANEL - 1, PANEL - 1), outline=colour, width=3)
    return panel


def _curve(cost: NDArray[np.float64], now: int, width: int) -> NDArray[np.uint8]:
    """Return the cost over the steps, with a cursor at the present one."""
    strip = Image.new("RGB", (width, CURVE), DARK)
    draw = ImageDraw.Draw(strip)
    low, high = min(0.0, float(cost.min())), max(float(cost.max()), 1e-9)
    x = np.linspace(8, width - 9, len(cost))
    y = CURVE - 8 - (cost - low) / (high - low) * (CURVE - 26)
    draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=(140, 150, 170), width=1)
    draw.line(list(zip(x[: now + 1].tolist(), y[: now + 1].tolist(), strict=True)), fill=WHITE)
    draw.line((x[now], 18, x[now], CURVE - 4), fill=UNDONE)
    draw.text((8, 4), f"cost of the plan in force: {cost[now]:.2f}", fill=WHITE)
    return np.asarray(strip)
