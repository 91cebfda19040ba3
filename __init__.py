"""mujepa: an embodied agent that plans with a learned world model, in MuJoCo.

Importing it registers the tasks with Gymnasium (`gymnasium.make("mujepa/Reacher-v0")`) and does
not load torch; `mujepa.load(folder)` returns a trained agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mujepa.envs import register
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from mujepa.agent.checkpoint import ActorMode
    from mujepa.agent.cost import CostFunction
    from mujepa.agent.device import DeviceName
    from mujepa.agent.mpc import Agent
    from mujepa.planners import Planner, PlannerConfig

__version__ = "0.1.0"
__all__ = ["UserError", "load"]

register()


def load(
    path: str | Path,
    device: DeviceName = "auto",
    *,
    cost: str | CostFunction | None = None,
    actor: ActorMode | None = None,
    planner: PlannerConfig | Planner | None = None,
) -> Agent:
    """Return the agent of a checkpoint, ready to act.

    Args:
        path: a checkpoint folder, or the folder of a training run.
        device: `auto`, `cpu`, `cuda` or `mps`.
        cost: another than the checkpoint's, such as `critic + 100*avoid(y>0.1)`, or a function of
            `mujepa.agent.cost.Trajectory` and `Goal` that returns costs (B, N).
        actor: who acts, if not as the checkpoint says: `planner`, `proposing` or `reactive`.
        planner: another one, such as `mujepa.planners.PlannerConfig("cem", horizon=5)`, or your own
            `mujepa.planners.Planner`.

    Raises:
        UserError: the checkpoint is missing or damaged, the device is not there, or the cost cannot
            be read.
    """
    from mujepa.agent.checkpoint import load_checkpoint

    return load_checkpoint(path, device).agent(planner, cost, actor)
