"""Our side of `peers.py`: what mujepa does, repeated on request (see `worker.py`).

Each case imports what it needs, so that memory is that of the case alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

from worker import serve

from mujepa.runtime.malloc import keep_freed_memory
from mujepa.runtime.provenance import versions

if TYPE_CHECKING:
    from worker import Work

ROOT = Path(__file__).parents[1]
WINDOWS = 256
"""Windows in a reading."""


def imported() -> Work:
    """Import what acting needs."""
    from mujepa.agent.checkpoint import load_checkpoint
    from mujepa.envs.world import World

    return lambda: len([World, load_checkpoint])


def collection(task: str, episodes: int, folder: str) -> Work:
    """Count frames: a shard is simulated, drawn, checksummed and written."""
    from mujepa.rollouts.collection import collect_shard, make_spec

    recipe, shard = make_spec(task, 0), Path(folder) / "ours-shard"
    collect_shard(shard, recipe, 0, episodes)
    return lambda: collect_shard(shard, recipe, 0, episodes)


def data(folder: str, episodes: int) -> Work:
    """Collect the frames that training and reading use; count them."""
    from mujepa.rollouts.collection import collect_shards, make_spec
    from mujepa.runtime.parallel import Pool

    recipe = make_spec("reacher", 0)
    return lambda: sum(collect_shards(Path(folder), recipe, episodes, Pool(1)))


def planning(environments: int, plans: int, planner: dict[str, Any] | None = None) -> Work:
    """Count plans: from the images of now and of the goal to the first action.

    `planner` are settings of a planner that searches alone, or none for the shipped agent.
    """
    import numpy as np
    import torch

    from mujepa.agent.checkpoint import load_checkpoint
    from mujepa.envs.registry import find_task
    from mujepa.envs.world import World
    from mujepa.evaluation.manifest import make_manifest
    from mujepa.planners import PlannerConfig

    torch.set_num_threads(_threads())
    checkpoint = load_checkpoint(ROOT / "pretrained" / "reacher", "cpu")
    if planner is None:
        agent = checkpoint.agent()
    else:
        agent = checkpoint.agent(PlannerConfig(**planner), actor="planner")
    world = World(find_task("reacher"))
    episodes = make_manifest(world, environments, 0).episodes
    starts, goals = (
        world.observe(np.stack([getattr(e, end) for e in episodes]), agent.observes)
        for end in ("start", "goal")
    )

    def work() -> int:
        for _ in range(plans):
            agent.act(agent.reset(goals), starts)
        return plans

    work()
    return work


def training(folder: str, batch: int, updates: int) -> Work:
    """Count frames that went through loss, gradient and optimiser: as `mujepa train reacher` does.

    Windows are read from the disk, of six frames each, all of which the encoder embeds.
    """
    import torch

    from mujepa.agent.checkpoint import load_checkpoint
    from mujepa.training.config import TrainConfig
    from mujepa.training.data import LatentDataset, load_training_data
    from mujepa.training.losses import weighted_sum
    from mujepa.training.trainer import make_stage

    torch.set_num_threads(_threads())
    data = load_training_data(Path(folder), 0.02, 0, torch.device("cpu"))
    networks = load_checkpoint(ROOT / "pretrained" / "reacher", "cpu").networks
    config = TrainConfig("reacher", Path(folder) / "run", batch=batch)
    stage = make_stage("world model", config, LatentDataset(data, networks.jepa), networks)
    modules = stage.modules()
    modules.requires_grad_(requires_grad=True).train()
    optimizer = torch.optim.AdamW(modules.parameters(), lr=config.learning_rate, weight_decay=1e-4)

    def work() -> int:
        for update in range(updates):
            terms = stage.terms(update)
            optimizer.zero_grad()
            weighted_sum(terms, stage.weights).backward()
            torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
            optimizer.step()
        return updates * batch * (networks.jepa.history + config.rollout)

    work()
    return work


def reading(folder: str, frames: int) -> Work:
    """Count random windows of so many frames, copied from the disk."""
    import numpy as np

    from mujepa.rollouts.sampling import sample_windows
    from mujepa.rollouts.store import Dataset

    dataset, random = Dataset(Path(folder)), np.random.default_rng(0)

    def work() -> int:
        where = sample_windows(dataset, np.arange(len(dataset)), WINDOWS, frames, random)
        return len(dataset.gather("pixels", *where, frames))

    work()
    return work


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


CASES = {
    "import": imported,
    "collection": collection,
    "data": data,
    "planning": planning,
    "training": training,
    "reading": reading,
}

if __name__ == "__main__":
    keep_freed_memory()  # as the `mujepa` command does
    serve(CASES, versions())
