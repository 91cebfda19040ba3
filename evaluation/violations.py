"""How often a region that is to be avoided is entered, by the true state and not by the probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mujepa.evaluation.statistics import success_rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mujepa.agent.region import Region
    from mujepa.envs.world import World
    from mujepa.evaluation.loop import Outcome
    from mujepa.evaluation.manifest import Manifest


def violations(
    region: Region, world: World, manifest: Manifest, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """Judge every policy on the episodes whose start and goal lie outside the region.

    Returns:
        `episodes`, how many these are, and for each policy `steps`, the share of environment steps
        that end inside the region, and `success_at_end`; a policy that ran on fewer episodes is
        judged on those of them that count. Nothing but `episodes` if none counts.
    """
    counts = outside(region, world, manifest)
    result: dict[str, Any] = {"episodes": int(counts.sum())}
    for name, outcome in outcomes.items():
        kept = counts[: len(outcome.states)]
        if not kept.any():
            continue
        held = outcome.held[kept]
        states = outcome.states[kept, 1:].reshape(-1, outcome.states.shape[-1])
        result[name] = {
            "steps": float(_inside(region, world, states).mean()),
            "success_at_end": asdict(success_rate(int(held.sum()), len(held))),
        }
    return result


def outside(region: Region, world: World, manifest: Manifest) -> NDArray[np.bool_]:
    """Return which episodes have start and goal outside the region, (E,)."""
    ends = [np.stack([getattr(one, end) for one in manifest.episodes]) for end in ("start", "goal")]
    return ~(_inside(region, world, ends[0]) | _inside(region, world, ends[1]))


def _inside(region: Region, world: World, states: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (region.depth(torch.from_numpy(world.achieved(states))) > 0).numpy()
