"""Violation of expectation: is the world model surprised by the impossible, and only by that?

Pairs of videos share their beginning and all actions; in one of them something impossible happens
halfway. The surprise of a step is the squared error of its prediction. After the intuitive-physics
tests of infants, as in Garrido et al. (arXiv 2502.11831).

Letters: V videos, T model steps, S state.
"""

from __future__ import annotations

import copy
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, mannwhitneyu
from torch import Tensor

from mujepa.agent.jepa import JEPA
from mujepa.envs.variation import Draw, Variant
from mujepa.envs.world import World
from mujepa.evaluation.diagnostics import every_step
from mujepa.evaluation.held_out import encode_states
from mujepa.rollouts.collection import rollout_behavior
from mujepa.runtime.seeds import Stream, stream

STEPS = 16
"""Model steps of a video; the event is halfway."""
MOVED = 0.05
"""Joint distance from which an event counts as having changed a video [rad, m]."""


def violate_expectations(world: World, jepa: JEPA, videos: int, seed: int) -> dict[str, Any]:
    """Return how well surprise separates each event from videos of the behaviour policy.

    The events: `teleport`, every body jumps to where another video has it; `freeze`, nothing moves
    any more; `ghost`, bodies pass through each other and through walls; `colour`, all colours
    change, the control: unusual, but physically possible. Videos that an event does not change,
    such as a ghost that meets no wall, are left out.

    `auroc` is the probability that a video with the event has a higher maximal surprise than one
    without; `paired`, how many have a higher and a lower maximum than their partner, with the
    p-value of a sign test; `by_step`, the median surprise.
    """
    streams = [stream(seed, Stream.EXPECTATION, index) for index in range(videos)]
    states, actions, _ = rollout_behavior(world, streams, STEPS)
    half, unit = STEPS // 2, torch.from_numpy(world.to_unit(actions))
    embeddings = encode_states(jepa, world, states)
    usual = _surprise(jepa, embeddings, unit)
    found = {}

    def compare(name: str, after: Tensor, chosen: NDArray[np.int64]) -> None:
        changed = torch.cat([embeddings[chosen, : half + 1], after], dim=1)
        found[name] = _separation(_surprise(jepa, changed, unit[chosen]), usual, chosen)

    for name, future in _impossible_futures(world, states[:, half], actions[:, half:]).items():
        moved = world.joint_distance(future, states[:, half + 1 :]).max(axis=1) > MOVED
        if moved.any():
            compare(name, encode_states(jepa, world, future[moved]), np.flatnonzero(moved))
    if jepa.observes == "pixels":
        painted = [world.variant(Draw({"colour": 1.0}, look)) for look in range(videos)]
        after = encode_states(jepa, world, states[:, half + 1 :], painted)
        compare("colour", after, np.arange(videos))
    return found | {"possible": {"videos": videos, "by_step": np.median(usual, axis=0).tolist()}}


def without_contacts(world: World) -> Variant:
    """Return the task's world in which nothing touches anything."""
    model = copy.copy(world.model)
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT.value
    return Variant(model)


def _impossible_futures(
    world: World, states: NDArray[np.float64], actions: NDArray[np.floating]
) -> dict[str, NDArray[np.float64]]:
    skip = world.task.frame_skip
    futures = {
        "teleport": world.rollout(np.roll(states, 1, axis=0), actions, skip)[0],
        "freeze": np.repeat(states[:, None], actions.shape[1], axis=1),
    }
    if world.model.ngeom and not world.task.python_stepped:
        ghosts = [without_contacts(world)] * len(states)
        futures["ghost"] = world.rollout(states, actions, skip, ghosts)[0]
    return futures


@torch.no_grad()
def _surprise(jepa: JEPA, embeddings: Tensor, actions: Tensor) -> NDArray[np.float32]:
    steps = every_step(embeddings, actions.to(embeddings), jepa.history)
    return jepa.surprise(*steps).unflatten(0, (len(embeddings), -1)).cpu().numpy()


def _separation(
    surprise: NDArray[np.float32], usual: NDArray[np.float32], partners: NDArray[np.int64]
) -> dict[str, Any]:
    """Compare the maximal surprise of videos (V, T) with that of all usual ones (V, T)."""
    highest, others = surprise.max(axis=1), usual.max(axis=1)
    more, less = ((sign * (highest - others[partners]) > 0).sum() for sign in (1, -1))
    p_value = float(binomtest(more, more + less).pvalue) if more + less else 1.0
    return {
        "videos": len(highest),
        "auroc": float(mannwhitneyu(highest, others).statistic / len(highest) / len(others)),
        "paired": {"more": int(more), "less": int(less), "p_value": p_value},
        "by_step": np.median(surprise, axis=0).tolist(),
    }
