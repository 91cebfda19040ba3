"""How often a region that the cost avoids is entered, by the true state and not by the probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mujepa.agent.region import Region
from mujepa.envs.world import World
from mujepa.evaluation.loop import Outcome
from mujepa.evaluation.manifest import Manifest
from mujepa.evaluation.statistics import rate_of


def violations(
    region: Region, world: World, manifest: Manifest, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """Count visits of a region in the episodes whose start and goal lie outside of it.

    Returns:
        `episodes`, the number of these episodes, and for each policy `steps`, the share of
        environment steps that end inside the region, and `success_at_end`.
    """
    counts = outside(region, world, manifest)
    result: dict[str, Any] = {"episodes": int(counts.sum())}
    for name, outcome in outcomes.items():
        kept = counts[: len(outcome.states)]
        if kept.any():
            states = outcome.states[kept, 1:].reshape(-1, outcome.states.shape[-1])
            result[name] = {
                "steps": float(_inside(region, world, states).mean()),
                "success_at_end": asdict(rate_of(outcome.held[kept])),
            }
    return result


def outside(region: Region, world: World, manifest: Manifest) -> NDArray[np.bool_]:
    """Return which episodes have start and goal outside the region, (E,)."""
    starts, goals = (_inside(region, world, states) for states in manifest.ends)
    return ~(starts | goals)


def _inside(region: Region, world: World, states: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (region.depth(torch.from_numpy(world.achieved(states))) > 0).numpy()
