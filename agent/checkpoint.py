"""A checkpoint is a folder with an agent's weights and everything needed to use them.

    model.safetensors   world model, critic, actor, ensemble and probe
    config.json         sizes, task, action bounds, frame skip, planner, cost, the weights' checksum
    provenance.json     how it was made: command, versions, seed, data, minutes

Nothing in it is unpickled, so that a checkpoint of unknown origin is safe to load.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from mujepa.agent.actor import Actor, ActorConfig
from mujepa.agent.configurator import Configurator
from mujepa.agent.cost import Cost, CostFunction
from mujepa.agent.critic import Critic, CriticConfig
from mujepa.agent.device import DeviceName, choose_device
from mujepa.agent.ensemble import Ensemble, EnsembleConfig
from mujepa.agent.jepa import JEPA, JEPAConfig
from mujepa.agent.mpc import Agent
from mujepa.agent.probe import LinearProbe
from mujepa.planners import Planner, PlannerConfig, make_planner
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, replacing_folder, sha256, surviving_folder, write_json
from mujepa.runtime.settings import Count, Finite, Index, read_settings, settings

SCHEMA_VERSION = 3
ActorMode = Literal["planner", "proposing", "reactive"]
"""Who acts: the planner alone, the planner with a proposal of the actor, or the actor alone."""
REMEDY = "train one with: mujepa train TASK --out FOLDER"


@settings
class AgentConfig:
    """Everything that turns weights into an agent."""

    task: str | None  # name of the task; None if the data came without a simulator
    observation_shape: tuple[Count, ...]  # (P, P, 3) for images, (S,) for state vectors
    action_low: tuple[Finite, ...]  # lower bounds of the environment's action, A numbers
    action_high: tuple[Finite, ...]  # upper bounds
    goal_size: Index  # G, numbers that the probe reads; 0 if the data had none
    frame_skip: Count  # environment steps for which an action is held
    jepa: JEPAConfig = field(default_factory=JEPAConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    cost: str = "critic"  # what the planner minimises, see `agent.cost`
    replan_every: Count = 1  # model steps between plans
    actor_mode: ActorMode = "proposing"  # who acts, see `ActorMode`
    quantities: tuple[str, ...] = ()  # names of the G numbers, such as `fingertip.x`

    def __post_init__(self) -> None:
        if self.quantities and len(self.quantities) != self.goal_size:
            raise UserError(f"{len(self.quantities)} quantities, but goal_size {self.goal_size}")
        low, high = self.action_low, self.action_high
        if not low or len(low) != len(high) or not all(map(operator.lt, low, high)):
            raise UserError(f"action bounds need low < high, got {low} and {high}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the probe's quantities; `q0`, `q1`, ... if there are none."""
        return self.quantities or tuple(f"q{index}" for index in range(self.goal_size))

    @property
    def image_size(self) -> int:
        """Width and height of the task's images; 64 if the encoder reads none."""
        return self.observation_shape[0] if len(self.observation_shape) == 3 else 64


class Networks(nn.Module):
    """All that is learned: `jepa`, `critic`, `probe`, `ensemble` and `actor`."""

    def __init__(self, config: AgentConfig) -> None:
        super().__init__()
        self.jepa = JEPA(config.jepa, config.observation_shape, len(config.action_low))
        self.critic = Critic(config.critic, config.jepa.encoder.dim)
        self.probe = LinearProbe(config.jepa.encoder.dim, config.names)
        sizes = self.jepa.history, self.jepa.dim, self.jepa.action_size
        with torch.random.fork_rng(devices=[]):
            self.ensemble = Ensemble(config.ensemble, *sizes)
            self.actor = Actor(config.actor, *sizes)

    def cost(self, expression: str | CostFunction) -> Cost:
        """Return the cost that an expression describes, or that a function computes."""
        return Cost(expression, self.critic, self.probe, self.ensemble)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: settings, networks in evaluation mode, and provenance."""

    config: AgentConfig
    networks: Networks
    provenance: dict[str, Any]
    folder: Path

    @property
    def task_name(self) -> str:
        """Name of the task; `UserError` if the agent was trained on data without a simulator."""
        if self.config.task is None:
            raise UserError(
                f"{self.folder} was trained on data without a simulator: it can act, but there is "
                "no task to run it on"
            )
        return self.config.task

    def agent(
        self,
        planner: PlannerConfig | Planner | None = None,
        cost: str | CostFunction | None = None,
        actor: ActorMode | None = None,
    ) -> Agent:
        """Return the agent, with another planner, cost or actor if given.

        Raises:
            UserError: the cost cannot be read, or the settings do not fit together.
        """
        config, networks = self.config, self.networks
        actor = config.actor_mode if actor is None else actor
        if actor not in get_args(ActorMode):
            raise UserError(f"no actor {actor!r}; there are: {', '.join(get_args(ActorMode))}")
        if actor == "reactive" and cost is not None:
            raise UserError(
                f"cost {cost!r} does not affect a reactive actor, which acts without a search; "
                "leave it out"
            )
        cost = networks.cost(config.cost if cost is None else cost)
        planner = config.planner if planner is None else planner
        return Agent(
            Configurator(networks.jepa, networks.critic, cost),
            planner if isinstance(planner, Planner) else make_planner(planner),
            np.array(config.action_low),
            np.array(config.action_high),
            config.frame_skip,
            config.replan_every,
            None if actor == "planner" else networks.actor,
            reactive=actor == "reactive",
            task=config.task,
        )


def save_checkpoint(
    folder: Path,
    config: AgentConfig,
    networks: Networks,
    provenance: dict[str, Any],
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all; `extra` adds files to the unfinished folder.

    Raises:
        UserError: the folder cannot be written.
    """
    with replacing_folder(folder) as temporary:
        weights = temporary / "model.safetensors"
        save_tensors(weights, networks.state_dict())
        header = {"schema_version": SCHEMA_VERSION, "weights_sha256": sha256(weights)}
        write_json(temporary / "config.json", header | asdict(config))
        write_json(temporary / "provenance.json", provenance)
        if extra is not None:
            extra(temporary)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors to a safetensors file, from any device."""
    local = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    path.write_bytes(safetensors.torch.save(local))


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder at a path: itself, or a training run's best or last."""
    for folder in (path, path / "best", path / "last"):
        found = surviving_folder(folder)
        if (found / "config.json").exists():
            return found
    raise UserError(f"no checkpoint in {path}; {REMEDY}")


def load_checkpoint(path: str | Path, device: DeviceName = "auto") -> Checkpoint:
    """Load a checkpoint from its folder or that of a training run.

    Raises:
        UserError: it is missing, damaged or of another schema.
    """
    folder = find_checkpoint(Path(path))
    source, weights = folder / "config.json", folder / "model.safetensors"
    raw = read_json(source, REMEDY)
    version, digest = raw.pop("schema_version", None), raw.pop("weights_sha256", None)
    if version != SCHEMA_VERSION:
        convert = f"convert it with: python benchmarks/convert_checkpoints.py {folder}"
        raise UserError(
            f"{folder} has checkpoint schema {version!r}, this version reads {SCHEMA_VERSION}; "
            f"{convert if version == 2 else REMEDY}"
        )
    if not weights.is_file() or sha256(weights) != digest:
        raise UserError(f"{weights} is missing or damaged (checksum); {REMEDY}")
    config = read_settings(AgentConfig, raw, str(source), REMEDY)
    try:
        networks = _read_networks(config, weights)
    except (safetensors.SafetensorError, UserError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} is damaged ({reason}); {REMEDY}") from error
    networks.eval().requires_grad_(requires_grad=False).to(choose_device(device))
    origin = folder / "provenance.json"
    provenance = read_json(origin, REMEDY) if origin.exists() else {}
    return Checkpoint(config, networks, provenance, folder)


def _read_networks(config: AgentConfig, path: Path) -> Networks:
    networks, tensors = Networks(config), safetensors.torch.load_file(path)
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"weights {name} are not finite")
    networks.load_state_dict(tensors)
    return networks
