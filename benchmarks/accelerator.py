"""What an accelerator brings to imagining, planning and learning, beside one core of its machine.

    python benchmarks/accelerator.py [--checkpoint FOLDER] [--device auto] [--out FILE]

The roofs are the device's own products of large matrices, in float32 and in bfloat16, measured in
the same run; a stage's share is its operations (counted by torch) over its time, over the roof of
its precision: of an update that is the model-FLOP utilisation. Then one agent is trained as
`mujepa train` does, and judged.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")

import torch
from limits import ROLLOUT, an_update, operations, planning
from timing import alternate, medians

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.agent.device import DeviceName, choose_device, device_name
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.statistics import success_rate
from mujepa.rollouts.collection import collect_shards, make_spec
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import write_json
from mujepa.runtime.malloc import keep_freed_memory
from mujepa.runtime.parallel import Pool
from mujepa.runtime.provenance import machine, versions
from mujepa.train import train
from mujepa.training.config import TrainConfig

PRODUCT = 8192
"""Rows and columns of the matrices of the roof; a CPU's is 512."""


@dataclass(frozen=True)
class AcceleratorConfig:
    """Measure imagining, planning and learning on an accelerator, and write it as JSON."""

    checkpoint: Path = Path("pretrained/reacher")
    """Checkpoint whose stages are timed."""
    device: DeviceName = "auto"
    """What is measured."""
    environments: tuple[int, ...] = (1, 4, 50)
    """For how many it plans at once."""
    batches: tuple[int, ...] = (128, 1024, 4096)
    """Windows in an update."""
    success: bool = True
    """Also collect, train and judge an agent there."""
    out: Path = Path("benchmarks/results/accelerator.json")
    """The result."""

    def __post_init__(self) -> None:
        for name in ("environments", "batches"):
            if any(size < 1 for size in getattr(self, name)):
                raise UserError(f"--{name} must be at least 1, got {min(getattr(self, name))}")


def accelerator(config: AcceleratorConfig) -> None:
    """Measure, print and write."""
    keep_freed_memory()
    torch.set_num_threads(1)
    device = choose_device(config.device)
    figures: dict[str, Any] = {"device": device_name(device), "roofs_per_second": _roofs(device)}
    for name, rate in figures["roofs_per_second"].items():
        console.print(f"{name:<44}{rate:>12.4g} /s")
    figures["planning"] = _planning(config, device)
    figures["training"] = _training(config, device, figures["roofs_per_second"])
    if config.success:
        task = load_checkpoint(config.checkpoint, "cpu").task_name
        figures["success"] = _success(task, device)
    figures["ratios"] = {
        f"a plan in {batch} environments, over one core": found["one core"] / found["device"]
        for batch, found in figures["planning"].items()
    }
    write_json(config.out, figures | {"versions": versions(), "machine": machine()})


def _measure(functions: dict[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """Return the median time of each [s], the device's work included."""

    def done(function: Callable[[], Any]) -> Callable[[], Any]:
        def and_wait() -> None:
            function()
            if device.type != "cpu":
                torch.accelerator.synchronize()

        return and_wait

    return medians(alternate({name: done(it) for name, it in functions.items()}, repeats=9))


def _roofs(device: torch.device) -> dict[str, float]:
    size = 512 if device.type == "cpu" else PRODUCT
    functions = {}
    for dtype in (torch.float32, torch.bfloat16):
        one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        name = f"operations of products in {str(dtype).removeprefix('torch.')}"
        functions[name] = lambda one=one, other=other: [one @ other for _ in range(5)]
    return {name: 5 * 2 * size**3 / it for name, it in _measure(functions, device).items()}


def _planning(config: AcceleratorConfig, device: torch.device) -> dict[str, dict[str, float]]:
    """Return seconds for a plan of CEM in B environments, on the device and on one core."""
    found = {}
    for batch in config.environments:
        functions = {
            "device": planning(config.checkpoint, device, batch).plan,
            "one core": planning(config.checkpoint, torch.device("cpu"), batch).plan,
        }
        found[str(batch)] = _measure(functions, device)
        console.print(
            f"a plan in {batch:>4} environments"
            + "".join(f"{name:>12} {1e3 * it:9.2f} ms" for name, it in found[str(batch)].items())
        )
    return found


def _training(
    config: AcceleratorConfig, device: torch.device, roofs: dict[str, float]
) -> dict[str, dict[str, float]]:
    """Return frames/s of the world model's updates and the share of the roof, by batch."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        trained = load_checkpoint(config.checkpoint, "cpu").config
        task, frames = trained.task, trained.jepa.predictor.history + ROLLOUT
        list(collect_shards(data, make_spec(task, 0), 64, Pool(os.cpu_count() or 1)))
        for batch in config.batches:
            for precision in ("float32", "bfloat16"):
                lower = precision == "bfloat16"
                update, _ = an_update(config.checkpoint, data, device, batch, lower=lower)
                work, seconds = operations(update), _measure({"update": update}, device)["update"]
                name = f"batch {batch}, {precision}"
                rate = roofs[f"operations of products in {precision}"]
                found[name] = {
                    "frames_per_s": batch * frames / seconds,
                    "ms": 1e3 * seconds,
                    "utilisation": work / seconds / rate,
                }
                console.print(
                    f"training, {name:<24}{found[name]['frames_per_s']:>12,.0f} frames/s"
                    f"{found[name]['utilisation']:>9.2%}"
                )
    return found


def _success(task: str, device: torch.device) -> dict[str, Any]:
    """Collect, train and judge; return the minutes of each, and the success."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        agent = train(TrainConfig(task, Path(folder) / "run", device=device.type)).agent()
        trained = time.perf_counter()
        world = World(find_task(task))
        outcome = run_episodes(world, AgentPolicy(agent), make_manifest(world, 200, 0))
        judged = time.perf_counter()
    found = {
        "collect_and_train_s": trained - began,
        "judge_200_episodes_s": judged - trained,
        "success_at_end": asdict(success_rate(int(outcome.held.sum()), len(outcome.held))),
    }
    console.print(f"{task}: {found}")
    return found


if __name__ == "__main__":
    raise SystemExit(run(accelerator, AcceleratorConfig))
