"""What the embeddings hold, and how far ahead the world model is right.

Letters: B episodes, T frames, H horizon, D embedding, Q quantities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
from torch import Tensor, nn

from mujepa.agent.probe import LinearProbe
from mujepa.evaluation.diagnostics import distance_correlation, effective_rank, open_loop_error

if TYPE_CHECKING:
    from mujepa.agent.checkpoint import Networks
    from mujepa.envs.world import World
    from mujepa.evaluation.sampling import Episodes

HORIZON = 16
"""Model steps that are imagined, where episodes are as long."""
BANDS = 5
"""Equally large groups of pairs of states, from the nearest to the farthest."""
PAIRS = 4096
PROBE_UPDATES = 600


@torch.no_grad()
def open_loop(networks: Networks, data: Episodes) -> dict[str, Any]:
    """Return the error of imagined embeddings by model step.

    It stands between that of a world in which nothing moves, and that of the right model told the
    actions of another episode. All are mean squared errors; embeddings have unit variance.
    """
    jepa = networks.jepa
    horizon = min(HORIZON, data.embeddings.shape[1] - jepa.history)
    model, frozen = open_loop_error(jepa, data.embeddings, data.actions, horizon)
    others = data.actions.roll(1, dims=0)
    wrong, _ = open_loop_error(jepa, data.embeddings, data.actions, horizon, others)
    return {"model": model, "frozen_world": frozen, "wrong_actions": wrong}


def representation(networks: Networks, world: World, data: Episodes) -> dict[str, Any]:
    """Return the effective rank, what can be read from embeddings, and how distances compare."""
    flat = data.embeddings.flatten(0, 1)
    return {
        "dimensions": flat.shape[1],
        "effective_rank": effective_rank(flat),
        "probes": probe_states(networks.jepa.history, world, data),
        "distances": distance_bands(networks, world, data),
    }


def probe_states(history: int, world: World, data: Episodes) -> dict[str, dict[str, float]]:
    """Return how well positions, angles and velocities are read from embeddings, as R2.

    Each is read by a linear probe and by a perceptron, from one embedding and from the last two (or
    as many as the world model remembers): speeds are not in one image. Probes are fitted on two
    thirds of the episodes and judged on the others; quantities that never move are left out.

    Returns:
        For each quantity its `kind`, and `linear`, `mlp`, `linear_memory` and `mlp_memory`.
    """
    memory = max(history, 2)
    names, kinds = state_names(world)
    targets = world.proprioception(data.states[:, memory - 1 :])
    windows = data.embeddings.unfold(1, memory, 1).transpose(2, 3)
    targets = torch.from_numpy(targets.astype(np.float32)).to(windows)
    parts = 2 * len(windows) // 3
    moving = targets[:parts].flatten(0, 1).std(dim=0) > 1e-4
    moving &= targets[parts:].flatten(0, 1).std(dim=0) > 1e-4
    kept = torch.nonzero(moving).ravel().tolist()
    targets = targets[..., moving]
    found: dict[str, dict[str, Any]] = {names[i]: {"kind": kinds[i]} for i in kept}
    for suffix, inputs in (("", windows[:, :, -1]), ("_memory", windows.flatten(2))):
        fit = inputs[:parts].flatten(0, 1), targets[:parts].flatten(0, 1)
        held = inputs[parts:].flatten(0, 1), targets[parts:].flatten(0, 1)
        linear = LinearProbe(inputs.shape[-1], [names[i] for i in kept]).to(inputs)
        linear.fit(*fit)
        for label, read in (("linear", linear), ("mlp", fit_perceptron(*fit))):
            scores = r2_by_quantity(read(held[0]), held[1])
            for index, score in zip(kept, scores, strict=True):
                found[names[index]][label + suffix] = score
    return found


def state_names(world: World) -> tuple[list[str], list[str]]:
    """Return names and kinds of what `World.proprioception` returns.

    Kinds are `position` [m], `angle` (free hinges as cosine and sine, others in rad, attitudes as
    quaternions) and `velocity` [m/s, rad/s].
    """
    model = world.model
    turns, rest, speeds = [], [], []
    for index in range(model.njnt):
        name, kind = model.joint(index).name or f"joint{index}", model.jnt_type[index]
        if model.jnt_qposadr[index] in world.free_hinges:
            turns.append(name)
        elif kind == mujoco.mjtJoint.mjJNT_FREE:
            rest += [(f"{name}.{axis}", "position") for axis in "xyz"]
            rest += [(f"{name}.{part}", "angle") for part in ("qw", "qx", "qy", "qz")]
        elif kind == mujoco.mjtJoint.mjJNT_BALL:
            rest += [(f"{name}.{part}", "angle") for part in ("qw", "qx", "qy", "qz")]
        else:
            rest.append((name, "position" if kind == mujoco.mjtJoint.mjJNT_SLIDE else "angle"))
        size = {mujoco.mjtJoint.mjJNT_FREE: 6, mujoco.mjtJoint.mjJNT_BALL: 3}.get(kind, 1)
        speeds += [f"{name} speed" if size == 1 else f"{name} speed {i}" for i in range(size)]
    names = [f"cos {name}" for name in turns] + [f"sin {name}" for name in turns]
    named = [(name, "angle") for name in names] + rest + [(name, "velocity") for name in speeds]
    return [name for name, _ in named], [kind for _, kind in named]


def fit_perceptron(inputs: Tensor, targets: Tensor, updates: int = PROBE_UPDATES) -> nn.Module:
    """Fit two hidden layers to inputs (N, I) and targets (N, Q); the same each time."""
    centre, scale = targets.mean(dim=0), targets.std(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(inputs.shape[1], 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(),
            nn.Linear(128, targets.shape[1]),
        )  # fmt: skip
        rows = torch.randint(len(inputs), (updates, 512))
    net.to(inputs)
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
    last = net[-1]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(scale[:, None])
    last.bias.mul_(scale).add_(centre)
    return net


def r2_by_quantity(read: Tensor, true: Tensor) -> list[float]:
    """Return the share of the variance of each quantity (N, Q) that is read, Q numbers."""
    error = (read - true).square().mean(dim=0)
    return (1 - error / true.var(dim=0, unbiased=False)).tolist()


@torch.no_grad()
def distance_bands(networks: Networks, world: World, data: Episodes) -> dict[str, Any]:
    """Compare distances between embeddings with true ones, over all pairs and by true distance.

    Returns:
        `rank`, Spearman's correlation over all pairs of `latent_l2` and `critic` with the truth;
        `bands`, for each fifth of the pairs its `true` median, `spread` (quartiles) and median of
        the two estimates, and their ranks within it.
    """
    random = np.random.default_rng(0)
    episodes, frames = data.embeddings.shape[:2]
    ends = random.integers(episodes * (frames - 1), size=(2, PAIRS))
    states = data.states[:, 1:].reshape(episodes * (frames - 1), -1)
    true = world.separation(states[ends[0]], states[ends[1]])
    now, before = data.embeddings[:, 1:].flatten(0, 1), data.embeddings[:, :-1].flatten(0, 1)
    here = torch.stack([before[ends[0]], now[ends[0]]], dim=1)
    there = now[ends[1]][:, None].expand(-1, 2, -1)  # as goals are: at rest
    estimates = {
        "latent_l2": (here[:, 1] - there[:, 1]).square().mean(dim=-1).cpu().numpy(),
        "critic": networks.critic(here, there).cpu().numpy(),
    }
    bands = []
    for band in np.array_split(np.argsort(true, kind="stable"), BANDS):
        found: dict[str, Any] = {"true": float(np.median(true[band]))}
        for name, values in estimates.items():
            found[name] = [float(v) for v in np.quantile(values[band], [0.25, 0.5, 0.75])]
            found[f"{name}_rank"] = distance_correlation(values[band], true[band])
        bands.append(found)
    ranks = {name: distance_correlation(values, true) for name, values in estimates.items()}
    return {"rank": ranks, "bands": bands}
