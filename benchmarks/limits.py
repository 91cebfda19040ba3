"""How near each stage comes to what this machine can do: a roofline, on one core.

    python benchmarks/limits.py [--checkpoint FOLDER] [--out FILE]

The roofs are measured in the same run, in turn with the stages: the rate of large matrix products,
the bandwidth of memory, MuJoCo's steps in compiled code, and drawing a scene that is there already.
A stage's share is the least time that its arithmetic (counted by torch), its bytes, or its steps
and pictures could take under its roof, over the time that it takes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco
import numpy as np
import torch
from timing import alternate, medians
from torch.utils.flop_counter import FlopCounterMode

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.agent.memory import Memory
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.planners import CEM, Bounds
from mujepa.rollouts.collection import collect_shards, make_spec
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.files import write_json
from mujepa.runtime.malloc import keep_freed_memory
from mujepa.runtime.parallel import Pool
from mujepa.runtime.provenance import machine, versions
from mujepa.training.config import TrainConfig
from mujepa.training.data import LatentDataset, TrainingData, load_training_data
from mujepa.training.losses import weighted_sum
from mujepa.training.trainer import make_stage

CANDIDATES, ITERATIONS, ELITES, HORIZON = 300, 10, 30, 5
AGAIN = 20
"""Times that what is short is done, so that it is as warm as in a search."""
PRODUCT = 512
COPIED = 2**28
FRAMES = 500
ROLLOUT = 4
WINDOWS, LENGTH = 512, 16


@dataclass(frozen=True)
class LimitsConfig:
    """Measure each stage's share of what the machine can do, and write it as JSON."""

    checkpoint: Path = Path("pretrained/reacher")
    """Checkpoint whose stages are timed."""
    out: Path = Path("benchmarks/results/limits.json")
    """The result."""


@dataclass(frozen=True)
class Stage:
    """What is timed, under which roof, and how much of that roof's unit one run needs."""

    run: Callable[[], Any]
    roof: str
    work: float


def limits(config: LimitsConfig) -> None:
    """Measure, print and write."""
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        task = find_task(load_checkpoint(config.checkpoint, "cpu").task_name)
        list(collect_shards(Path(folder) / "data", make_spec(task.name, 0), 64, Pool(1)))
        world = World(task)
        states = np.stack(
            [world.sample_episode(np.random.default_rng(i)).start for i in range(FRAMES)]
        )
        roofs = _roofs(world, states)
        stages = _planning(config.checkpoint) | _learning(config.checkpoint, Path(folder) / "data")
        stages["drawing and looking"] = Stage(
            lambda: world.render(states), "pictures of a scene that is there", FRAMES
        )
        actions = np.zeros((FRAMES, 20, len(world.action_low)))
        steps = FRAMES * 20 * task.substeps
        stages["simulating open loop"] = Stage(
            lambda: world.rollout(states, actions), "MuJoCo steps in compiled code", steps
        )
        spent = medians(
            alternate(
                {name: roof for name, (roof, _) in roofs.items()}
                | {name: stage.run for name, stage in stages.items()},
                repeats=9,
            )
        )
    rates = {name: work / spent[name] for name, (_, work) in roofs.items()}
    found = {
        name: {
            "seconds": spent[name],
            "roof": stage.roof,
            "per_second": stage.work / spent[name],
            "share": stage.work / spent[name] / rates[stage.roof],
        }
        for name, stage in stages.items()
    }
    result = {
        "roofs_per_second": rates,
        "stages": found,
        "ratios": {name: value["share"] for name, value in found.items()},
    }
    write_json(config.out, result | {"versions": versions(), "machine": machine()})
    for name, rate in rates.items():
        console.print(f"{name:<44}{rate:>14.4g} /s")
    for name, value in found.items():
        console.print(
            f"{name:<44}{1e3 * value['seconds']:>11.2f} ms{value['share']:>7.0%}  {value['roof']}"
        )


def _roofs(world: World, states: np.ndarray) -> dict[str, tuple[Callable[[], Any], float]]:
    """Return what is compared with, and how much of its unit one run does."""
    one, other = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    product = torch.empty(PRODUCT, PRODUCT)
    source, target = (torch.ones(COPIED // 4) for _ in range(2))
    model = mujoco.MjModel.from_xml_path(str(world.task.mjcf))
    data, steps = mujoco.MjData(model), 20_000

    def multiply() -> None:
        for _ in range(10):
            torch.mm(one, other, out=product)

    world.render(states[:1])
    observer = world._observer
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, observer._context)

    def draw() -> None:
        for _ in range(FRAMES):
            mujoco.mjr_render(observer._rectangle, observer._scene, observer._context)
            mujoco.mjr_readPixels(observer._buffer, None, observer._rectangle, observer._context)

    return {
        "operations of matrix products": (multiply, 10 * 2 * PRODUCT**3),
        "bytes of memory read or written": (lambda: target.copy_(source), 2 * COPIED),
        "MuJoCo steps in compiled code": (lambda: mujoco.mj_step(model, data, steps), steps),
        "pictures of a scene that is there": (draw, FRAMES),
    }


@dataclass(frozen=True)
class Planning:
    """A search by CEM in B environments.

    What computes no gradient takes a faster path, whose products torch does not count.

    Attributes:
        imagine: what its candidates lead to, with a gradient where the caller has one.
        judge: imagine, and judge by the cost.
        plan: search, without a gradient.
    """

    imagine: Callable[[], Any]
    judge: Callable[[], Any]
    plan: Callable[[], Any]


def planning(checkpoint: Path, device: torch.device, batch: int) -> Planning:
    """Return a search for a checkpoint's agent, with memories and goals drawn at random."""
    agent = load_checkpoint(checkpoint, device.type).agent()
    jepa, configurator = agent.jepa, agent.configurator
    size, random = jepa.action_size, torch.Generator().manual_seed(0)
    embedding = torch.randn(batch, jepa.dim, generator=random).to(device)
    memory = Memory.at_rest(embedding, jepa.history, size)
    cost = configurator.cost_fn(memory, configurator.goal_from_embedding(-embedding))
    actions = (2 * torch.rand(batch, CANDIDATES, HORIZON, size, generator=random) - 1).to(device)
    planner = CEM(horizon=HORIZON, samples=CANDIDATES, iterations=ITERATIONS, elites=ELITES)
    bounds = Bounds(-torch.ones(size, device=device), torch.ones(size, device=device))
    generators = [torch.Generator() for _ in range(batch)]

    @torch.no_grad()
    def plan() -> None:
        for seed, generator in enumerate(generators):
            generator.manual_seed(seed)
        planner.plan(cost, planner.start(batch, bounds), bounds, generators).actions.cpu()

    return Planning(lambda: jepa.rollout(memory, actions), lambda: cost(actions), plan)


def _planning(checkpoint: Path) -> dict[str, Stage]:
    search = planning(checkpoint, torch.device("cpu"), 1)
    jepa = load_checkpoint(checkpoint, "cpu").networks.jepa
    images = torch.randint(0, 256, (768, *jepa.observation_shape), dtype=torch.uint8)

    def encode() -> None:
        jepa.encode(images)

    def again(function: Callable[[], Any]) -> Callable[[], Any]:
        return torch.no_grad()(lambda: [function() for _ in range(AGAIN)])

    imagined, judged = operations(search.imagine), operations(search.judge)
    sizes = f"{AGAIN} x {CANDIDATES} x {HORIZON}"
    stages = {
        f"imagining {sizes}": (again(search.imagine), AGAIN * imagined),
        f"imagining and judging {sizes}": (again(search.judge), AGAIN * judged),
        f"a plan by CEM, {CANDIDATES} x {ITERATIONS} x {HORIZON}": (
            search.plan,
            ITERATIONS * judged,
        ),
        "encoding 768 images": (torch.no_grad()(encode), operations(encode)),
    }
    return {
        name: Stage(function, "operations of matrix products", work)
        for name, (function, work) in stages.items()
    }


def an_update(
    checkpoint: Path, data: Path, device: torch.device, batch: int, *, lower: bool = False
) -> tuple[Callable[[], Any], TrainingData]:
    """Return what updates the world model once, by default in float32, and what it learns from."""
    networks = load_checkpoint(checkpoint, device.type).networks
    networks.requires_grad_(requires_grad=True)
    experience = load_training_data(data, 0.02, 0, device)
    config = TrainConfig("reacher", data / "run", batch=batch, rollout=ROLLOUT)
    stage = make_stage("world model", config, LatentDataset(experience, networks.jepa), networks)
    modules = stage.modules().train()
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-6)

    def update() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=lower):
            loss = weighted_sum(stage.terms(0), stage.weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return update, experience


def _learning(checkpoint: Path, data: Path) -> dict[str, Stage]:
    update, experience = an_update(checkpoint, data, torch.device("cpu"), batch=128)
    random = np.random.default_rng(0)
    dataset = experience.dataset
    episodes = random.integers(len(dataset), size=WINDOWS)
    offsets = random.integers(0, 10, size=WINDOWS)
    size = dataset.gather("pixels", episodes, offsets, LENGTH).nbytes
    return {
        "an update of the world model": Stage(
            update, "operations of matrix products", operations(update)
        ),
        f"reading {WINDOWS} windows of {LENGTH} frames": Stage(
            lambda: dataset.gather("pixels", episodes, offsets, LENGTH),
            "bytes of memory read or written",
            2 * size,
        ),
    }


def operations(function: Callable[[], Any]) -> float:
    """Return the multiplications and additions of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


if __name__ == "__main__":
    raise SystemExit(run(limits, LimitsConfig))
