"""How cost grows with the work: candidates, horizon, environments, image size, width of the model.

    python benchmarks/growth.py [--out FILE]

One thing is doubled at a time, the rest stays as in `reacher`; weights are random, as they do not
matter for speed. An exponent is the slope of log time over log size, fitted to all sizes: 1 where
time is proportional, less where the fixed cost of a call still counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import alternate, medians

from mujepa.agent.configurator import Configurator
from mujepa.agent.cost import Cost
from mujepa.agent.critic import Critic, CriticConfig
from mujepa.agent.encoder import EncoderConfig
from mujepa.agent.jepa import JEPA, JEPAConfig
from mujepa.agent.memory import Memory
from mujepa.agent.predictor import PredictorConfig
from mujepa.planners import ICEM, Bounds
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.files import write_json
from mujepa.runtime.malloc import keep_freed_memory
from mujepa.runtime.provenance import machine, versions

CANDIDATES, HORIZON, ENVIRONMENTS, IMAGE, WIDTH = 64, 5, 1, 64, 192
ACTION, BATCH = 2, 128


@dataclass(frozen=True)
class GrowthConfig:
    """Measure how the cost of planning and of encoding grows, and write it as JSON."""

    out: Path = Path("benchmarks/results/growth.json")
    """The result."""


def growth(config: GrowthConfig) -> None:
    """Measure, print and write."""
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    axes: dict[str, tuple[list[int], Callable[[int], Callable[[], Any]]]] = {
        "candidates": ([32, 64, 128, 256, 512, 1024], lambda n: _plan(candidates=n)),
        "horizon": ([2, 4, 8, 16, 32], lambda n: _plan(horizon=n)),
        "environments": ([1, 2, 4, 8, 16, 32], lambda n: _plan(environments=n)),
        "width of the predictor": ([96, 192, 384, 768], lambda n: _plan(width=n)),
        "image size, encoding": ([32, 64, 128, 256], _encode),
        "image size, learning from it": ([32, 64, 128, 256], _learn),
    }
    found = {}
    for name, (sizes, make) in axes.items():
        spent = medians(alternate({str(size): make(size) for size in sizes}))
        seconds = list(spent.values())
        exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        found[name] = {"sizes": sizes, "seconds": seconds, "exponent": exponent}
        console.print(
            f"{name:<30}"
            + "".join(f"{n:>6}:{1e3 * s:>7.1f} ms" for n, s in zip(sizes, seconds, strict=True))
            + f"   exponent {exponent:.2f}"
        )
    ratios = {
        f"{name}, {value['sizes'][-1]} over {value['sizes'][0]}: work over time": (
            value["sizes"][-1] / value["sizes"][0]
        )
        / (value["seconds"][-1] / value["seconds"][0])
        for name, value in found.items()
    }
    write_json(
        config.out,
        {"growth": found, "ratios": ratios, "versions": versions(), "machine": machine()},
    )


def _model(width: int = WIDTH, image: int = IMAGE) -> JEPA:
    config = JEPAConfig(EncoderConfig(), PredictorConfig(width=width))
    return JEPA(config, (image, image, 3), ACTION).eval()


def _plan(
    candidates: int = CANDIDATES,
    horizon: int = HORIZON,
    environments: int = ENVIRONMENTS,
    width: int = WIDTH,
) -> Callable[[], Any]:
    jepa = _model(width)
    critic = Critic(CriticConfig(), jepa.dim)
    configurator = Configurator(jepa, critic, Cost("critic", critic))
    planner = ICEM(horizon=horizon, samples=candidates, iterations=4, elites=8)
    bounds = Bounds(-torch.ones(ACTION), torch.ones(ACTION))
    memory = Memory.at_rest(torch.randn(environments, jepa.dim), jepa.history, ACTION)
    generators = [torch.Generator() for _ in range(environments)]

    @torch.no_grad()
    def plan() -> None:
        goal = configurator.goal_from_embedding(-memory.embeddings[:, -1])
        start = planner.start(environments, bounds)
        planner.plan(configurator.cost_fn(memory, goal), start, bounds, generators)

    return plan


def _encode(image: int) -> Callable[[], Any]:
    jepa, images = _model(image=image), _images(image)

    @torch.no_grad()
    def encode() -> None:
        jepa.encode(images)

    return encode


def _learn(image: int) -> Callable[[], Any]:
    jepa, images = _model(image=image).train(), _images(image)
    return lambda: jepa.encode(images).square().sum().backward()


def _images(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8)


if __name__ == "__main__":
    raise SystemExit(run(growth, GrowthConfig))
