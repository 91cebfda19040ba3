"""Train an agent: collect a dataset if there is none, train the world model and what uses it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import mujepa
from mujepa.agent.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from mujepa.agent.device import choose_device
from mujepa.runtime import distributed
from mujepa.runtime.cluster import Cluster, connect
from mujepa.runtime.command import make_callable, run
from mujepa.runtime.errors import UserError
from mujepa.training.config import TrainConfig
from mujepa.training.losses import ExtraTerm
from mujepa.training.progress import check_settings
from mujepa.training.run import check_networks, learn, learn_on, prepare_dataset


def train(config: TrainConfig, extra_terms: Sequence[ExtraTerm] = ()) -> Checkpoint:
    """Train an agent, and return its best checkpoint; see `mujepa train --help`.

    Settings that were not given are those of the task's recipe. Under `torchrun`, trains together
    with its other processes: docs/scale.md. An experiment can add terms to the world model's loss.

    Raises:
        UserError: bad input, a full disk, or a loss that is not finite.
    """
    with distributed.together():
        config = config.resolved()
        _check(config)
        with connect(config.cluster, config.workers) as workers:
            if distributed.rank() == 0:
                check_settings(config.out, config.settings(), resume=config.resume)
                prepare_dataset(config)
            distributed.wait()
            if isinstance(workers, Cluster):
                learn_on(workers, config)
            else:
                learn(config, extra_terms=extra_terms)
        return load_checkpoint(config.out, "cpu" if config.cluster else config.device)


def _check(config: TrainConfig) -> None:
    config.check_shares(max(distributed.count(), config.processes))
    if config.online and distributed.count() > 1:
        raise UserError("--online trains in one process; start it without torchrun")
    check_networks(config)
    if config.cluster is None:
        choose_device(config.device, distributed.local_rank())
    elif distributed.count() > 1:
        raise UserError("torchrun starts its own processes; leave --cluster out")
    if config.world_model:
        find_checkpoint(config.world_model)


make_callable(__name__, mujepa.train)

if __name__ == "__main__":
    sys.exit(run(train, TrainConfig))
