"""Online training, in rounds: collect with the agent, train on, evaluate.

runs/reacher/data/          random episodes, and on-policy-00001, ...: the agent's, by round
runs/reacher/round-00003/   the training of a round, with its agent in `last`
runs/reacher/last/, best/   the agent of the latest round, and that of the most successful one
runs/reacher/online.json    the learning curve: an entry for each finished round

What a round does depends on the seed, its number and the agent of the round before, so that an
interrupted round can be repeated.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mujepa.agent.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mujepa.envs.task import Task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import Manifest, manifest_of
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.statistics import success_rate
from mujepa.rollouts.store import ON_POLICY, Dataset, read_meta
from mujepa.runtime import console
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json, write_text
from mujepa.runtime.seeds import Draw, Stream, stream
from mujepa.training.config import ONLINE, TrainConfig, default_settings
from mujepa.training.data import load_training_data
from mujepa.training.on_policy import collect_on_policy
from mujepa.training.progress import read_metrics
from mujepa.training.schedule import Progress, online_share
from mujepa.training.trainer import STAGES, Training

EVALUATED = 30
"""Episodes on which the agent is evaluated after each round; `mujepa evaluate` has others."""


class Online:
    """A run that trains on episodes of its own agent."""

    def __init__(self, config: TrainConfig, task: Task, device: torch.device) -> None:
        self.config, self.task, self.device = config, task, device
        self._data, self._path = Path(config.dataset), config.out / "online.json"
        self.curve: list[dict[str, Any]] = []
        if config.resume and self._path.exists():
            self.curve = read_json(self._path, f"delete {config.out} and train anew")["rounds"]
        self._check_data()

    def run(self) -> None:
        """Go through the rounds that are left."""
        for number in range(len(self.curve), self.config.online_rounds):
            began, world = time.monotonic(), self._world(number)
            if number:
                self._collect(number, world)
            seconds = self.curve[-1]["learning_seconds"] if number else 0.0
            checkpoint, learned = self._train(number, world, seconds)
            held = self._evaluate(checkpoint, world)
            self._record(number, checkpoint, learned, held, time.monotonic() - began)
        done = f"trained in {self._minutes:.1f} min"
        console.print(f"{done}; evaluate it with: mujepa evaluate {self.config.out}")

    @property
    def _minutes(self) -> float:
        return self.curve[-1]["minutes"] if self.curve else 0.0

    def _vary(self, number: int) -> tuple[str, ...]:
        changed = self.config.then_at is not None and number >= self.config.then_at
        return self.config.then_vary if changed else self.config.vary

    def _world(self, number: int) -> World:
        variation = read_variation(self._vary(number))
        size = read_meta(self._data)[0].image_size
        return World(self.task, size, threads=2, variation=variation)

    def _manifest(self, world: World, count: int, *words: int) -> Manifest:
        seed = self.config.seed
        streams = [stream(seed, Stream.TRAINING, *words, index) for index in range(count)]
        return manifest_of([world.sample_episode(it) for it in streams], self._own_seed(*words))

    def _own_seed(self, *words: int) -> int:
        sequence = np.random.SeedSequence([self.config.seed, Stream.TRAINING, *words])
        return int(sequence.generate_state(1)[0])

    def _collect(self, number: int, world: World) -> None:
        """Collect with the agent of the round before, unless that has been done."""
        name, folder = f"{ON_POLICY}{number:05d}", self._data
        if name in read_meta(folder)[1]:
            return
        for leftover in folder.glob(f".{ON_POLICY}*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        checkpoint = load_checkpoint(self.config.out / "last", self.config.device)
        manifest = self._manifest(world, self.config.online_episodes, Draw.ON_POLICY, number)
        with console.progress_bar(world.task.budget_steps, "collect", unit="step") as bar:
            collect_on_policy(folder, name, checkpoint, world, manifest, bar.update)

    def _train(self, number: int, world: World, seconds: float) -> tuple[Checkpoint, float]:
        """Train on from the weights of the round before; return the agent, and seconds in all."""
        config, out = self.config, self._folder(number)
        data = load_training_data(
            self._data, config.validation, config.seed, self.device,
            config.jepa.encoder.observes, config.planner.horizon,
        )  # fmt: skip
        own = self._own_seed(Draw.ROUND, number) if number else config.seed
        data = replace(data, world=world, seed=own)
        names, rounds = [it.updates for it in STAGES], config.online_rounds
        shares = {name: online_share(getattr(config, name), number, rounds) for name in names}
        plain = {name: default_settings()[name] for name in ("online", *ONLINE)}
        minutes = config.minutes and config.minutes / rounds
        part = replace(config, **plain, **shares, minutes=minutes, out=out, resume=True)
        training = Training(part, data)
        if not training.resumed:
            training.progress = Progress(seconds=seconds)
            if number:
                before = load_checkpoint(config.out / "last", "cpu")
                training.networks.load_state_dict(before.networks.state_dict())
        training.learn_stages()
        return load_checkpoint(out / "last", config.device), training.progress.seconds

    def _evaluate(self, checkpoint: Checkpoint, world: World) -> int:
        """Return in how many episodes the agent holds the goal, the same ones in every round."""
        manifest = self._manifest(world, EVALUATED, Draw.ONLINE_EVALUATION)
        policy = AgentPolicy(checkpoint.agent())
        with console.progress_bar(world.task.budget_steps, "evaluate", unit="step") as bar:
            outcome = run_episodes(world, policy, manifest, bar.update)
        return int(outcome.held.sum())

    def _record(
        self, number: int, checkpoint: Checkpoint, learned: float, held: int, took: float
    ) -> None:
        """Publish the agent of a round, then its entry in the curve: with it the round is over."""
        config, dataset = self.config, Dataset(self._data, verify=False)
        success = success_rate(held, EVALUATED)
        entry = {
            "round": number,
            "steps": (dataset.frames - len(dataset)) * checkpoint.config.frame_skip,
            "minutes": round(self._minutes + took / 60, 2),
            "learning_seconds": round(learned, 2),
            "success": asdict(success),
            "cost": checkpoint.config.cost,
            "vary": list(self._vary(number)),
            "data": dataset.digest,
        }
        same = [it["success"]["rate"] for it in self.curve if it["vary"] == entry["vary"]]
        provenance = checkpoint.provenance | {"round": number}
        for name in ("last", *(("best",) if success.rate >= max(same, default=0) else ())):
            save_checkpoint(config.out / name, checkpoint.config, checkpoint.networks, provenance)
        self._keep_metrics(number)
        self.curve.append(entry)
        write_json(self._path, {"episodes": EVALUATED, "rounds": self.curve})
        left = (config.online_rounds - number - 1) * self._minutes / (number + 1)
        console.print(
            f"round {number + 1} of {config.online_rounds}: {entry['steps']} steps, success "
            f"{success.rate:.2f} [{success.low:.2f}, {success.high:.2f}], {left:.1f} min left"
        )

    def _keep_metrics(self, number: int) -> None:
        path = self.config.out / "metrics.jsonl"
        before = [it for it in read_metrics(path) if it["round"] < number]
        latest = read_metrics(self._folder(number) / "metrics.jsonl")
        lines = [json.dumps(it) for it in (*before, *({"round": number} | it for it in latest))]
        write_text(path, "".join(f"{line}\n" for line in lines))

    def _folder(self, number: int) -> Path:
        return self.config.out / f"round-{number:05d}"

    def _check_data(self) -> None:
        folder, rounds = self._data, len(self.curve)
        digest = Dataset(folder, verify=False).digest
        collected = {name for name in read_meta(folder)[1] if name.startswith(ON_POLICY)}
        expected = {f"{ON_POLICY}{number:05d}" for number in range(1, rounds)}
        ahead = collected - expected <= {f"{ON_POLICY}{rounds:05d}"} if rounds else not collected
        unchanged = not rounds or collected != expected or digest == self.curve[-1]["data"]
        if not expected <= collected or not ahead or not unchanged:
            raise UserError(
                f"{folder} does not hold the episodes that this run has collected; choose another "
                f"--data, or delete {self.config.out} and train anew"
            )
