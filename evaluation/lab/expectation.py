"""Violation of expectation: is the world model surprised by what cannot happen, and only by that?

Videos of the same beginning and the same actions, one as the world is, one in which something
impossible happens halfway; the surprise of a step is the squared error of its prediction. After
the intuitive-physics tests of infants, as in Garrido et al. (arXiv 2502.11831).

Letters: V videos, T frames, S state.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
from scipy.stats import binomtest, mannwhitneyu

from mujepa.envs.variation import Draw, Variant
from mujepa.evaluation.diagnostics import every_step
from mujepa.rollouts.collection import rollout_behavior

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.jepa import JEPA
    from mujepa.envs.world import Variants, World

STREAM = 7
"""Second word of the random streams; those of collection and evaluation are others."""
STEPS = 16
"""Model steps of a video; the event is halfway."""
MOVED = 0.05
"""Joint distance from which a video counts as another one [rad, m]."""


@dataclass(frozen=True)
class Events:
    """What can happen in a world, and what cannot.

    Attributes:
        possible: surprise at each step of the videos as the world is, (V, T).
        impossible: of the same videos with an event, by its name; videos in which it changes
            nothing, such as a wall that nobody runs into, are left out, and so are events without
            any video.
        pairs: for each event, which of the possible videos have a partner.
    """

    possible: NDArray[np.float32]
    impossible: dict[str, NDArray[np.float32]]
    pairs: dict[str, NDArray[np.int64]]


def film_events(world: World, jepa: JEPA, videos: int, seed: int) -> Events:
    """Film videos of the behaviour policy, with and without an event halfway.

    `teleport`: everything is suddenly where another video has it; `freeze`: nothing moves any more,
    whatever is done; `ghost`: bodies pass through each other and through walls; `colour`: all
    colours change, the control: unusual, but nothing that physics forbids.
    """
    streams = [np.random.default_rng([seed, STREAM, index]) for index in range(videos)]
    states, actions, _ = rollout_behavior(world, streams, STEPS)
    unit = torch.from_numpy(world.to_unit(actions))
    half = STEPS // 2
    before, after = states[:, : half + 1], states[:, half + 1 :]

    def onward(starts: NDArray[np.float64], worlds: Variants = None) -> NDArray[np.float64]:
        skip = world.task.frame_skip
        return world.rollout(starts, actions[:, half:], skip, worlds)[0]

    futures = {"teleport": onward(np.roll(states[:, half], 1, axis=0))}
    futures["freeze"] = np.repeat(states[:, half : half + 1], STEPS - half, axis=1)
    if world.model.ngeom and not world.task.python_stepped:
        futures["ghost"] = onward(states[:, half], [without_contacts(world)] * videos)
    possible = surprise(world, jepa, states, unit)
    impossible, pairs = {}, {}
    for name, future in futures.items():
        moved = world.joint_distance(future, after).max(axis=1) > MOVED
        if not moved.any():
            continue
        pairs[name] = np.flatnonzero(moved)
        film = np.concatenate([before, future], axis=1)[moved]
        impossible[name] = surprise(world, jepa, film, unit[moved])
    if jepa.observes == "pixels":
        painted = [world.variant(Draw({"colour": 1.0}, look)) for look in range(videos)]
        pairs["colour"] = np.arange(videos)
        impossible["colour"] = surprise(world, jepa, states, unit, painted, half + 1)
    return Events(possible, impossible, pairs)


def judge_surprise(events: Events) -> dict[str, Any]:
    """Return, for each event, how well surprise tells it from what is possible.

    A video is as surprising as its most surprising step: nobody says where to look. `auroc` is the
    chance that an impossible video is more surprising than a possible one of any beginning;
    `paired`, the share of videos that are more surprising than the same without the event, with
    its interval and the p-value of a sign test.
    """
    found = {}
    usual = events.possible.max(axis=1)
    for name, steps in events.impossible.items():
        partners, most = usual[events.pairs[name]], steps.max(axis=1)
        wins, ties = int((most > partners).sum()), int((most == partners).sum())
        test = binomtest(wins, len(most) - ties) if len(most) > ties else None
        found[name] = {
            "videos": len(most),
            "auroc": float(mannwhitneyu(most, usual).statistic / len(most) / len(usual)),
            "paired": {
                "more": wins,
                "less": len(most) - wins - ties,
                "p_value": float(test.pvalue) if test else 1.0,
            },
            "by_step": np.median(steps, axis=0).tolist(),
        }
    found["possible"] = {
        "videos": len(usual),
        "by_step": np.median(events.possible, axis=0).tolist(),
    }
    return found


@torch.no_grad()
def surprise(
    world: World,
    jepa: JEPA,
    states: NDArray[np.float64],
    actions: Tensor,
    painted: Variants = None,
    since: int = 0,
) -> NDArray[np.float32]:
    """Return the squared error of the prediction of each step, (V, T), averaged over dimensions.

    Args:
        world: the world.
        jepa: the world model.
        states: what happens, (V, T + 1, S).
        actions: what is done, (V, T, A), in [-1, 1].
        painted: worlds that the videos are drawn in, if not the task's own.
        since: first frame that is drawn so.
    """
    rows = []
    device = next(jepa.parameters()).device
    for index, film in enumerate(states):
        frames = world.observe(film, jepa.observes)
        if painted is not None:
            worlds = [painted[index]] * (len(film) - since)
            frames[since:] = world.observe(film[since:], jepa.observes, worlds)
        rows.append(jepa.encode(torch.from_numpy(frames).to(device)))
    embeddings = torch.stack(rows)
    memory, action, following = every_step(embeddings, actions.to(embeddings), jepa.history)
    error = jepa.surprise(memory, action, following)
    return error.unflatten(0, (len(states), -1)).cpu().numpy()


def without_contacts(world: World) -> Variant:
    """Return the task's world in which nothing touches anything."""
    model = copy.copy(world.model)
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT.value
    return Variant(model)
