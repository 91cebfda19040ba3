"""What can be said about a training run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mujepa.agent.actor import ActorConfig
from mujepa.agent.checkpoint import ActorMode
from mujepa.agent.critic import CriticConfig
from mujepa.agent.device import DeviceName
from mujepa.agent.ensemble import EnsembleConfig
from mujepa.agent.jepa import JEPAConfig
from mujepa.envs.names import folder_name
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.planners import PlannerConfig
from mujepa.rollouts.remote import is_url
from mujepa.runtime.cluster import check_cluster
from mujepa.runtime.errors import UserError
from mujepa.training.frozen_losses import ActorLossConfig, CriticLossConfig
from mujepa.training.losses import LossConfig
from mujepa.training.schedule import online_share

LARGEST_SEED = 2**32 - 1
ONLINE = {
    "online_rounds": 6, "online_episodes": 40, "explore": 0.0, "then_vary": (), "then_at": None,
}  # fmt: skip
"""Settings of `--online`, with their defaults."""


@dataclass(frozen=True)
class TrainConfig:
    """Train an agent on a task, from pixels.

    Collects experience first if there is none. The folder --out then holds the checkpoints `best`
    and `last`, metrics.jsonl and train.json; `mujepa evaluate OUT` judges the best one.
    """

    task: Annotated[str, tyro.conf.Positional]
    """Name of the task: `reacher`, `dm_control:reacher-easy`, or a MuJoCo file of your own."""
    out: Path
    """Folder of the run."""
    data: str | None = None
    """Folder of the dataset, collected if it is not there; by default data/TASK-seedSEED, or
    data/TASK-seedSEED-varied. Or the URL of one, such as s3://bucket/reacher: docs/data.md."""
    episodes: int | None = None
    """Episodes that the dataset must hold; what it lacks is collected, all of it is used. By
    default as many as the task asks for, 2000 as a rule."""
    workers: int = 0
    """Processes that collect; 0 for one per core."""
    vary: tuple[str, ...] = ()
    """What differs from episode to episode of the data, NAME=LOW:HIGH or NAME=VALUE, such as
    `mass=0.5:2 light=0.3:1`; `mujepa envs TASK` lists the factors."""
    world_model: Path | None = None
    """Checkpoint or run whose world model is kept; only what comes after it is trained, for example
    with another critic, cost or actor."""
    seed: int = 0
    """Seed of weights, batches and new data: same seed, same machine, same agent."""
    updates: int = 2000
    """Updates of the world model."""
    predictor_updates: int = 0
    """Further updates of the predictor alone, on the embeddings of the encoder that is then frozen:
    without an image to read, they are cheap where the predictor is narrow."""
    predictor_batch: int = 256
    """Windows per update of the predictor alone."""
    critic_updates: int = 2500
    """Updates of the critic."""
    ensemble_updates: int = 2000
    """Updates of the ensemble, which knows where the world model knows little."""
    actor_updates: int = 1000
    """Updates of the reactive actor."""
    online: bool = False
    """Learn from experience, in rounds: act, add what happened to the data, learn on, be judged.
    The rounds share the updates in proportion to their data; the first learns from --episodes of
    random actions, by default as many as --online-episodes, above 100 in whole hundreds. Data are
    in OUT/data, the curve is in online.json."""
    online_rounds: int = 6
    """With --online: rounds."""
    online_episodes: int = 40
    """With --online: episodes that the agent lives through in each round, with starts and goals as
    the task draws them."""
    explore: float = 0.0
    """With --online: weight of curiosity while it lives, against the cost: what the ensemble
    disagrees on attracts."""
    then_vary: tuple[str, ...] = ()
    """With --online: the world changes to this, as --vary has it, from round --then-at on."""
    then_at: int | None = None
    """With --online: the round, from 1 on, in which the world changes to --then-vary."""
    minutes: float | None = None
    """Stop earlier, after so many minutes; the result then depends on the machine's speed."""
    batch: int = 128
    """Windows per update of the world model."""
    rollout: int = 4
    """Model steps predicted open loop in training."""
    learning_rate: float = 2e-3
    """Highest learning rate of the world model; it warms up and then falls as a cosine."""
    critic_batch: int = 1024
    """Pairs per update of the critic."""
    critic_learning_rate: float = 1e-3
    """Highest learning rate of critic, ensemble and actor."""
    actor_batch: int = 256
    """Problems per update of the actor."""
    imagined: float = 0.5
    """Share of the critic's starting points that the world model imagines instead of seeing."""
    validation: float = 0.02
    """Share of the episodes held out for the diagnostics."""
    checkpoint_every: int = 250
    """Updates between diagnostics and checkpoints."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Also log to Weights & Biases; offline needs no account."""
    resume: bool = False
    """Go on where the run in --out stopped; the result is that of an uninterrupted run."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = 0
    """Threads that compute on the CPU, 0 for one per core; results repeat for equal numbers."""
    cluster: str | None = None
    """Collect and train on a cluster of Ray: `local`, `auto` or `ray://HOST:PORT` (docs/scale.md);
    data and --out have to be on a disk that its machines share. A worker that is lost is replaced
    by one that resumes."""
    processes: int = 1
    """With --cluster: processes that train the one model together, through Ray Train; without it
    `torchrun` says how many (docs/scale.md)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the products in the networks while they learn; bfloat16 is for accelerators."""
    jepa: JEPAConfig = field(default_factory=JEPAConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    critic_loss: CriticLossConfig = field(default_factory=CriticLossConfig)
    actor_loss: ActorLossConfig = field(default_factory=ActorLossConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    cost: str = "auto"
    """What planner and actor will minimise, for example `critic + 0.05*goal`; auto measures it: the
    critic, unless latent distance or a mixture ranks candidates clearly better."""
    mode: ActorMode = "proposing"
    """Who will act: the planner alone, the planner with the actor's proposals, the actor alone."""
    goal_site: str | None = None
    """For a MuJoCo file: the site whose position is the goal; by default its only one."""
    camera: str | None = None
    """For a MuJoCo file: its camera to look through; by default its first, or one that sees all."""
    tolerance: float | None = None
    """For a MuJoCo file: how near the goal counts as reached [m]; by default 5 % of its size."""

    def __post_init__(self) -> None:
        if self.episodes is not None and self.episodes < 1:
            raise UserError(f"--episodes must be at least 1, got {self.episodes}")
        for name in (
            "updates",
            "critic_updates",
            "ensemble_updates",
            "actor_updates",
            "batch",
            "rollout",
            "predictor_batch",
            "critic_batch",
            "actor_batch",
            "checkpoint_every",
            "processes",
        ):
            if getattr(self, name) < 1:
                raise UserError(
                    f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}"
                )
        for name in ("seed", "threads", "workers", "predictor_updates"):
            if getattr(self, name) < 0:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} must not be negative, got {getattr(self, name)}")
        if self.seed > LARGEST_SEED:
            raise UserError(f"--seed must be at most {LARGEST_SEED}, got {self.seed}")
        for name, value in numbers(asdict(self)):
            if not math.isfinite(value) and name != "tolerance":  # the task itself says more
                raise UserError(f"--{name} must be finite, got {value}")
        for name in ("learning_rate", "critic_learning_rate"):
            if not getattr(self, name) > 0:
                raise UserError(
                    f"--{name.replace('_', '-')} must be positive, got {getattr(self, name)}"
                )
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"--minutes must be positive, got {self.minutes}")
        if not 0 <= self.imagined <= 1 or not 0 < self.validation < 1:
            raise UserError(
                f"--imagined {self.imagined} and --validation {self.validation} must be shares, "
                "from 0 to 1"
            )
        if self.critic_loss.bellman and self.imagined * self.critic_batch >= (
            self.critic_batch - 1
        ):
            raise UserError(
                "--critic-loss.bellman learns from steps that were seen, of which --imagined "
                f"{self.imagined} leaves none; lower it"
            )
        check_cluster(self.cluster)
        if self.processes > 1 and self.cluster is None:
            raise UserError(
                f"--processes {self.processes} needs --cluster; without one: torchrun "
                f"--nproc-per-node {self.processes} train.py {self.task} ..."
            )
        read_variation(self.vary)
        read_variation(self.then_vary)
        self._check_online()

    def _check_online(self) -> None:
        changed = [name for name, default in ONLINE.items() if getattr(self, name) != default]
        if changed and not self.online:
            raise UserError(f"--{changed[0].replace('_', '-')} says how to learn --online; add it")
        if not self.online:
            return
        if self.online_rounds < 1 or self.online_episodes < 2:
            raise UserError(
                f"--online-rounds {self.online_rounds} must be at least 1 and --online-episodes "
                f"{self.online_episodes} at least 2"
            )
        if not self.explore >= 0:
            raise UserError(f"--explore must not be negative, got {self.explore}")
        if self.explore and self.mode == "reactive":
            raise UserError("--explore has no part in what --mode reactive does; leave it out")
        if bool(self.then_vary) != (self.then_at is not None):
            raise UserError("--then-vary says what changes and --then-at when: give both or none")
        if self.then_at is not None and not 1 <= self.then_at < self.online_rounds:
            raise UserError(
                f"--then-at must be a round from 1 to {self.online_rounds - 1}, got {self.then_at}"
            )
        for flag, given in (
            ("--world-model", self.world_model is not None),
            ("--wandb", self.wandb != "off"),
            ("--cluster", self.cluster is not None),
            (f"--data {self.data}, to which nothing can be added", is_url(self.data)),
        ):
            if given:
                raise UserError(f"--online does not go with {flag}; leave out one of the two")
        fewest = min(self.updates, self.ensemble_updates, self.critic_updates, self.actor_updates)
        if not online_share(fewest, 0, self.online_rounds):
            raise UserError(
                f"--online-rounds {self.online_rounds} cannot share {fewest} updates; "
                "every stage needs at least one in each round"
            )

    def flags(self) -> tuple[str, ...]:
        """Return the flags that the task's physics asks for; those of the user come after them."""
        return find_task(self.task_name).recipe

    @property
    def dataset(self) -> Path | str:
        """Folder of the dataset, or its URL."""
        if self.data:
            return str(self.data).rstrip("/") if is_url(self.data) else Path(self.data)
        if self.online:
            return self.out / "data"
        varied = "-varied" if self.vary else ""
        return Path("data") / f"{folder_name(self.task_name)}-seed{self.seed}{varied}"

    @property
    def stage_updates(self) -> dict[str, int]:
        """Updates of each stage that there is, by its name, in their order."""
        return {
            "world model": self.updates,
            **({"predictor": self.predictor_updates} if self.predictor_updates else {}),
            "ensemble": self.ensemble_updates,
            "critic": self.critic_updates,
            "actor": self.actor_updates,
        }

    @property
    def first_episodes(self) -> int | None:
        """Episodes to collect with random actions; None for as many as the task asks for."""
        return self.episodes or (self.online_episodes if self.online else None)

    @property
    def task_name(self) -> str:
        """The task's whole name, with its settings."""
        return find_task(self.task, self.goal_site, self.camera, self.tolerance).name

    def settings(self) -> dict[str, Any]:
        """Return the settings as train.json has them: what is learned, and not where.

        Newer ones are there only where they say something.
        """
        settings: dict[str, Any] = asdict(self)
        settings["data"] = self.data and str(self.dataset)
        del (
            settings["cluster"],
            settings["processes"],
        )
        silent = {"vary": (), "precision": "float32"}
        silent |= {} if self.online else {"online": False, **ONLINE}
        silent |= {} if self.predictor_updates else {"predictor_updates": 0, "predictor_batch": 256}
        return {k: v for k, v in settings.items() if k not in silent or v != silent[k]}

    def check_shares(self, processes: int) -> None:
        """Check that every batch can be shared by so many processes.

        Raises:
            UserError: one cannot.
        """
        used = ("predictor_batch",) if self.predictor_updates else ()
        for name in ("batch", "critic_batch", "actor_batch", *used):
            if getattr(self, name) % processes:
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)} cannot be shared equally by "
                    f"{processes} processes; take a multiple of {processes}"
                )


def numbers(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield the real numbers in settings, each with the name of its flag."""
    for name, value in settings.items():
        flag = above + name.replace("_", "-")
        if isinstance(value, dict):
            yield from numbers(value, f"{flag}.")
        elif isinstance(value, float):
            yield flag, value
