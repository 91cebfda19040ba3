"""Train an agent: collect experience if there is none, learn the world model and what uses it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from mujepa.agent.actor import ActorConfig
from mujepa.agent.checkpoint import AgentConfig, Mode, Networks, save_checkpoint
from mujepa.agent.critic import CriticConfig
from mujepa.agent.device import DeviceName, choose_device
from mujepa.agent.ensemble import EnsembleConfig
from mujepa.agent.hierarchy import StridesConfig
from mujepa.agent.jepa import JEPAConfig
from mujepa.agent.losses import LossConfig, weighted_sum
from mujepa.cli import run
from mujepa.collect import CollectConfig, collect
from mujepa.envs.names import folder_name
from mujepa.envs.registry import find_task, named_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.errors import UserError
from mujepa.files import surviving_folder
from mujepa.learning.embedded import Embedded
from mujepa.learning.experience import Experience, load_experience
from mujepa.learning.frozen import ActorStage, CriticStage, EnsembleStage, StridesStage
from mujepa.learning.interruption import Interruption
from mujepa.learning.progress import (
    Metrics,
    Progress,
    check_settings,
    restore_networks,
    restore_optimizer,
    save_progress,
)
from mujepa.learning.schedule import Clock, schedule
from mujepa.learning.stages import Stage, WorldModelStage
from mujepa.planners import PlannerConfig
from mujepa.provenance import command, machine, versions
from mujepa.rollouts.store import read_meta
from mujepa.screen import progress_bar, say

STAGE_SHARE = (0.7, 0.03, 0.15, 0.12, 0.05)
"""Shares of --minutes that world model, ensemble, critic, actor and second level may use."""
ACTOR = 3
"""Index of the actor's stage."""


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
    data: Path | None = None
    """Folder of the dataset, collected if it is not there; by default data/TASK-seedSEED, or
    data/TASK-seedSEED-varied."""
    episodes: int | None = None
    """Episodes that the dataset must hold; what it lacks is collected, all of it is used. By
    default as many as the task asks for, 2000 as a rule."""
    workers: int = 0
    """Processes that collect; 0 for one per core."""
    vary: tuple[str, ...] = ()
    """What differs from episode to episode of the data, NAME=LOW:HIGH or NAME=VALUE, such as
    `mass=0.5:2 light=0.3:1`; `mujepa envs TASK` lists the factors."""
    seed: int = 0
    """Seed of weights, batches and new data: same seed, same machine, same agent."""
    updates: int = 2000
    """Updates of the world model."""
    critic_updates: int = 2500
    """Updates of the critic."""
    ensemble_updates: int = 2000
    """Updates of the ensemble, which knows where the world model knows little."""
    actor_updates: int = 1000
    """Updates of the reactive actor."""
    strides_updates: int = 3000
    """Updates of the second level, if there is one (`--strides.ahead`)."""
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
    jepa: JEPAConfig = field(default_factory=JEPAConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    strides: StridesConfig = field(default_factory=StridesConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    cost: str = "critic"
    """What planner and actor will minimise, for example `critic + 0.05*goal`."""
    mode: Mode = "proposing"
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
            "strides_updates",
            "batch",
            "rollout",
            "critic_batch",
            "actor_batch",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise UserError(
                    f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}"
                )
        for name in ("seed", "threads", "workers"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} must not be negative, got {getattr(self, name)}")
        for name in ("learning_rate", "critic_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(
                    f"--{name.replace('_', '-')} must be positive, got {getattr(self, name)}"
                )
        if not all(math.isfinite(weight) for weight in self.loss.weights().values()):
            raise UserError(f"weights of the loss must be finite, got {self.loss.weights()}")
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"--minutes must be positive, got {self.minutes}")
        if not 0 <= self.imagined <= 1 or not 0 < self.validation < 1:
            raise UserError(
                f"--imagined {self.imagined} and --validation {self.validation} must be shares, "
                "from 0 to 1"
            )
        read_variation(self.vary)

    def flags(self) -> tuple[str, ...]:
        """Return the flags that the task's physics asks for; those of the user come after them."""
        return find_task(self.task_name).recipe

    @property
    def dataset(self) -> Path:
        """Folder of the dataset."""
        varied = "-varied" if self.vary else ""
        name = f"{folder_name(self.task_name)}-seed{self.seed}{varied}"
        return self.data or Path("data") / name

    @property
    def task_name(self) -> str:
        """The task's whole name, with its settings."""
        return named_task(self.task, self.goal_site, self.camera, self.tolerance)

    def settings(self) -> dict[str, Any]:
        """Return the settings as train.json has them; `vary` only where something varies."""
        settings = asdict(self)
        return settings if self.vary else {k: v for k, v in settings.items() if k != "vary"}


def train(config: TrainConfig) -> None:
    """Run the training that a configuration describes; see `mujepa train --help`.

    Raises:
        UserError: bad input, a full disk, or a loss that is not finite.
    """
    find_task(config.task_name)
    device = choose_device(config.device)
    check_settings(config.out, config.settings(), resume=config.resume)
    collect(_collection(config))
    if config.threads:
        torch.set_num_threads(config.threads)
    experience = load_experience(
        config.dataset, config.validation, config.seed, device, config.jepa.encoder.observes
    )
    Training(config, experience).run()


class Training:
    """One run: the networks, the stages that they go through, and the records that are kept."""

    def __init__(self, config: TrainConfig, experience: Experience) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.experience = experience
        self.agent_config = _agent_config(config, experience.world)
        try:
            self.networks = Networks(self.agent_config).to(experience.device)
        except ValueError as error:
            raise UserError(str(error)) from error
        self.networks.cost(config.cost)  # an unknown term is said now, not hours later
        embedded = Embedded(experience, self.networks.jepa)
        self.resumed = config.resume and surviving_folder(config.out / "last").exists()
        self.progress = Progress()
        if self.resumed:
            digest = experience.dataset.digest
            self.progress = restore_networks(config.out, self.networks, digest)
        self.metrics = Metrics(
            config.out, self.progress if self.resumed else None, config.wandb, config.settings()
        )
        self.stages: list[Stage] = [
            WorldModelStage(
                experience, self.networks, config.loss, updates=config.updates, batch=config.batch,
                rollout=config.rollout, learning_rate=config.learning_rate,
            ),
            EnsembleStage(
                embedded, self.networks, updates=config.ensemble_updates, batch=config.batch,
                learning_rate=config.critic_learning_rate, cost=config.cost,
            ),
            CriticStage(
                embedded, self.networks, updates=config.critic_updates,
                batch=config.critic_batch, imagined=config.imagined,
                learning_rate=config.critic_learning_rate, cost=config.cost,
            ),
            ActorStage(
                embedded, self.networks, updates=config.actor_updates, batch=config.actor_batch,
                learning_rate=config.critic_learning_rate, cost=config.cost,
                horizon=config.actor.horizon or config.planner.horizon,
            ),
        ]  # fmt: skip
        if config.strides.ahead:
            self.stages.append(
                StridesStage(
                    embedded, self.networks, updates=config.strides_updates,
                    batch=config.actor_batch, learning_rate=config.critic_learning_rate,
                    cost=config.cost,
                )
            )  # fmt: skip

    def run(self) -> None:
        """Go through the stages that are left."""
        try:
            with Interruption() as interruption:
                for index in range(self.progress.stage, len(self.stages)):
                    if not self.progress.finished:
                        self.learn(index, self.stages[index], interruption)
                    if index + 1 < len(self.stages):
                        self.progress = Progress(stage=index + 1, seconds=self.progress.seconds)
        finally:
            self.metrics.close()
        minutes, out = self.progress.seconds / 60, self.config.out
        say(f"trained in {minutes:.1f} min; judge it with: mujepa evaluate {out}")

    def learn(self, index: int, stage: Stage, interruption: Interruption) -> None:
        """THE training loop: draw a batch, compute the terms, step; now and then judge and save."""
        self.networks.eval()
        modules = stage.modules()
        self.networks.requires_grad_(requires_grad=False)  # what is frozen costs no backward pass
        modules.requires_grad_(requires_grad=True)
        optimizer = torch.optim.AdamW(
            modules.parameters(), lr=stage.learning_rate, weight_decay=1e-4
        )
        if self.resumed and self.progress.stage == index and self.progress.update:
            restore_optimizer(self.config.out, modules, optimizer)
        clock = Clock(self.progress, self.config.minutes, STAGE_SHARE[index])
        terms: dict[str, torch.Tensor] = {}
        with progress_bar(stage.updates, stage.name, self.progress.update) as bar:
            while self.progress.update < stage.updates and clock.fraction() < 1:
                update = self.progress.update
                fraction = max(update / stage.updates, clock.fraction())
                for group in optimizer.param_groups:
                    group["lr"] = stage.learning_rate * schedule(update, fraction)
                modules.train()
                terms = stage.terms(update)
                optimizer.zero_grad()
                weighted_sum(terms, stage.weights).backward()
                norm = torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
                self._check_finite(terms | {"gradient": norm}, stage, update)
                optimizer.step()
                self.progress = clock.advance(self.progress)
                bar.update()
                done = self.progress.update
                due = done % self.config.checkpoint_every == 0 and done < stage.updates
                if due or interruption.wanted:
                    self._checkpoint(index, stage, optimizer, terms, judge=due)
                if interruption.wanted:
                    say(f"interrupted; {self.config.out} is usable, and --resume goes on")
                    raise KeyboardInterrupt
        modules.eval()
        stage.finish()
        self.progress = replace(self.progress, finished=True)
        self._checkpoint(index, stage, optimizer, terms, judge=True)

    def _checkpoint(
        self,
        index: int,
        stage: Stage,
        optimizer: torch.optim.Optimizer,
        terms: dict[str, Any],
        *,
        judge: bool,
    ) -> None:
        """Record where the run stands, and save `last`; if judged, also `best` where it is."""
        self.networks.eval()
        learned = index >= ACTOR  # until then the actor knows nothing
        mode = self.config.mode if learned else "planner"
        config = replace(self.agent_config, cost=stage.cost, mode=mode)
        if judge:
            diagnostics = stage.validate()
            self._check_finite(diagnostics, stage, self.progress.update)
            position = {"stage": stage.name, "stage_index": index, "update": self.progress.update}
            losses = {name: value.item() for name, value in terms.items()}
            self.metrics.record(
                position | losses | diagnostics | {"seconds": round(self.progress.seconds, 2)}
            )
            if self.progress.best is None or diagnostics["score"] >= self.progress.best:
                self.progress = replace(self.progress, best=diagnostics["score"])
                save_checkpoint(self.config.out / "best", config, self.networks, self._provenance())
        save_progress(
            self.config.out,
            config,
            self.networks,
            self._provenance(),
            self.progress,
            stage.modules(),
            optimizer,
        )

    def _provenance(self) -> dict[str, Any]:
        return {
            "command": command(),
            "seed": self.config.seed,
            "data": {
                "digest": self.experience.dataset.digest,
                "frames": self.experience.dataset.frames,
            },
            "minutes": round(self.progress.seconds / 60, 2),
            "versions": versions(),
            "machine": machine(),
        }

    def _check_finite(
        self, values: Mapping[str, torch.Tensor | float], stage: Stage, update: int
    ) -> None:
        for name, value in values.items():
            number = torch.as_tensor(value).item()
            if not math.isfinite(number):
                raise UserError(
                    f"training stopped: {name} of the {stage.name} is {number} at update "
                    f"{update}; the last good checkpoint is kept in {self.config.out}; try a "
                    "lower learning rate"
                )


def _collection(config: TrainConfig) -> CollectConfig:
    """Return what to collect: what a dataset that is there was collected with, or the default."""
    steps, seed, vary = None, config.seed, config.vary
    if (config.dataset / "meta.json").exists():
        recipe, _ = read_meta(config.dataset)
        steps, seed = recipe.steps, recipe.seed
        there = read_variation(recipe.variation)
        vary = vary or (there.flags() if there else ())
    return CollectConfig(
        config.task_name, config.dataset, config.episodes, steps, config.workers, seed, vary
    )


def _agent_config(config: TrainConfig, world: World) -> AgentConfig:
    resting = world.state(world.model.qpos0)[None]
    return AgentConfig(
        task=config.task_name,
        observation_shape=world.observe(resting, config.jepa.encoder.observes).shape[1:],
        action_low=tuple(world.action_low.tolist()),
        action_high=tuple(world.action_high.tolist()),
        goal_size=world.goal_size,
        quantities=world.quantities,
        frame_skip=world.task.frame_skip,
        jepa=config.jepa,
        critic=config.critic,
        ensemble=config.ensemble,
        actor=config.actor,
        strides=config.strides,
        planner=config.planner,
        cost=config.cost,
        mode=config.mode,
    )


if __name__ == "__main__":
    sys.exit(run(train, TrainConfig))
