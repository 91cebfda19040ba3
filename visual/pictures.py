"""Pictures that explain an agent: a plan as a filmstrip, the map of its embeddings, its surprise.

Letters: M looks, N frames, H horizon, D embedding, S state, P image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from mujepa.evaluation.diagnostics import open_loop_error
from mujepa.evaluation.sampling import sample_episodes
from mujepa.evaluation.trace import memory_of, trace_episode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.mpc import Agent
    from mujepa.envs.world import Episode, World
    from mujepa.evaluation.trace import EpisodeTrace
    from mujepa.visual.decoder import Decoder

FRAMES = 3000
"""Fresh frames behind a map, and behind what is a typical surprise."""
COLUMNS = 8
"""Moments of a plan that a filmstrip shows at most."""
THUMBNAILS = 8
COLOURS = ("#3b6fe0", "#e0913b")


@torch.no_grad()
def draw_plan(
    agent: Agent, decoder: Decoder, world: World, episode: Episode, seed: int, step: int
) -> Figure:
    """Draw what the agent means to do at one decision as a filmstrip.

    Above what the simulator makes of the plan from the same state, below what the agent imagines,
    decoded, with the cost of each step; at the end the goal.

    Args:
        agent: who plans.
        decoder: reads images from embeddings.
        world: where.
        episode: start and goal.
        seed: of the planner.
        step: environment step; the decision in force then is shown.
    """
    decision = step // agent.frame_skip
    walked = trace_episode(agent, world, episode, seed, decision * agent.frame_skip + 1)
    mind = walked.agent_states[-1]
    intended, wanted = agent.planned_trajectory(mind), mind.goal
    costs = agent.configurator.cost.by_step(intended, wanted)[0, 0].tolist()
    total = float(agent.configurator.cost(intended, wanted)[0, 0])
    now = walked.states[-2][None]
    controls = world.from_unit(intended.actions[0].cpu().numpy())
    variants = [walked.variant] if walked.variant else None
    future, _ = world.rollout(now, controls, agent.frame_skip, variants)
    states = np.concatenate([now, future[0]])
    embeddings = torch.cat([memory_of(mind).embeddings[0, -1:], intended.embeddings[0, 0]])
    goal = mind.goal.embedding
    shown = np.unique(np.linspace(0, len(states) - 1, COLUMNS + 1).round().astype(int))

    real = [*walked.images(states[shown]), walked.goal_image]
    decoded = [*decoder.decode(embeddings[shown.tolist()]), decoder.decode(goal)[0]]
    away = walked.distance(states[shown])
    above = [
        f"{_when(i)}\n{world.task.text(d)} away" for i, d in zip(shown.tolist(), away, strict=True)
    ]
    below = ["", *(f"cost {costs[i - 1]:.2f}" for i in shown[1:])]
    figure = Figure(figsize=(1.25 * len(real) + 0.4, 3.4), layout="constrained")
    axes = figure.subplots(2, len(real))
    for row, images, texts in (
        (axes[0], real, [*above, "goal image\n"]),
        (axes[1], decoded, [*below, "goal"]),
    ):
        for cell, image, text in zip(row, images, texts, strict=True):
            _show(cell, image, text)
    axes[0, 0].set_ylabel("real", fontsize=9)
    axes[1, 0].set_ylabel("imagined", fontsize=9)
    figure.suptitle(
        f"plan at environment step {decision * agent.frame_skip}, by model step; "
        f"{agent.configurator.cost.expression} = {total:.2f}",
        fontsize=10,
    )
    return figure


@torch.no_grad()
def draw_map(agent: Agent, world: World, episode: Episode, seed: int) -> Figure:
    """Draw the two principal components of embeddings of fresh frames, and an episode among them.

    Colours say how far each frame truly is from the episode's goal.

    Args:
        agent: whose embeddings.
        world: where.
        episode: start and goal.
        seed: of the planner.
    """
    walked = trace_episode(agent, world, episode, seed)
    fresh = sample_episodes(agent.jepa, world, FRAMES, seed, kind=1)
    cloud = fresh.embeddings.flatten(0, 1)
    centre, axes_of, share = _principal(cloud)

    def place(embeddings: Tensor) -> NDArray[np.float64]:
        return ((embeddings - centre) @ axes_of).cpu().double().numpy()

    distance = walked.distance(fresh.states.reshape(-1, fresh.states.shape[-1]))
    path, goal = place(walked.embeddings), place(walked.agent_states[0].goal.embedding)[0]
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(-distance, kind="stable")  # the nearest on top
    dots = axes.scatter(
        *place(cloud)[order].T, c=world.task.per_unit * distance[order], s=7, cmap="viridis_r",
        vmax=world.task.per_unit * np.quantile(distance, 0.95), linewidths=0,
    )  # fmt: skip
    figure.colorbar(dots, label=f"true distance to the goal [{world.task.unit}]")
    axes.plot(*path.T, color="white", lw=3.5)
    axes.plot(*path.T, color="#d6336c", lw=1.6, marker="o", ms=3.5, label="the episode")
    marks: dict[str, Any] = {"mec": "black", "ls": "none", "zorder": 5}
    axes.plot(*path[0], "o", ms=10, mfc="white", label="its start", **marks)
    axes.plot(*goal, "*", ms=19, mfc="#ffd43b", label="the goal image", **marks)
    axes.set_xlabel(f"first principal component ({share[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({share[1]:.0%})")
    axes.set_title(f"{world.task.name}: {len(cloud)} frames as the world model sees them")
    axes.legend(framealpha=0.9, fontsize=9)
    return figure


@dataclass(frozen=True)
class Surprise:
    """How wrong the world model was about each next frame of an episode.

    Attributes:
        ratio: squared error of the one-step prediction over that of fresh frames, (M - 1,).
        steps: environment steps at which the predicted frames were seen, (M - 1,).
        images: of these frames, (M - 1, P, P, 3).
    """

    ratio: NDArray[np.float64]
    steps: NDArray[np.int64]
    images: NDArray[np.uint8]


@torch.no_grad()
def measure_surprise(walked: EpisodeTrace, typical: float) -> Surprise:
    """Return the surprise over an episode, in units of a typical squared error."""
    agent, seen, actions = walked.agent, walked.embeddings, walked.actions
    errors = [
        float(agent.jepa.surprise(memory_of(mind), actions[now][None], seen[now + 1]))
        for now, mind in enumerate(walked.decisions[:-1])
    ]
    steps = agent.frame_skip * np.arange(1, len(seen))
    return Surprise(np.array(errors) / typical, steps, walked.images(walked.states[steps]))


def typical_error(agent: Agent, world: World, seed: int) -> float:
    """Return the mean squared error of one-step predictions over fresh frames."""
    fresh = sample_episodes(agent.jepa, world, FRAMES, seed, kind=1)
    error, _ = open_loop_error(agent.jepa, fresh.embeddings, fresh.actions, horizon=1)
    return error[0]


def draw_surprise(surprises: Mapping[str, Surprise]) -> Figure:
    """Draw the surprise over one or two episodes of the same steps, with some of their frames.

    Args:
        surprises: by what to call them.
    """
    rows = len(surprises)
    figure = Figure(figsize=(9.6, 3.1 + 1.35 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, THUMBNAILS, height_ratios=[2.4, *[1] * rows])
    axes = figure.add_subplot(grid[0, :])
    axes.axhline(1, color="#1d2330", ls="--", lw=0.8)
    for row, (colour, (name, surprise)) in enumerate(zip(COLOURS, surprises.items(), strict=False)):
        axes.plot(surprise.steps, surprise.ratio, color=colour, marker="o", ms=3, label=name)
        shown = np.linspace(0, len(surprise.steps) - 1, THUMBNAILS).round().astype(int)
        for column, index in enumerate(shown):
            cell = figure.add_subplot(grid[1 + row, column])
            text = f"step {surprise.steps[index]}: {surprise.ratio[index]:.1f}"
            _show(cell, surprise.images[index], text, colour)
            if column == 0:
                cell.set_ylabel(name, fontsize=8)
    axes.set(xlabel="environment step", ylabel="surprise", ylim=(0, None))
    axes.set_title("squared error of the prediction of the next frame; 1 = mean of fresh frames")
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _when(steps: int) -> str:
    return "now" if steps == 0 else f"in {steps} step{'s'[: steps - 1]}"


def _show(axes: Any, image: NDArray[np.uint8], text: str, frame: str = "#c4c9d4") -> None:  # noqa: ANN401
    axes.imshow(image, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(text, fontsize=7.5, pad=3)
    for spine in axes.spines.values():
        spine.set_color(frame)


def _principal(embeddings: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """Return the centre (D), the first two principal axes (D, 2), and their shares of variance."""
    centre = embeddings.mean(dim=0)
    _, values, rows = torch.linalg.svd(embeddings - centre, full_matrices=False)
    axes = rows[:2].T
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    share = values.square() / values.square().sum()
    return centre, axes * largest.sign(), share[:2].tolist()
