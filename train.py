"""Train an agent: collect experience if there is none, learn the world model and what uses it."""

from __future__ import annotations

import sys

import torch

from mujepa import processes
from mujepa.agent.checkpoint import find_checkpoint
from mujepa.agent.device import choose_device
from mujepa.cli import run
from mujepa.collect import CollectConfig, collect
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.errors import UserError
from mujepa.learning.config import TrainConfig
from mujepa.learning.experience import load_experience
from mujepa.learning.online import Online
from mujepa.learning.progress import check_settings
from mujepa.learning.training import Training, make_networks
from mujepa.rollouts.store import read_meta


def train(config: TrainConfig) -> None:
    """Run the training that a configuration describes; see `mujepa train --help`.

    Under `torchrun`, together with its other processes: docs/scale.md.

    Raises:
        UserError: bad input, a full disk, or a loss that is not finite.
    """
    with processes.together():
        _train(config)


def _train(config: TrainConfig) -> None:
    config.check_shares(processes.count())
    if config.online and processes.count() > 1:
        raise UserError("--online learns in one process; start it without torchrun")
    make_networks(config, World(find_task(config.task_name)))
    # What cannot be is said before anything is written.
    device = choose_device(config.device, processes.local_rank())
    if config.world_model:
        find_checkpoint(config.world_model)
    if processes.rank() == 0:
        check_settings(config.out, config.settings(), resume=config.resume)
        collect(_collection(config))
    processes.wait()
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.online:
        Online(config, device).run()
        return
    observes, horizon = config.jepa.encoder.observes, config.planner.horizon
    experience = load_experience(
        config.dataset, config.validation, config.seed, device, observes, horizon
    )
    Training(config, experience).run()


def _collection(config: TrainConfig) -> CollectConfig:
    """Return what to collect: what a dataset that is there was collected with, or the default."""
    steps, seed, vary = None, config.seed, config.vary
    if (config.dataset / "meta.json").exists():
        recipe, _ = read_meta(config.dataset)
        steps, seed = recipe.steps, recipe.seed
        there = read_variation(recipe.variation)
        vary = vary or (there.flags() if there else ())
    return CollectConfig(
        config.task_name, config.dataset, config.first_episodes, steps, config.workers, seed, vary
    )


if __name__ == "__main__":
    sys.exit(run(train, TrainConfig))
