"""Where a training run stands, on disk: checkpoints best and last, optimiser moments, metrics.

runs/reacher/train.json       the settings of the run
runs/reacher/metrics.jsonl    one line per record
runs/reacher/last/            checkpoint + training.safetensors and progress.json, to resume from
runs/reacher/best/            the checkpoint of the best diagnostics
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from mujepa.agent.checkpoint import (
    AgentConfig,
    Networks,
    load_checkpoint,
    save_checkpoint,
    save_tensors,
)
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, surviving_folder, write_json, write_text
from mujepa.training.config import TrainConfig
from mujepa.training.schedule import Progress

FREE = {"out", "resume", "workers", "wandb", "device", "minutes"}
"""Settings that may change when a run is resumed: what is learned does not depend on them."""


def check_settings(folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Write the run's settings, or compare them with those of the run that is resumed."""
    settings = json.loads(json.dumps(settings, default=str))
    begun = any(folder.glob("round-*/last"))  # of an online run
    if begun or surviving_folder(folder / "last").exists():
        if not resume:
            raise UserError(
                f"{folder} holds a run already; continue it with --resume or choose another --out"
            )
        there = read_json(folder / "train.json", f"delete {folder} and train anew")
        keys = (settings.keys() | there.keys()) - FREE
        for key in sorted(keys):
            if there.get(key) != settings.get(key):
                raise UserError(
                    f"{folder} was begun with {key}={there.get(key)!r}, not {settings.get(key)!r}; "
                    "resume it with the same settings"
                )
    write_json(folder / "train.json", settings)


def save_progress(
    folder: Path,
    config: AgentConfig,
    networks: Networks,
    provenance: dict[str, Any],
    progress: Progress,
    modules: nn.ModuleDict,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write `last`, whole or not at all: a checkpoint, with what training needs to go on."""

    def extra(temporary: Path) -> None:
        tensors = {f"module.{name}": value for name, value in modules.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()
            }
        save_tensors(temporary / "training.safetensors", tensors)
        write_json(temporary / "progress.json", asdict(progress))

    save_checkpoint(folder / "last", config, networks, provenance, extra)


def restore_networks(folder: Path, networks: Networks, data_digest: str) -> Progress:
    """Load `last` into the networks and return its progress."""
    last = surviving_folder(folder / "last")
    remedy = f"delete {folder} and train anew"
    checkpoint = load_checkpoint(last, "cpu")
    if checkpoint.provenance.get("data", {}).get("digest") != data_digest:
        raise UserError(f"the dataset is not the one that {folder} was begun with; {remedy}")
    networks.load_state_dict(checkpoint.networks.state_dict())
    return Progress(**read_json(last / "progress.json", remedy))


def restore_world_model(path: Path, config: AgentConfig, networks: Networks) -> dict[str, Any]:
    """Load the world model and the probe of a checkpoint, and return where it comes from."""
    checkpoint = load_checkpoint(path, "cpu")
    for name in ("task", "observation_shape", "quantities", "jepa"):
        there, here = getattr(checkpoint.config, name), getattr(config, name)
        if there != here:
            raise UserError(
                f"the world model of {path} has {name} {there}, this training {here}; "
                "give the settings that it was trained with"
            )
    networks.jepa.load_state_dict(checkpoint.networks.jepa.state_dict())
    networks.probe.load_state_dict(checkpoint.networks.probe.state_dict())
    return {"checkpoint": str(path)} | checkpoint.provenance


def restore_optimizer(
    folder: Path, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer
) -> None:
    """Load the tensors of modules and optimiser from `last`."""
    path = surviving_folder(folder / "last") / "training.safetensors"
    try:
        tensors = safetensors.torch.load_file(path)
        modules.load_state_dict(
            {name[7:]: value for name, value in tensors.items() if name.startswith("module.")}
        )
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} is damaged; delete {folder} and train anew") from error
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


class Metrics:
    """Records in metrics.jsonl up to the progress `resumed`, if any, and in wandb if asked for."""

    def __init__(self, config: TrainConfig, resumed: Progress | None) -> None:
        self._path, self._run = config.out / "metrics.jsonl", None
        kept = []
        if resumed:
            end = (resumed.stage, resumed.update)
            records = read_metrics(self._path)
            kept = [it for it in records if (it["stage_index"], it["update"]) <= end]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        if config.wandb != "off":
            import wandb

            out, mode, values = config.out, config.wandb, config.settings()
            self._run = wandb.init(
                project="mujepa", name=out.name, dir=out, mode=mode, config=values
            )  # pyright: ignore[reportArgumentType]

    def record(self, values: dict[str, Any]) -> None:
        """Append one record."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self._run is not None:
            stage = values["stage"]
            self._run.log({f"{stage}/{key}": values[key] for key in values if key != "stage"})

    def close(self) -> None:
        """Finish the wandb run, if there is one, and wait until all of it is written."""
        if self._run is not None:
            import wandb

            self._run.finish()
            wandb.teardown()  # `finish` can return before an offline run is written


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl, without a line torn by a crash."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records
