"""Videos of episodes: the goal, the simulator, and what the agent imagined.

Letters: T environment steps, M decisions (one for each model step), H horizon, P image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from mujepa.agent.mpc import Agent, AgentState
from mujepa.agent.probe import LinearProbe
from mujepa.envs.task import Task
from mujepa.envs.world import Episode, World
from mujepa.evaluation.trace import EpisodeTrace, memory_of, trace_episode
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import replacing_file
from mujepa.visual.decoder import Decoder

PANEL, GAP, STRIP = 256, 8, 56
"""Size of a panel, gap between panels, and height of the cost strip [pixels]."""
REACHED, NOT_REACHED = (90, 220, 120), (240, 200, 90)
"""Colours of the simulator panel's frame, within the tolerance or outside."""
WHITE, DARK, FAN, GREY = (255, 255, 255), (24, 27, 34), (120, 200, 255), (140, 150, 170)
FAN_SIZE = 32
"""Number of candidates that are drawn: the cheapest ones of the search's last iteration."""


@dataclass(frozen=True)
class Recording:
    """One episode of the agent."""

    goal: NDArray[np.uint8]  # the goal image, (P, P, 3)
    images: NDArray[np.uint8]  # of the simulator, (T + 1, P, P, 3)
    distance: NDArray[np.float64]  # to the goal, (T + 1,)
    frame_skip: int  # environment steps for each decision
    cost: NDArray[np.float64]  # of the current plan, (M,)
    paths: list[NDArray[np.float64]]
    """Of the current plan, M arrays (up to H + 1, 2) [shares of the image]; none where the task's
    goal is not a position."""
    fans: list[NDArray[np.float64]]  # of the search, the cheapest first, M arrays (N, H + 1, 2)
    decoded: NDArray[np.uint8] | None  # imagined for this moment `ago` steps before, (M, P, P, 3)
    ago: NDArray[np.int64]  # how many model steps, (M,)

    def decision(self, step: int) -> int:
        """Return the index of the latest decision at an environment step."""
        return min(step // self.frame_skip, len(self.cost) - 1)


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
    """Run the agent through one episode and record what happens and what it imagines.

    The probe reads the positions of the paths. The decoded image of a moment is a rollout from the
    memory up to a horizon ago. `fan` adds the paths of candidates.
    """
    trace, costs, paths, fans = trace_episode(agent, world, episode, seed), [], [], []

    def project(embeddings: Tensor) -> NDArray[np.float64]:
        points = probe(embeddings)[..., :3].cpu().double().numpy()
        return world.project(points, trace.variant)

    for index, state in enumerate(trace.decisions):
        predicted, cost = agent.predict(state)
        costs.append(float(cost[0]))
        if world.goal_size < 3:
            continue
        paths.append(project(torch.cat([memory_of(state).embeddings[:, -1:], predicted], dim=1)[0]))
        if fan and state.plan is not None:
            searched = index == state.planned_at
            fans.append(project(_candidates(agent, state)) if searched else fans[-1])
    ago = np.minimum(np.arange(len(costs)), agent.planner.horizon)
    return Recording(
        goal=trace.goal_image,
        images=trace.images(trace.states),
        distance=trace.distance(trace.states),
        frame_skip=agent.frame_skip,
        cost=np.array(costs),
        paths=paths,
        fans=fans,
        decoded=None if decoder is None else decoder.decode(_imagined(trace, ago)),
        ago=ago,
    )


def draw_frames(recording: Recording, task: Task, every: int = 1) -> list[NDArray[np.uint8]]:
    """Return video frames of every `every`-th step: goal, simulator, imagined image, and cost."""
    frames = []
    for step in range(0, len(recording.images), every):
        now = recording.decision(step)
        panels = [_panel(recording.goal, "goal"), _simulator(recording, task, step)]
        if recording.decoded is not None:
            ago = int(recording.ago[now])
            text = f"imagined {ago} model step{'s' * (ago != 1)} ago" if ago else "decoded"
            panels.append(_panel(recording.decoded[now], text))
        gap = np.full((PANEL, GAP, 3), 255, np.uint8)
        row = [part for panel in panels for part in (gap, np.asarray(panel))][1:]
        above = np.concatenate(row, axis=1)
        frames.append(np.concatenate([above, _cost_strip(recording.cost, now, above.shape[1])]))
    return frames


def write_video(path: Path, frames: list[NDArray[np.uint8]], fps: float) -> None:
    """Write frames as .mp4 or .gif, by the ending of the name; see `video_suffix`."""
    suffix = video_suffix(path)
    options: dict[str, Any] = {"duration": 1000 / fps, "loop": 0}
    if suffix == ".mp4":
        options = {"plugin": "pyav", "codec": "libx264", "fps": fps}
    encoded = iio.imwrite("<bytes>", np.stack(frames), extension=suffix, **options)
    assert encoded is not None
    with replacing_file(path) as temporary:
        temporary.write_bytes(encoded)


def video_suffix(path: Path) -> str:
    """Return the ending of a video's name in lower case; `UserError` if it is not .mp4 or .gif."""
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise UserError(f"{path}: a video's name ends in .mp4 or .gif, not {suffix or 'nothing'!r}")
    return suffix


def _candidates(agent: Agent, state: AgentState) -> Tensor:
    """Return the rollouts of a search's cheapest candidates, (N, H + 1, D)."""
    assert state.plan is not None
    trace, memory = state.plan.trace, memory_of(state)
    best = trace.costs[0].argsort(stable=True)[:FAN_SIZE]
    imagined = agent.jepa.rollout(memory, trace.candidates[:, best])[0]
    now = memory.embeddings[:, -1:].expand(len(imagined), -1, -1)
    return torch.cat([now, imagined], dim=1)


def _imagined(trace: EpisodeTrace, ago: NDArray[np.int64]) -> Tensor:
    """Return the embedding at each decision that was imagined `ago` decisions before, (M, D)."""
    actions, imagined = trace.actions, [trace.embeddings[:1]]
    for now in range(1, len(ago)):
        then = now - int(ago[now])
        memory = memory_of(trace.decisions[then])
        imagined.append(trace.agent.jepa.unroll(memory, actions[None, then:now])[:, -1])
    return torch.cat(imagined)


def _panel(image: NDArray[np.uint8], text: str) -> Image.Image:
    panel = Image.fromarray(image).resize((PANEL, PANEL), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(panel, "RGBA")
    draw.rectangle((0, 0, PANEL, 21), fill=(*DARK, 150))
    draw.text((8, 6), text, fill=WHITE)
    return panel


def _simulator(recording: Recording, task: Task, step: int) -> Image.Image:
    distance, now = recording.distance[step], recording.decision(step)
    text = "simulator + imagined paths" if recording.paths else "simulator"
    panel = _panel(recording.images[step], f"{text}   {task.text(distance)}")
    draw = ImageDraw.Draw(panel, "RGBA")
    fan = recording.fans[now] * PANEL if recording.fans else []
    for rank in reversed(range(len(fan))):  # the cheapest last, on top
        alpha = int(60 + 160 * (1 - rank / len(fan)) ** 2)
        draw.line([tuple(point) for point in fan[rank]], fill=(*FAN, alpha), width=1)
    if recording.paths:
        path = recording.paths[now] * PANEL
        draw.line([tuple(point) for point in path], fill=WHITE, width=2)
        for radius, (x, y) in zip(np.linspace(4, 2, len(path) - 1), path[1:], strict=True):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=WHITE)
    colour = REACHED if distance <= task.tolerance else NOT_REACHED
    draw.rectangle((0, 0, PANEL - 1, PANEL - 1), outline=colour, width=3)
    return panel


def _cost_strip(cost: NDArray[np.float64], now: int, width: int) -> NDArray[np.uint8]:
    """Return a chart of the cost by decision, with a cursor at the current one."""
    strip = Image.new("RGB", (width, STRIP), DARK)
    draw = ImageDraw.Draw(strip)
    low, high = min(0.0, float(cost.min())), max(float(cost.max()), 1e-9)
    x = np.linspace(8, width - 9, len(cost))
    y = STRIP - 8 - (cost - low) / (high - low) * (STRIP - 26)
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    draw.line(points, fill=GREY, width=1)
    draw.line(points[: now + 1], fill=WHITE)
    draw.line((x[now], 18, x[now], STRIP - 4), fill=NOT_REACHED)
    draw.text((8, 4), f"cost of the current plan: {cost[now]:.2f}", fill=WHITE)
    return np.asarray(strip)
