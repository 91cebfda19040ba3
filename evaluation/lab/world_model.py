"""What the embeddings contain, how far ahead the model predicts, and whether the cost ranks.

Letters: B episodes, T frames, H horizon, D embedding, Q quantities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor, nn

from mujepa.agent.checkpoint import Networks
from mujepa.agent.mpc import Agent
from mujepa.agent.probe import LinearProbe
from mujepa.envs.world import Episode, World
from mujepa.evaluation.diagnostics import (
    candidate_costs,
    distance_correlation,
    effective_rank,
    make_ranking_benchmark,
    open_loop_error,
)
from mujepa.evaluation.held_out import Episodes

HORIZON = 16
"""Most model steps that are predicted."""
BANDS, PAIRS = 5, 4096
"""Groups of equal size, from near to far, of random pairs of states."""
CANDIDATES, PROBLEMS = 300, 32
"""Action sequences that the cost ranks, in each of some problems."""
QUATERNION = [(f".{part}", "angle") for part in ("qw", "qx", "qy", "qz")]
COORDINATES = {
    mujoco.mjtJoint.mjJNT_FREE: [*((f".{axis}", "position") for axis in "xyz"), *QUATERNION],
    mujoco.mjtJoint.mjJNT_BALL: QUATERNION,
    mujoco.mjtJoint.mjJNT_SLIDE: [("", "position")],
    mujoco.mjtJoint.mjJNT_HINGE: [("", "angle")],
}
"""Suffix and kind of each position coordinate, by kind of joint."""


def rank_candidates(agent: Agent, world: World, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Rank 300 random action sequences over the horizon in each of the first 32 episodes.

    The result of a sequence is how near it gets to the goal, by the task's `distance_metric`; its
    regret is how much nearer the best sequence of the problem gets.
    `rank` is Spearman's correlation of cost and result (quartiles over the problems), `solved` the
    share of problems in which some sequence succeeds, `best_tenth` how often the cheapest sequence
    is among the best tenth. Regrets are medians.
    """
    horizon = agent.planner.horizon
    problems = make_ranking_benchmark(
        world, agent.observes, episodes[:PROBLEMS], horizon, candidates=CANDIDATES
    )
    costs, nearest = candidate_costs(agent.configurator, problems), problems.nearest
    ranks = list(map(distance_correlation, costs, nearest))
    best, chosen = nearest.min(axis=1), nearest[np.arange(len(nearest)), costs.argmin(axis=1)]
    return {
        "problems": len(nearest),
        "bank": nearest.shape[1],
        "horizon": horizon,
        "rank": np.quantile(ranks, [0.25, 0.5, 0.75]).tolist(),
        "solved": float(problems.solved.any(axis=1).mean()),
        "regret": float(np.median(chosen - best)),
        "regret_random": float(np.median(nearest.mean(axis=1) - best)),
        "best_tenth": float(((nearest < chosen[:, None]).mean(axis=1) < 0.1).mean()),
        "example": {"cost": costs[0].tolist(), "nearest": nearest[0].tolist()},
    }


@torch.no_grad()
def open_loop(networks: Networks, data: Episodes) -> dict[str, list[float]]:
    """Return the mean squared prediction error by model step, with two references.

    `frozen_world` predicts that nothing moves; `wrong_actions` is the same model given the actions
    of another episode. Embeddings have unit variance.
    """
    jepa = networks.jepa
    horizon = min(HORIZON, data.embeddings.shape[1] - jepa.history)
    model, frozen = open_loop_error(jepa, data.embeddings, data.actions, horizon)
    others = data.actions.roll(1, dims=0)
    wrong, _ = open_loop_error(jepa, data.embeddings, data.actions, horizon, others)
    return {"model": model, "frozen_world": frozen, "wrong_actions": wrong}


def representation(networks: Networks, world: World, data: Episodes) -> dict[str, Any]:
    """Return the effective rank of the embeddings, probes, and how distances compare."""
    flat = data.embeddings.flatten(0, 1)
    return {
        "dimensions": flat.shape[1],
        "effective_rank": effective_rank(flat),
        "probes": probe_states(networks.jepa.history, world, data),
        "distances": distance_bands(networks, world, data),
    }


def probe_states(history: int, world: World, data: Episodes) -> dict[str, dict[str, Any]]:
    """Return how well positions, angles and velocities can be read from embeddings, as R2.

    A linear probe and a perceptron read each quantity from one embedding, and from the last
    `history` (at least two): one image does not show speeds. Probes are fitted to two thirds of the
    episodes and evaluated on the others. Quantities that never change are left out.
    """
    memory, kinds = max(history, 2), state_names(world)
    targets = world.proprioception(data.states[:, memory - 1 :]).astype(np.float32)
    windows = data.embeddings.unfold(1, memory, 1).transpose(2, 3)
    fitted = 2 * len(windows) // 3
    parts = np.split(targets, [fitted])
    moving = np.all([part.std(axis=(0, 1)) > 1e-4 for part in parts], axis=0)
    names = [name for name, moves in zip(kinds, moving, strict=True) if moves]
    targets = torch.from_numpy(targets[..., moving]).to(windows)
    found: dict[str, dict[str, Any]] = {name: {"kind": kinds[name]} for name in names}
    for suffix, inputs in (("", windows[:, :, -1]), ("_memory", windows.flatten(2))):
        fit = inputs[:fitted].flatten(0, 1), targets[:fitted].flatten(0, 1)
        held, true = inputs[fitted:].flatten(0, 1), targets[fitted:].flatten(0, 1)
        linear = LinearProbe(inputs.shape[-1], names).to(inputs)
        linear.fit(*fit)
        for label, read in (("linear", linear), ("mlp", fit_perceptron(*fit))):
            error = (read(held) - true).square().mean(dim=0)
            scores = (1 - error / true.var(dim=0, unbiased=False)).tolist()
            for name, score in zip(names, scores, strict=True):
                found[name][label + suffix] = score
    return found


def state_names(world: World) -> dict[str, str]:
    """Return name and kind of each number of `World.proprioception`.

    Kinds are `position` [m], `angle` (free hinges as cosine and sine, others in rad, attitudes as
    quaternions) and `velocity` [m/s, rad/s].
    """
    model = world.model
    turning, others, speeds = [], {}, {}
    for index in range(model.njnt):
        name = model.joint(index).name or f"joint{index}"
        coordinates = COORDINATES[mujoco.mjtJoint(model.jnt_type[index])]
        if model.jnt_qposadr[index] in world.free_hinges:
            turning.append(name)
        else:
            others |= {name + suffix: kind for suffix, kind in coordinates}
        size = {7: 6, 4: 3}.get(len(coordinates), 1)  # a quaternion turns about three axes
        numbers = [f" {number}" for number in range(size)] if size > 1 else [""]
        speeds |= {f"{name} speed{number}": "velocity" for number in numbers}
    turns = {f"{part} {name}": "angle" for part in ("cos", "sin") for name in turning}
    return turns | others | speeds


def fit_perceptron(inputs: Tensor, targets: Tensor, updates: int = 600) -> nn.Module:
    """Fit two hidden layers to inputs (N, I) and targets (N, Q), with fixed random numbers."""
    centre, scale = targets.mean(dim=0), targets.std(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = nn.Linear(inputs.shape[1], 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU()
        last = nn.Linear(128, targets.shape[1])
        rows = torch.randint(len(inputs), (updates, 512))
    net = nn.Sequential(*hidden, last).to(inputs)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=updates)
    with torch.enable_grad():
        for chosen in rows:
            loss = (net(inputs[chosen]) - (targets[chosen] - centre) / scale).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.requires_grad_(requires_grad=False)
    last.weight.mul_(scale[:, None])
    last.bias.mul_(scale).add_(centre)
    return net


@torch.no_grad()
def distance_bands(networks: Networks, world: World, data: Episodes) -> dict[str, Any]:
    """Compare distances between embeddings with true ones, over random pairs of states.

    `rank` is Spearman's correlation of an estimate with the true distance. `bands` has, for each
    fifth of the pairs, the median `true` distance, and quartiles and correlations of the estimates.
    """
    states = data.states[:, 1:].reshape(-1, data.states.shape[-1])
    starts, ends = np.random.default_rng(0).integers(len(states), size=(2, PAIRS))
    true = world.separation(states[starts], states[ends])
    memories = data.embeddings.unfold(1, 2, 1).transpose(2, 3).flatten(0, 1)
    memory = memories[starts]
    goal = memories[ends, 1:].expand(-1, 2, -1)  # goals are at rest
    estimates = {
        "latent_l2": (memory[:, 1] - goal[:, 1]).square().mean(dim=-1).cpu().numpy(),
        "critic": networks.critic(memory, goal).cpu().numpy(),
    }
    bands = []
    for band in np.array_split(np.argsort(true, kind="stable"), BANDS):
        found: dict[str, Any] = {"true": float(np.median(true[band]))}
        for name, values in estimates.items():
            found[name] = np.quantile(values[band], [0.25, 0.5, 0.75]).tolist()
            found[f"{name}_rank"] = distance_correlation(values[band], true[band])
        bands.append(found)
    ranks = {name: distance_correlation(values, true) for name, values in estimates.items()}
    return {"rank": ranks, "bands": bands}
