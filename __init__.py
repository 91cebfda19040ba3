"""mujepa: agents that plan with a learned world model, in MuJoCo.

    data = mujepa.collect("reacher", out="data/reacher")
    checkpoint = mujepa.train("reacher", out="runs/reacher", data=data.folder)
    result = mujepa.evaluate("runs/reacher", episodes=200)
    agent = mujepa.load("runs/reacher")

Importing mujepa registers its tasks with Gymnasium (`gymnasium.make("mujepa/Reacher-v0")`) and
does not load torch.
"""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mujepa.envs import register
from mujepa.runtime import console
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mujepa.agent.checkpoint import ActorMode, Checkpoint
    from mujepa.agent.device import DeviceName
    from mujepa.agent.mpc import Agent
    from mujepa.envs.task import Task
    from mujepa.evaluation.config import EvaluateConfig
    from mujepa.evaluation.result import Result
    from mujepa.planners import PlannerConfig
    from mujepa.rollouts.collection import CollectConfig
    from mujepa.rollouts.store import Dataset
    from mujepa.rollouts.writer import write_dataset
    from mujepa.training.config import TrainConfig

__version__ = "0.1.0"
__all__ = [
    "Agent", "Checkpoint", "CollectConfig", "Dataset", "EvaluateConfig", "PlannerConfig", "Result",
    "Task", "TrainConfig", "UserError", "collect", "evaluate", "load", "train", "write_dataset",
]  # fmt: skip
LAZY = {
    "Agent": "agent.mpc", "Checkpoint": "agent.checkpoint", "PlannerConfig": "planners",
    "CollectConfig": "rollouts.collection", "Dataset": "rollouts.store", "Task": "envs.task",
    "EvaluateConfig": "evaluation.config", "Result": "evaluation.result",
    "TrainConfig": "training.config", "write_dataset": "rollouts.writer",
}  # fmt: skip
"""Public names that are imported on first use, with their modules."""

register()


def collect(
    task: str,
    out: str | Path,
    *,
    verbose: bool = False,
    **settings: Any,  # noqa: ANN401
) -> Dataset:
    """Collect a dataset with a task's behaviour policy; an existing one is extended.

    Args:
        task: name of a task, such as `reacher` or `dm_control:reacher-easy`, or a MuJoCo file.
        out: folder of the dataset.
        verbose: print what the command line prints.
        **settings: options of `mujepa collect`, such as `episodes=500`: fields of `CollectConfig`.

    Raises:
        UserError: a setting is invalid, or the folder holds another dataset.
    """
    from mujepa.rollouts import collection

    with _output(verbose=verbose):
        return collection.collect(collection.CollectConfig(task=task, out=Path(out), **settings))


def train(
    task: str,
    out: str | Path,
    *,
    verbose: bool = False,
    **settings: Any,  # noqa: ANN401
) -> Checkpoint:
    """Train an agent; collect a dataset first if there is none.

    Args:
        task: as for `collect`, or `data:FOLDER` for a dataset without a simulator.
        out: folder of the run.
        verbose: print what the command line prints.
        **settings: options of `mujepa train`, such as `updates=500` or `critic={"history": 2}`:
            fields of `TrainConfig`. Others have the task's own defaults, or the general ones.

    Returns:
        The best checkpoint of the run.

    Raises:
        UserError: a setting is invalid, the folder holds another run, or a loss is not finite.
    """
    from mujepa.training.config import TrainConfig

    run = importlib.import_module("mujepa.train")
    with _output(verbose=verbose):
        return run.train(TrainConfig.create(task, Path(out), **settings))


def evaluate(
    checkpoint: str | Path,
    *,
    verbose: bool = False,
    **settings: Any,  # noqa: ANN401
) -> Result:
    """Evaluate a checkpoint; write result.json, report.html and videos.

    Args:
        checkpoint: folder of a checkpoint or of a training run.
        verbose: print what the command line prints.
        **settings: options of `mujepa evaluate`, such as `episodes=100` or `oracle=False`: fields
            of `EvaluateConfig`.

    Returns:
        The figures of result.json.

    Raises:
        UserError: a setting is invalid, or the checkpoint is missing or damaged.
    """
    from mujepa.evaluation.config import EvaluateConfig

    run = importlib.import_module("mujepa.evaluate")
    with _output(verbose=verbose):
        return run.evaluate(EvaluateConfig(checkpoint=Path(checkpoint), **settings))


def load(
    path: str | Path,
    device: DeviceName = "auto",
    *,
    cost: str | None = None,
    actor: ActorMode | None = None,
    planner: PlannerConfig | None = None,
) -> Agent:
    """Return the agent of a checkpoint, ready to act.

    Args:
        path: a checkpoint folder, or the folder of a training run.
        device: `auto`, `cpu`, `cuda` or `mps`.
        cost: another cost than the checkpoint's, such as `critic + 100*avoid(y>0.1)`.
        actor: who acts: `planner`, `proposing` (planner with the actor's proposals) or `reactive`.
        planner: another planner, such as `mujepa.PlannerConfig("cem", horizon=5)`.

    Raises:
        UserError: the checkpoint is missing or damaged, the device is not available, or the cost
            cannot be parsed.
    """
    from mujepa.agent.checkpoint import load_checkpoint

    return load_checkpoint(path, device).agent(planner, cost, actor)


def _output(*, verbose: bool) -> AbstractContextManager[object]:
    return nullcontext() if verbose else console.quiet()


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in LAZY:
        raise AttributeError(f"module 'mujepa' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mujepa.{LAZY[name]}"), name)
