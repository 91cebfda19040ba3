"""One training run: its networks, the stages that they go through, and the records it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mujepa.agent.checkpoint import AgentConfig, Checkpoint, Networks, save_checkpoint
from mujepa.runtime import console, distributed
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, surviving_folder
from mujepa.runtime.provenance import command, machine, versions
from mujepa.training.data import TrainingData
from mujepa.training.frozen_stages import ActorStage, CriticStage, EnsembleStage
from mujepa.training.interruption import Interruption
from mujepa.training.latent_dataset import LatentDataset
from mujepa.training.losses import ExtraTerm, weighted_sum
from mujepa.training.predictor_stage import PredictorStage
from mujepa.training.schedule import Clock, schedule
from mujepa.training.stages import COSTS, Stage, WorldModelStage, choose_cost, judge_cost
from mujepa.training.state import (
    Metrics,
    Progress,
    adopt_world_model,
    restore_networks,
    restore_optimizer,
    save_progress,
)

if TYPE_CHECKING:
    from mujepa.envs.world import World
    from mujepa.training.config import TrainConfig

STAGE_SHARE = {
    "world model": 0.7, "predictor": 0.2, "ensemble": 0.03, "critic": 0.15, "actor": 0.12,
}  # fmt: skip
"""Of --minutes for each stage that runs, by its name, relative to the others."""
AUTO = "auto"
"""The cost that is chosen by a measurement."""


class Training:
    """One run: the networks, the stages that they go through, and the records that are kept.

    Args:
        config: of the run.
        experience: what is learned from.
        on_record: told of each record once the checkpoint beside it is written.
        extra_terms: of the world model's loss, by an experiment.
    """

    def __init__(
        self,
        config: TrainConfig,
        experience: TrainingData,
        on_record: Callable[[dict[str, Any]], object] = lambda record: None,
        extra_terms: Sequence[ExtraTerm] = (),
    ) -> None:
        torch.manual_seed(config.seed)
        self._on_record = on_record
        self.config = config
        self.experience = experience
        self.agent_config, self.networks = make_networks(config, experience.world)
        self.networks.to(experience.device)
        self.ranks: dict[str, float] = {}
        embedded = LatentDataset(experience, self.networks.jepa)
        self.resumed = config.resume and surviving_folder(config.out / "last").exists()
        self.progress = Progress()
        self.adopted: dict[str, Any] | None = None
        if self.resumed:
            digest = experience.dataset.digest
            self.progress = restore_networks(config.out, self.networks, digest)
            made = surviving_folder(config.out / "last") / "provenance.json"
            self.adopted = read_json(made, "train anew").get("world_model")
        elif config.world_model:
            self.progress, self.adopted = adopt_world_model(
                config.world_model, self.agent_config, self.networks
            )
        self.metrics = None
        if distributed.rank() == 0:
            before = self.progress if self.resumed else None
            self.metrics = Metrics(config.out, before, config.wandb, config.settings())
        cost = "critic" if config.cost == AUTO else config.cost
        rate = config.critic_learning_rate
        self.stages: list[Stage] = [
            WorldModelStage(
                experience, self.networks, config.loss, extra_terms, updates=config.updates,
                batch=config.batch, rollout=config.rollout, learning_rate=config.learning_rate,
            ),
            *self._refinement(embedded),
            EnsembleStage(
                embedded, self.networks, updates=config.ensemble_updates, batch=config.batch,
                learning_rate=rate, cost=cost,
            ),
            CriticStage(
                embedded, self.networks, updates=config.critic_updates, batch=config.critic_batch,
                learning_rate=rate, cost=cost, loss=config.critic_loss, imagined=config.imagined,
            ),
            ActorStage(
                embedded, self.networks, updates=config.actor_updates, batch=config.actor_batch,
                learning_rate=rate, cost=cost, loss=config.actor_loss,
                horizon=config.actor_loss.horizon or config.planner.horizon,
            ),
        ]  # fmt: skip

    def _refinement(self, embedded: LatentDataset) -> list[Stage]:
        """Return the stage of the predictor alone, if it is asked for."""
        config = self.config
        if not config.predictor_updates:
            return []
        # Windows as long as plans, as far as episodes reach; the world model's are known to fit.
        longest = int(embedded.lengths.max()) - config.jepa.predictor.history
        stage = PredictorStage(
            embedded, self.networks, updates=config.predictor_updates, batch=config.predictor_batch,
            learning_rate=config.critic_learning_rate, cost="goal",
            rollout=max(config.rollout, min(config.planner.horizon, longest)),
        )  # fmt: skip
        return [stage]

    @property
    def _actor(self) -> int:
        """Index of the actor's stage, before which the actor knows nothing."""
        return [stage.name for stage in self.stages].index("actor")

    def run(self) -> None:
        """Go through the stages that are left, and say that it is done."""
        self.learn_stages()
        minutes, out = self.progress.seconds / 60, self.config.out
        console.print(f"trained in {minutes:.1f} min; judge it with: mujepa evaluate {out}")

    def learn_stages(self) -> None:
        """Go through the stages that are left."""
        try:
            with Interruption() as interruption:
                for index in range(self.progress.stage, len(self.stages)):
                    if index >= self._actor and self.config.cost == AUTO and not self.ranks:
                        self._choose_cost()
                    if not self.progress.finished:
                        self.learn(index, self.stages[index], interruption)
                    if index + 1 < len(self.stages):
                        self.progress = Progress(stage=index + 1, seconds=self.progress.seconds)
        finally:
            if self.metrics:
                self.metrics.close()

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
        distributed.copy_first(self.networks, modules)
        begun = self.stages[1:] if self.adopted else self.stages
        share = STAGE_SHARE[stage.name] / sum(STAGE_SHARE[other.name] for other in begun)
        clock = Clock(self.progress, self.config.minutes, share)
        terms: Mapping[str, torch.Tensor] = {}
        device, lower = self.experience.device, self.config.precision == "bfloat16"
        with console.progress_bar(stage.updates, stage.name, self.progress.update) as bar:
            while self.progress.update < stage.updates:
                update, gone = self.progress.update, distributed.largest(clock.fraction())
                if gone >= 1:
                    break
                fraction = max(update / stage.updates, gone)
                rate = stage.learning_rate * schedule(update, stage.updates, fraction)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                modules.train()
                with torch.autocast(device.type, torch.bfloat16, enabled=lower):
                    terms = stage.terms(update)
                optimizer.zero_grad()
                weighted_sum(terms, stage.weights).backward()
                distributed.average_gradients(modules.parameters())
                terms = distributed.averages(terms)
                norm = torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
                self._check_finite({**terms, "gradient": norm}, stage, update)
                optimizer.step()
                self.progress = clock.advance(self.progress)
                bar.update()
                done = self.progress.update
                due = done % self.config.checkpoint_every == 0 and done < stage.updates
                interrupted = distributed.largest(interruption.wanted)
                if due or interrupted:
                    self._checkpoint(index, stage, optimizer, terms, judge=due)
                if interrupted:
                    console.print(f"interrupted; {self.config.out} is usable, and --resume goes on")
                    raise KeyboardInterrupt
        modules.eval()
        stage.finish()
        self.progress = replace(self.progress, finished=True)
        self._checkpoint(index, stage, optimizer, terms, judge=True)

    def _choose_cost(self) -> None:
        """Measure what the later stages and the agent are to minimise, the critic being learned."""
        self.networks.eval()
        trials = self.experience.trials
        self.ranks = {
            cost: round(distributed.largest(judge_cost(trials, self.networks, cost)), 3)
            for cost in COSTS
        }
        chosen = choose_cost(self.ranks)
        for stage in self.stages[self._actor :]:
            stage.cost = chosen
        ranks = ", ".join(f"{cost} {rank:.2f}" for cost, rank in self.ranks.items())
        console.print(f"cost: {chosen} (rank correlation with the simulator: {ranks})")

    def _checkpoint(
        self,
        index: int,
        stage: Stage,
        optimizer: torch.optim.Optimizer,
        terms: Mapping[str, torch.Tensor],
        *,
        judge: bool,
    ) -> None:
        """Judge if wanted, and have the first process record where the run stands."""
        self.networks.eval()
        diagnostics: dict[str, float] = {}
        if judge:
            diagnostics = stage.validate()
            self._check_finite(diagnostics, stage, self.progress.update)
        if self.metrics:
            self._record(self.metrics, index, stage, optimizer, terms, diagnostics)
        distributed.copy_first(self.networks)

    def _record(
        self,
        metrics: Metrics,
        index: int,
        stage: Stage,
        optimizer: torch.optim.Optimizer,
        terms: Mapping[str, torch.Tensor],
        diagnostics: dict[str, float],
    ) -> None:
        """Record where the run stands, and save `last`; if judged, also `best` where it is."""
        learned = index >= self._actor
        mode = self.config.mode if learned else "planner"
        config = replace(self.agent_config, cost=stage.cost, actor_mode=mode)
        record: dict[str, Any] = {}
        if diagnostics:
            position = {"stage": stage.name, "stage_index": index, "update": self.progress.update}
            losses = {name: value.item() for name, value in terms.items()}
            record = position | losses | diagnostics
            record["seconds"] = round(self.progress.seconds, 2)
            metrics.record(record)
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
        if record:
            self._on_record(record)

    def _provenance(self) -> dict[str, Any]:
        return {
            "command": command(),
            "seed": self.config.seed,
            **({"world_model": self.adopted} if self.adopted else {}),
            **({"cost_ranks": self.ranks} if self.ranks else {}),
            "data": {
                "digest": self.experience.dataset.digest,
                "frames": self.experience.dataset.frames,
            },
            "minutes": round(self.progress.seconds / 60, 2),
            **({"processes": distributed.count()} if distributed.count() > 1 else {}),
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


def make_networks(config: TrainConfig, world: World) -> tuple[AgentConfig, Networks]:
    """Return what is to be trained, and its settings.

    Raises:
        UserError: the settings do not make an agent; that is said now, not hours later.
    """
    agent_config = _agent_config(config, world)
    networks = Networks(agent_config)
    cost = "critic" if config.cost == AUTO else config.cost
    Checkpoint(agent_config, networks, {}, config.out).agent(cost=cost)
    return agent_config, networks


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
        planner=config.planner,
        cost=config.cost,
        actor_mode=config.mode,
    )
