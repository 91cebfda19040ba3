"""Figures that explain an agent: a plan, a map of its embeddings, its surprise.

Letters: M decisions, D embedding, P image size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from mujepa.agent.mpc import Agent
from mujepa.envs.world import Episode, World
from mujepa.evaluation.diagnostics import open_loop_error
from mujepa.evaluation.held_out import sample_episodes
from mujepa.evaluation.trace import EpisodeTrace, memory_of, trace_episode
from mujepa.visual.decoder import Decoder

FRAMES = 3000  # held-out frames of a map, and for the typical surprise
COLUMNS = 8  # maximum number of model steps in a filmstrip, besides the current one
THUMBNAILS = 8
COLOURS = ("#3b6fe0", "#e0913b")


@torch.no_grad()
def draw_plan(
    agent: Agent, decoder: Decoder, world: World, episode: Episode, seed: int, step: int
) -> Figure:
    """Draw the plan of the latest decision before an environment step as a filmstrip.

    The upper row shows the simulator executing the plan; the lower row shows decoded predictions
    of the world model and the cost of each step. The last column is the goal.
    """
    first = step // agent.frame_skip * agent.frame_skip
    trace = trace_episode(agent, world, episode, seed, first + 1)
    state = trace.agent_states[-1]
    plan, cost = agent.planned_trajectory(state), agent.configurator.cost
    costs = cost.by_step(plan, state.goal)[0, 0].tolist()
    controls = world.from_unit(plan.actions[0].cpu().numpy())
    variants = [trace.variant] if trace.variant else None
    future, _ = world.rollout(trace.states[-2:-1], controls, agent.frame_skip, variants)
    states = np.concatenate([trace.states[-2:-1], future[0]])
    embeddings = torch.cat([memory_of(state).embeddings[0, -1:], plan.embeddings[0, 0]])
    shown = np.unique(np.linspace(0, len(states) - 1, COLUMNS + 1).round().astype(int))

    real = [*trace.images(states[shown]), trace.goal_image]
    goal = decoder.decode(state.goal.embedding)[0]
    decoded = [*decoder.decode(embeddings[shown.tolist()]), goal]
    times = ["now", "in 1 step", *(f"in {i} steps" for i in range(2, len(states)))]
    above = [
        f"{times[i]}\n{world.task.text(distance)} to goal"
        for i, distance in zip(shown, trace.distance(states[shown]), strict=True)
    ]
    below = ["", *(f"cost {costs[i - 1]:.2f}" for i in shown[1:])]
    figure = Figure(figsize=(1.25 * len(real) + 0.4, 3.4), layout="constrained")
    axes = figure.subplots(2, len(real))
    for cell, image, text in zip(axes[0], real, [*above, "goal\n"], strict=True):
        _show(cell, image, text)
    for cell, image, text in zip(axes[1], decoded, [*below, "goal, decoded"], strict=True):
        _show(cell, image, text)
    axes[0, 0].set_ylabel("simulator", fontsize=9)
    axes[1, 0].set_ylabel("imagined", fontsize=9)
    total = float(cost(plan, state.goal)[0, 0])
    title = f"plan at environment step {first}, by model step; {cost.expression} = {total:.2f}"
    figure.suptitle(title, fontsize=10)
    return figure


@torch.no_grad()
def draw_map(agent: Agent, world: World, episode: Episode, seed: int) -> Figure:
    """Draw the first two principal components of held-out embeddings, and an episode among them."""
    trace, task = trace_episode(agent, world, episode, seed), world.task
    sample = sample_episodes(agent.jepa, world, FRAMES, seed, kind=1)
    cloud = sample.embeddings.flatten(0, 1)
    centre, components, share = _principal(cloud)

    def project(embeddings: Tensor) -> NDArray[np.float64]:
        return ((embeddings - centre) @ components).cpu().double().numpy()

    distance = task.per_unit * trace.distance(sample.states.reshape(len(cloud), -1))
    path, goal = project(trace.embeddings), project(trace.agent_states[0].goal.embedding)[0]
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(-distance, kind="stable")  # the nearest on top
    dots = axes.scatter(
        *project(cloud)[order].T, c=distance[order], s=7, cmap="viridis_r",
        vmax=np.quantile(distance, 0.95), linewidths=0,
    )  # fmt: skip
    figure.colorbar(dots, label=f"true distance to the goal [{task.unit}]")
    axes.plot(*path.T, color="white", lw=3.5)
    axes.plot(*path.T, color="#d6336c", lw=1.6, marker="o", ms=3.5, label="episode")
    marks: dict[str, Any] = {"mec": "black", "ls": "none", "zorder": 5}
    axes.plot(*path[0], "o", ms=10, mfc="white", label="start", **marks)
    axes.plot(*goal, "*", ms=19, mfc="#ffd43b", label="goal image", **marks)
    axes.set_xlabel(f"first principal component ({share[0]:.0%} of the variance)")
    axes.set_ylabel(f"second principal component ({share[1]:.0%})")
    axes.set_title(f"{task.name}: embeddings of {len(cloud)} frames")
    axes.legend(framealpha=0.9, fontsize=9)
    return figure


@dataclass(frozen=True)
class Surprise:
    """One-step prediction errors of the world model in an episode."""

    ratio: NDArray[np.float64]  # squared error over its mean on held-out frames, (M - 1,)
    steps: NDArray[np.int64]  # environment steps of the predicted frames, (M - 1,)
    images: NDArray[np.uint8]  # these frames, (M - 1, P, P, 3)


@torch.no_grad()
def measure_surprise(trace: EpisodeTrace, typical: float) -> Surprise:
    """Return the surprise in an episode, relative to a typical squared error."""
    jepa, embeddings, actions = trace.agent.jepa, trace.embeddings, trace.actions
    errors = [
        float(jepa.surprise(memory_of(state), actions[now][None], embeddings[now + 1]))
        for now, state in enumerate(trace.decisions[:-1])
    ]
    steps = trace.agent.frame_skip * np.arange(1, len(embeddings))
    return Surprise(np.array(errors) / typical, steps, trace.images(trace.states[steps]))


def typical_error(agent: Agent, world: World, seed: int) -> float:
    """Return the mean squared error of one-step predictions on held-out frames."""
    sample = sample_episodes(agent.jepa, world, FRAMES, seed, kind=1)
    error, _ = open_loop_error(agent.jepa, sample.embeddings, sample.actions, horizon=1)
    return error[0]


def draw_surprise(surprises: Mapping[str, Surprise]) -> Figure:
    """Draw the surprise in one or two episodes, by their names, with some of their frames."""
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
    axes.set_title("squared error of the next embedding's prediction; 1 = mean of held-out frames")
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _show(axes: Axes, image: NDArray[np.uint8], text: str, frame: str = "#c4c9d4") -> None:
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
