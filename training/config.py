"""Settings of a training run."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tyro
from pydantic import BeforeValidator, Field

from mujepa.agent.actor import ActorConfig
from mujepa.agent.checkpoint import ActorMode
from mujepa.agent.critic import CriticConfig
from mujepa.agent.device import DeviceName
from mujepa.agent.ensemble import EnsembleConfig
from mujepa.agent.jepa import JEPAConfig
from mujepa.envs.names import folder_name
from mujepa.envs.registry import find_task
from mujepa.envs.task import Task
from mujepa.envs.variation import read_variation
from mujepa.planners import PlannerConfig
from mujepa.rollouts.remote import is_url
from mujepa.runtime.cluster import check_cluster
from mujepa.runtime.command import Advanced, Flags, NoFlag
from mujepa.runtime.errors import UserError
from mujepa.runtime.settings import Count, Index, Positive, Seed, Share, settings
from mujepa.training.frozen_losses import ActorLossConfig, CriticLossConfig
from mujepa.training.losses import LossConfig
from mujepa.training.recipes import apply_recipe, override, recipe_of
from mujepa.training.schedule import online_share

JEPA_FLAGS = Flags("encoder.kind", "encoder.dim", "predictor.history", "predictor.width")
LOSS_FLAGS = Flags("sigreg", "variance", "covariance", "inverse_dynamics")
AUTO = "auto"
"""The cost that is chosen by a measurement."""
OWN_DATA = "data:"
"""Prefix of `task` if it names a dataset."""
ONLINE = ("online_rounds", "online_episodes", "then_vary", "then_at")
"""Settings that only `online` uses."""


@settings
class TrainConfig:
    """Train an agent on a task, from pixels.

    Collects a dataset first if there is none. The folder --out then holds the checkpoints `best`
    and `last`, metrics.jsonl and train.json; `mujepa evaluate OUT` evaluates the best one.
    """

    task: Annotated[str, tyro.conf.Positional]
    """Name of the task: `reacher`, `dm_control:reacher-easy`, or a MuJoCo file of your own. Or
    `data:FOLDER`, to train from a dataset without a simulator."""
    out: Path
    """Folder of the run."""
    data: Annotated[str | None, BeforeValidator(lambda it: it and str(it))] = None
    """Folder of the dataset, collected if missing; by default data/TASK-seedSEED, or
    data/TASK-seedSEED-varied. Or its URL, such as s3://bucket/reacher: docs/data.md."""
    episodes: Count | None = None
    """Number of episodes in the dataset; missing ones are collected, all are used. By default the
    task's, usually 2000."""
    workers: Index = 0
    """Processes that collect; 0 for one per core."""
    vary: tuple[str, ...] = ()
    """What differs between episodes of the dataset, NAME=LOW:HIGH or NAME=VALUE, such as
    `mass=0.5:2 light=0.3:1`; `mujepa envs TASK` lists the factors."""
    image_size: Count | None = None
    """Width and height of the images [pixels]; by default those of the dataset, or 64."""
    world_model: Path | None = None
    """Checkpoint or run whose world model is kept: only the later stages are trained."""
    seed: Seed = 0
    """Seed of weights, batches and new data: same seed, same machine, same agent."""
    updates: Count = 2000
    """Updates of the world model."""
    predictor_updates: Advanced[Index] = 0
    """Further updates of the predictor alone, on the embeddings of the frozen encoder: cheap, as no
    image is read."""
    critic_updates: Count = 2500
    """Updates of the critic."""
    ensemble_updates: Count = 2000
    """Updates of the ensemble, which estimates where the world model is uncertain."""
    actor_updates: Count = 1000
    """Updates of the reactive actor."""
    online: bool = False
    """Train in rounds: collect with the agent, add the episodes to the data, train on, evaluate.
    The first round collects --episodes with the behaviour policy (default: --online-episodes). Data
    are in OUT/data, the learning curve in online.json."""
    online_rounds: Count = 6
    """With --online: number of rounds."""
    online_episodes: Annotated[int, Field(ge=2)] = 40
    """With --online: episodes that the agent collects in each round."""
    then_vary: NoFlag[tuple[str, ...]] = ()
    """With --online: variation of the world from round `then_at` on."""
    then_at: NoFlag[Count | None] = None
    """With --online: the round in which the world changes to `then_vary`."""
    minutes: Positive | None = None
    """Stop earlier, after this many minutes; the result then depends on the machine's speed."""
    batch: Count = 128
    """Windows per update of the world model."""
    rollout: NoFlag[Count] = 4
    """Model steps predicted open loop in training."""
    learning_rate: Positive = 2e-3
    """Peak learning rate of the world model (linear warm-up, cosine decay)."""
    predictor_batch: NoFlag[Count] = 256
    """Windows per update of the predictor alone."""
    critic_batch: NoFlag[Count] = 1024
    """Pairs per update of the critic."""
    actor_batch: NoFlag[Count] = 256
    """Pairs of a frame and a goal per update of the actor."""
    critic_learning_rate: NoFlag[Positive] = 1e-3
    """Highest learning rate of the later stages."""
    imagined: NoFlag[Share] = 0.5
    """Share of the critic's starts that are predicted by the world model, not seen."""
    validation: Advanced[Annotated[float, Field(gt=0, lt=1)]] = 0.02
    """Share of the episodes held out for diagnostics."""
    checkpoint_every: Advanced[Count] = 250
    """Updates between diagnostics and checkpoints."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Also log to Weights & Biases; offline needs no account."""
    resume: bool = False
    """Continue the run in --out; the result is that of an uninterrupted run."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: Index = 0
    """CPU threads, 0 for one per core; results are reproducible with the same number."""
    cluster: str | None = None
    """Collect and train on a Ray cluster: `local`, `auto` or `ray://HOST:PORT` (docs/scale.md);
    data and --out must be on a disk that its machines share. A lost worker is replaced by one that
    resumes."""
    processes: Advanced[Count] = 1
    """With --cluster: processes that train one model together. Without: use torchrun."""
    precision: Advanced[Literal["float32", "bfloat16"]] = "float32"
    """Precision of matrix products in training; bfloat16 is for accelerators."""
    jepa: Advanced[Annotated[JEPAConfig, JEPA_FLAGS]] = JEPAConfig()
    loss: Advanced[Annotated[LossConfig, LOSS_FLAGS]] = LossConfig()
    critic: Advanced[Annotated[CriticConfig, Flags("history")]] = CriticConfig()
    critic_loss: NoFlag[CriticLossConfig] = CriticLossConfig()
    ensemble: NoFlag[EnsembleConfig] = EnsembleConfig()
    actor: NoFlag[ActorConfig] = ActorConfig()
    actor_loss: NoFlag[ActorLossConfig] = ActorLossConfig()
    planner: Advanced[Annotated[PlannerConfig, Flags("horizon", "samples")]] = PlannerConfig()
    cost: str = "auto"
    """What planner and actor minimise, for example `critic + 0.05*goal`; auto chooses by a
    measurement: the critic, unless latent distance or a mixture ranks candidates clearly better."""
    mode: ActorMode = "proposing"
    """Who acts: the planner alone, the planner with the actor's proposals, or the actor alone."""
    goal_site: str | None = None
    """For a MuJoCo file: the site whose position is the goal; by default its only one."""
    camera: str | None = None
    """For a MuJoCo file: the observation camera; by default its first, or one that shows all."""
    tolerance: float | None = None
    """For a MuJoCo file: distance at which the goal counts as reached [m]; by default 5 % of the
    model's size."""
    recipe: NoFlag[bool] = True
    """Apply the task's recipe (training/recipes.py) to settings that were not given."""

    def __post_init__(self) -> None:
        if self.critic_loss.bellman and self.imagined * self.critic_batch >= self.critic_batch - 1:
            raise UserError(
                f"the critic's term bellman needs starts that were seen, and imagined "
                f"{self.imagined} leaves none; lower it"
            )
        check_cluster(self.cluster)
        if self.processes > 1 and self.cluster is None:
            raise UserError(
                f"--processes {self.processes} needs --cluster; without one: torchrun "
                f"--nproc-per-node {self.processes} train.py {self.task} ..."
            )
        if self.own_data and self.data:
            raise UserError(f"{self.task} names the dataset already; leave --data out")
        if self.own_data and (self.online or self.vary):
            flag = "--online" if self.online else "--vary"
            raise UserError(f"{flag} needs a simulator, and {self.task} has none; name a task")
        read_variation(self.vary)
        read_variation(self.then_vary)
        self._check_online()

    def _check_online(self) -> None:
        if not self.online:
            for name in ONLINE:
                if getattr(self, name) != default_settings()[name]:
                    raise UserError(f"--{name.replace('_', '-')} needs --online; add it")
            return
        rounds = self.online_rounds
        if bool(self.then_vary) != (self.then_at is not None):
            raise UserError("then_vary and then_at belong together: give both or none")
        if self.then_at is not None and self.then_at >= rounds:
            raise UserError(f"then_at must be a round from 1 to {rounds - 1}, got {self.then_at}")
        for flag, given in (
            ("--world-model", self.world_model is not None),
            ("--wandb", self.wandb != "off"),
            ("--cluster", self.cluster is not None),
            (f"--data {self.data}, to which nothing can be added", is_url(self.data)),
        ):
            if given:
                raise UserError(f"--online does not go with {flag}; leave out one of the two")
        fewest = min(self.updates, self.ensemble_updates, self.critic_updates, self.actor_updates)
        if not online_share(fewest, 0, rounds):
            raise UserError(
                f"--online-rounds {rounds} cannot share {fewest} updates; "
                "every stage needs at least one in each round"
            )

    @property
    def own_data(self) -> bool:
        """Whether `task` names a dataset, so that there is no simulator."""
        return self.task.startswith(OWN_DATA)

    @property
    def dataset(self) -> Path | str:
        """Folder of the dataset, or its URL."""
        place = self.task.removeprefix(OWN_DATA) if self.own_data else self.data
        if place:
            return place.rstrip("/") if is_url(place) else Path(place)
        if self.online:
            return self.out / "data"
        varied = "-varied" if self.vary else ""
        return Path("data") / f"{folder_name(self.task_name)}-seed{self.seed}{varied}"

    @property
    def task_name(self) -> str:
        """The task's whole name, with its settings."""
        return find_task(self.task, self.goal_site, self.camera, self.tolerance).name

    def find_task(self) -> Task | None:
        """Return the task; None for `data:FOLDER`."""
        if self.own_data:
            return None
        return find_task(self.task, self.goal_site, self.camera, self.tolerance)

    def defaults(self) -> Self:
        """Return the defaults for this task: what the command line starts from."""
        return replace(self, **default_settings()).resolved()

    def resolved(self) -> Self:
        """Return the settings with the task's recipe applied."""
        task = self.find_task() if self.recipe else None
        return replace(apply_recipe(self, recipe_of(task)) if task else self, recipe=False)

    @classmethod
    def create(cls, task: str, out: Path, **given: Any) -> Self:  # noqa: ANN401 - its fields
        """Return the settings of a task: those given, then its recipe's, then the defaults.

        A group of settings, such as `planner`, is given whole or as a mapping of some of them.
        """
        of_file = {"goal_site", "camera", "tolerance"} & given.keys()
        start = cls(task=task, out=out, **{name: given[name] for name in of_file})
        return override(start.resolved(), given)

    def settings(self) -> dict[str, Any]:
        """Return the settings as train.json has them: without those that say where to compute."""
        values = asdict(self) | {"data": self.data and str(self.dataset)}
        del values["cluster"], values["processes"]
        return values

    def check_shares(self, processes: int) -> None:
        """Raise UserError unless every batch can be shared equally by the processes."""
        used = ("predictor_batch",) if self.predictor_updates else ()
        for name in ("batch", "critic_batch", "actor_batch", *used):
            if getattr(self, name) % processes:
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)} cannot be shared equally by "
                    f"{processes} processes; take a multiple of {processes}"
                )


def default_settings() -> dict[str, Any]:
    """Return the default values of all settings that have one."""
    return {it.name: it.default for it in fields(TrainConfig) if it.default is not MISSING}
