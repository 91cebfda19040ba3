"""One training run: its networks, the stages in which they are trained, and its records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mujepa.agent.checkpoint import Networks, save_checkpoint
from mujepa.runtime import console, distributed
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, surviving_folder
from mujepa.runtime.provenance import command, machine, versions
from mujepa.training.config import AUTO, TrainConfig
from mujepa.training.data import LatentDataset, TrainingData
from mujepa.training.frozen_stages import ActorStage, CriticStage, EnsembleStage
from mujepa.training.interruption import Interruption, interruption
from mujepa.training.losses import ExtraTerm, weighted_sum
from mujepa.training.networks import make_networks
from mujepa.training.progress import (
    Metrics,
    restore_networks,
    restore_optimizer,
    restore_world_model,
    save_progress,
)
from mujepa.training.schedule import Clock, Progress, schedule
from mujepa.training.stages import PredictorStage, Stage, WorldModelStage
from mujepa.training.validation import COSTS, choose_cost, rank_cost

Record = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class StageSpec:
    """All that the run has to know of a stage; `parts` are the networks that it trains.

    `updates` and `learning_rate` name settings of the run. `share` of --minutes is relative to the
    other stages; `cost` is that of diagnostics before there is a critic.
    """

    name: str
    stage: type[Stage]
    parts: tuple[str, ...]
    updates: str
    learning_rate: str = "critic_learning_rate"
    share: float = 0.0
    cost: str | None = None


STAGES = (
    StageSpec("world model", WorldModelStage, ("jepa",), "updates", "learning_rate", 0.7, "goal"),
    StageSpec(
        "predictor", PredictorStage, ("jepa.predictor",), "predictor_updates", share=0.2,
        cost="goal",
    ),
    StageSpec("ensemble", EnsembleStage, ("ensemble",), "ensemble_updates", share=0.03),
    StageSpec("critic", CriticStage, ("critic",), "critic_updates", share=0.15),
    StageSpec("actor", ActorStage, ("actor",), "actor_updates", share=0.12),
)  # fmt: skip
"""The stages in their order."""


def stages_of(config: TrainConfig) -> dict[str, int]:
    """Return the updates of each stage of a run, by its name."""
    return {it.name: count for it in STAGES if (count := getattr(config, it.updates))}


def make_stage(
    name: str,
    config: TrainConfig,
    latents: LatentDataset,
    networks: Networks,
    extra_terms: Sequence[ExtraTerm] = (),
) -> Stage:
    """Return a stage by its name."""
    spec = next(it for it in STAGES if it.name == name)
    cost = spec.cost or ("critic" if config.cost == AUTO else config.cost)
    return spec.stage(config, latents, networks, spec.parts, cost, extra_terms)


class Running:
    """A stage that is under way."""

    def __init__(self, index: int, spec: StageSpec, stage: Stage) -> None:
        self.index, self.name, self.stage = index, spec.name, stage
        self.updates: int = getattr(stage.config, spec.updates)
        self.learning_rate: float = getattr(stage.config, spec.learning_rate)
        self.terms: Mapping[str, Tensor] = {}
        self.modules = stage.modules()
        stage.networks.eval().requires_grad_(requires_grad=False)  # frozen: no backward pass
        parameters = self.modules.requires_grad_(requires_grad=True).parameters()
        self.optimizer = torch.optim.AdamW(parameters, self.learning_rate, weight_decay=1e-4)


class Training:
    """One run: the networks, the stages in which they are trained, and its records.

    `on_record` is called with each record once its checkpoint is written.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: TrainingData,
        on_record: Record = lambda record: None,
        extra_terms: Sequence[ExtraTerm] = (),
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.data, self._on_record = config, data, on_record
        self.agent_config, self.networks = make_networks(config, data.world, data.dataset.spec)
        self.networks.to(data.device)
        self.ranks: dict[str, float] = {}
        self.progress, self.origin = Progress(), None
        last = surviving_folder(config.out / "last")
        self.resumed = config.resume and last.exists()
        if self.resumed:
            self.progress = restore_networks(config.out, self.networks, data.dataset.digest)
            made = read_json(last / "provenance.json", "train anew")
            self.origin: dict[str, Any] | None = made.get("world_model")
        elif config.world_model:
            self.progress = Progress(stage=1)
            self.origin = restore_world_model(config.world_model, self.agent_config, self.networks)
        self.metrics = None
        if distributed.rank() == 0:
            before = self.progress if self.resumed else None
            self.metrics = Metrics(config, before)
        latents = LatentDataset(data, self.networks.jepa)
        self.specs = [it for it in STAGES if getattr(config, it.updates)]
        self.stages = [
            make_stage(it.name, config, latents, self.networks, () if index else extra_terms)
            for index, it in enumerate(self.specs)
        ]

    def run(self) -> None:
        """Train in the stages that are left, and print that it is done."""
        if self.data.left_out:
            names, place = ", ".join(self.data.left_out), self.data.dataset.folder
            console.print(f"{place} has no simulator states; left out: {names}")
        self.learn_stages()
        minutes, out = self.progress.seconds / 60, self.config.out
        evaluation = f"; evaluate it with: mujepa evaluate {out}" if self.agent_config.task else ""
        console.print(f"trained in {minutes:.1f} min{evaluation}")

    def learn_stages(self) -> None:
        """Train in the stages that are left."""
        try:
            with interruption() as asked:
                for index in range(self.progress.stage, len(self.stages)):
                    if self.specs[index].name == "actor" and self.config.cost == AUTO:
                        self._choose_cost(self.stages[index])
                    if not self.progress.finished:
                        self.learn(self._begin(index), asked)
                    if index + 1 < len(self.stages):
                        self.progress = Progress(stage=index + 1, seconds=self.progress.seconds)
        finally:
            if self.metrics:
                self.metrics.close()

    def _begin(self, index: int) -> Running:
        running = Running(index, self.specs[index], self.stages[index])
        if self.resumed and self.progress.stage == index and self.progress.update:
            restore_optimizer(self.config.out, running.modules, running.optimizer)
        distributed.copy_first(self.networks, running.modules)
        return running

    def learn(self, running: Running, asked: Interruption) -> None:
        """Train one stage: draw a batch, compute the terms, step; save every `checkpoint_every`."""
        specs = self.specs[1:] if self.origin else self.specs
        share = self.specs[running.index].share / sum(spec.share for spec in specs)
        minutes, updates = self.config.minutes, running.updates
        clock = Clock(self.progress, minutes, share)
        with console.progress_bar(updates, running.name, self.progress.update) as bar:
            while self.progress.update < updates:
                gone = distributed.largest(clock.fraction()) if minutes else 0.0
                if gone >= 1:
                    break
                self._update(running, max(self.progress.update / updates, gone))
                self.progress = clock.advance(self.progress)
                bar.update()
                done = self.progress.update
                due = done % self.config.checkpoint_every == 0 and done < updates
                interrupted = distributed.largest(asked.wanted)
                if due or interrupted:
                    self._checkpoint(running, validate=due)
                if interrupted:
                    console.print(f"interrupted; {self.config.out} is usable, and --resume goes on")
                    raise KeyboardInterrupt
        running.modules.eval()
        running.stage.finish()
        self.progress = replace(self.progress, finished=True)
        self._checkpoint(running, validate=True)

    def _update(self, running: Running, fraction: float) -> None:
        modules, optimizer, update = running.modules, running.optimizer, self.progress.update
        rate = running.learning_rate * schedule(update, running.updates, fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate
        modules.train()
        lower = self.config.precision == "bfloat16"
        with torch.autocast(self.data.device.type, torch.bfloat16, enabled=lower):
            terms = running.stage.terms(update)
        optimizer.zero_grad()
        weighted_sum(terms, running.stage.weights).backward()
        distributed.average_gradients(modules.parameters())
        running.terms = distributed.averages(terms)
        norm = torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        self._check_finite({**running.terms, "gradient": norm}, running.name, update)
        optimizer.step()

    def _choose_cost(self, stage: Stage) -> None:
        if not self.data.world:
            return
        self.networks.eval()
        benchmark = self.data.ranking_benchmark
        self.ranks = {
            cost: round(distributed.largest(rank_cost(benchmark, self.networks, cost)), 3)
            for cost in COSTS
        }
        stage.cost = choose_cost(self.ranks)
        ranks = ", ".join(f"{cost} {rank:.2f}" for cost, rank in self.ranks.items())
        console.print(f"cost: {stage.cost} (rank correlation with the simulator: {ranks})")

    def _checkpoint(self, running: Running, *, validate: bool) -> None:
        self.networks.eval()
        diagnostics: dict[str, float] = {}
        if validate:
            diagnostics = running.stage.validate()
            self._check_finite(diagnostics, running.name, self.progress.update)
        if self.metrics:
            self._record(self.metrics, running, diagnostics)
        distributed.copy_first(self.networks)

    def _record(self, metrics: Metrics, running: Running, diagnostics: dict[str, float]) -> None:
        """Save `last`; with diagnostics, also a record, and `best` where it is."""
        out, mode = self.config.out, self.config.mode if running.name == "actor" else "planner"
        config = replace(self.agent_config, cost=running.stage.cost, actor_mode=mode)
        record: dict[str, Any] = {}
        if diagnostics:
            update = self.progress.update
            record = {"stage": running.name, "stage_index": running.index, "update": update}
            record |= {name: value.item() for name, value in running.terms.items()} | diagnostics
            record["seconds"] = round(self.progress.seconds, 2)
            metrics.record(record)
            if self.progress.best is None or diagnostics["score"] >= self.progress.best:
                self.progress = replace(self.progress, best=diagnostics["score"])
                save_checkpoint(out / "best", config, self.networks, self._provenance())
        save_progress(
            out, config, self.networks, self._provenance(), self.progress, running.modules,
            running.optimizer,
        )  # fmt: skip
        if record:
            self._on_record(record)

    def _provenance(self) -> dict[str, Any]:
        dataset = self.data.dataset
        return {
            "command": command(),
            "seed": self.config.seed,
            **({"world_model": self.origin} if self.origin else {}),
            **({"cost_ranks": self.ranks} if self.ranks else {}),
            "data": {"digest": dataset.digest, "frames": dataset.frames},
            "minutes": round(self.progress.seconds / 60, 2),
            **({"processes": distributed.count()} if distributed.count() > 1 else {}),
            "versions": versions(),
            "machine": machine(),
        }

    def _check_finite(self, values: Mapping[str, Tensor | float], stage: str, update: int) -> None:
        for name, value in values.items():
            number = torch.as_tensor(value).item()
            if not math.isfinite(number):
                raise UserError(
                    f"training stopped: {name} of the {stage} is {number} at update "
                    f"{update}; the last good checkpoint is kept in {self.config.out}; try a "
                    "lower learning rate"
                )
