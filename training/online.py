"""Learning from experience, in rounds: act, add what happened to the data, learn on, judge.

runs/reacher/data/          random episodes, and on-policy-00001, ...: what the agent did, by round
runs/reacher/round-00003/   the training of a round, and in its `last` the agent
runs/reacher/last/, best/   the agent of the latest round, and that of the most successful one
runs/reacher/online.json    the curve: an entry for each round that is over

A round that was interrupted goes on where it was: what it does depends on the seed, on its number
and on the agent of the round before.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mujepa.agent.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mujepa.envs.registry import find_task
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
from mujepa.training.config import ONLINE
from mujepa.training.data import STREAM, load_training_data
from mujepa.training.on_policy import live
from mujepa.training.schedule import online_share
from mujepa.training.state import Progress, read_metrics
from mujepa.training.trainer import Training

if TYPE_CHECKING:
    import torch

    from mujepa.training.config import TrainConfig

JUDGED = 30
"""Episodes that an agent is judged on after each round; evaluation has others."""
JUDGING, LIVING, ROUND = 6, 7, 8
"""Third words of the random streams: of these episodes, of those lived through, of a round."""
STAGES = (
    *("updates", "predictor_updates", "ensemble_updates"),
    *("critic_updates", "actor_updates"),
)


class Online:
    """A run that learns from what its agent lives through.

    Args:
        config: of the run.
        device: where it is learned.

    Raises:
        UserError: the dataset is not the one of this run.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device, self._data = config, device, Path(config.dataset)
        self._path = config.out / "online.json"
        self.curve: list[dict[str, Any]] = []
        if config.resume and self._path.exists():
            self.curve = read_json(self._path, f"delete {config.out} and train anew")["rounds"]
        self._check_data()

    def run(self) -> None:
        """Go through the rounds that are left."""
        config = self.config
        for number in range(len(self.curve), config.online_rounds):
            began = time.monotonic()
            world = self._world(number)
            if number:
                self._live(number, world)
            seconds = self.curve[-1]["learning_seconds"] if number else 0.0
            checkpoint, learned = self._learn(number, world, seconds)
            held = self._judge(number, checkpoint, world)
            self._record(number, checkpoint, learned, held, time.monotonic() - began)
        console.print(
            f"trained in {self._minutes:.1f} min; judge it with: mujepa evaluate {config.out}"
        )

    @property
    def _minutes(self) -> float:
        return self.curve[-1]["minutes"] if self.curve else 0.0

    def _world(self, number: int) -> World:
        """Return the world of a round."""
        changed = self.config.then_at is not None and number >= self.config.then_at
        variation = read_variation(self.config.then_vary if changed else self.config.vary)
        task, size = find_task(self.config.task_name), read_meta(self._data)[0].image_size
        return World(task, size, threads=2, variation=variation)

    def _manifest(self, world: World, count: int, *words: int) -> Manifest:
        """Draw starts and goals from random streams of this run."""
        seed = self.config.seed
        streams = [np.random.default_rng([seed, STREAM, *words, i]) for i in range(count)]
        own = int(np.random.SeedSequence([seed, STREAM, *words]).generate_state(1)[0])
        return manifest_of([world.sample_episode(stream) for stream in streams], own)

    def _live(self, number: int, world: World) -> None:
        """Let the agent of the round before act, unless that has been done."""
        name, folder = f"{ON_POLICY}{number:05d}", self._data
        if name in read_meta(folder)[1]:
            return
        for leftover in folder.glob(f".{ON_POLICY}*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        checkpoint = load_checkpoint(self.config.out / "last", self.config.device)
        manifest = self._manifest(world, self.config.online_episodes, LIVING, number)
        with console.progress_bar(world.task.budget_steps, "live", unit="step") as bar:
            live(folder, name, checkpoint, world, manifest, self.config.explore, bar.update)

    def _learn(self, number: int, world: World, seconds: float) -> tuple[Checkpoint, float]:
        """Learn on from the weights of the round before; return the agent, and seconds in all."""
        config, out = self.config, self._folder(number)
        observes, horizon = config.jepa.encoder.observes, config.planner.horizon
        experience = load_training_data(
            self._data, config.validation, config.seed, self.device, observes, horizon
        )
        own = int(np.random.SeedSequence([config.seed, STREAM, ROUND, number]).generate_state(1)[0])
        experience = replace(experience, world=world, seed=own if number else config.seed)
        rounds = config.online_rounds
        shares = {name: online_share(getattr(config, name), number, rounds) for name in STAGES}
        minutes = config.minutes and config.minutes / rounds
        plain = {"online": False, **ONLINE}
        part = replace(config, **plain, **shares, minutes=minutes, out=out, resume=True)
        training = Training(part, experience)
        if not training.resumed:
            training.progress = Progress(seconds=seconds)
            if number:
                before = load_checkpoint(config.out / "last", "cpu")
                training.networks.load_state_dict(before.networks.state_dict())
        training.learn_stages()
        return load_checkpoint(out / "last", config.device), training.progress.seconds

    def _judge(self, number: int, checkpoint: Checkpoint, world: World) -> int:
        """Return how many of the run's own episodes the agent holds."""
        manifest = self._manifest(world, JUDGED, JUDGING)
        policy = AgentPolicy(checkpoint.agent())
        with console.progress_bar(world.task.budget_steps, "judge", unit="step") as bar:
            outcome = run_episodes(world.task, world.image_size, policy, manifest, bar.update)
        return int(outcome.held.sum())

    def _record(
        self, number: int, checkpoint: Checkpoint, learned: float, held: int, took: float
    ) -> None:
        """Publish the agent of a round, then its entry in the curve: with it the round is over."""
        config, dataset = self.config, Dataset(self._data, verify=False)
        success = success_rate(held, JUDGED)
        changed = config.then_at is not None and number >= config.then_at
        entry = {
            "round": number,
            "steps": (dataset.frames - len(dataset)) * checkpoint.config.frame_skip,
            "minutes": round(self._minutes + took / 60, 2),
            "learning_seconds": round(learned, 2),
            "success": asdict(success),
            "cost": checkpoint.config.cost,
            "vary": list(config.then_vary if changed else config.vary),
            "data": dataset.digest,
        }
        same = [it["success"]["rate"] for it in self.curve if it["vary"] == entry["vary"]]
        provenance = checkpoint.provenance | {"round": number}
        for name in ("last", *(("best",) if success.rate >= max(same, default=0) else ())):
            save_checkpoint(config.out / name, checkpoint.config, checkpoint.networks, provenance)
        self._keep_metrics(number)
        self.curve.append(entry)
        write_json(self._path, {"episodes": JUDGED, "rounds": self.curve})
        left = (config.online_rounds - number - 1) * self._minutes / (number + 1)
        console.print(
            f"round {number + 1} of {config.online_rounds}: {entry['steps']} steps lived, success "
            f"{success.rate:.2f} [{success.low:.2f}, {success.high:.2f}], {left:.1f} min left"
        )

    def _keep_metrics(self, number: int) -> None:
        """Append the round's records to those of the run."""
        path = self.config.out / "metrics.jsonl"
        before = [it for it in read_metrics(path) if it["round"] < number]
        latest = read_metrics(self._folder(number) / "metrics.jsonl")
        lines = [json.dumps(it) for it in (*before, *({"round": number} | it for it in latest))]
        write_text(path, "".join(f"{line}\n" for line in lines))

    def _folder(self, number: int) -> Path:
        return self.config.out / f"round-{number:05d}"

    def _check_data(self) -> None:
        """Check that the dataset is what this run has made of it so far."""
        folder, rounds = self._data, len(self.curve)
        digest = Dataset(folder, verify=False).digest
        lived = {name for name in read_meta(folder)[1] if name.startswith(ON_POLICY)}
        wanted = {f"{ON_POLICY}{number:05d}" for number in range(1, rounds)}
        ahead = lived - wanted <= {f"{ON_POLICY}{rounds:05d}"} if rounds else not lived
        unchanged = not rounds or lived != wanted or digest == self.curve[-1]["data"]
        if not wanted <= lived or not ahead or not unchanged:
            raise UserError(
                f"{folder} is not what this run has lived through; choose another --data, or "
                f"delete {self.config.out} and train anew"
            )
