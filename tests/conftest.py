"""What the tests share: one compiled world, and agents small enough to build in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mujepa.agent.checkpoint import AgentConfig, Checkpoint, Networks
from mujepa.agent.critic import CriticConfig
from mujepa.agent.encoder import EncoderConfig
from mujepa.agent.jepa import JEPAConfig
from mujepa.agent.predictor import PredictorConfig
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.planners import PlannerConfig

QUIETLY = ("background-networking", "component-update", "gpu", "quic", "sync")
CHROMIUM = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{it}" for it in QUIETLY)]

torch.set_num_threads(1)  # small tensors: threads cost more than they bring

TINY = AgentConfig(
    task="reacher",
    observation_shape=(32, 32, 3),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    goal_size=3,
    frame_skip=4,
    jepa=JEPAConfig(EncoderConfig(dim=8, width=8), PredictorConfig(width=16)),
    critic=CriticConfig(width=16, features=4),
    planner=PlannerConfig(horizon=3, samples=16, iterations=2, elites=4),
)


@pytest.fixture(scope="session")
def world():
    """The reacher; stateless, so that all tests may use it."""
    return World(find_task("reacher"))


@pytest.fixture
def tiny():
    """Return settings of a small agent, with changes."""
    return lambda **changes: replace(TINY, **changes)


@pytest.fixture
def untrained():
    """Return a checkpoint in memory whose weights are random, the same for the same seed."""

    def build(config: AgentConfig = TINY, seed: int = 0) -> Checkpoint:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            networks = Networks(config)
            mean = networks.jepa.encoder.normalise.running_mean
            assert mean is not None
            mean.normal_(std=0.1)
        return Checkpoint(config, networks.eval().requires_grad_(False), {}, Path())

    return build


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, as `make test` installs it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield chromium
        chromium.close()
