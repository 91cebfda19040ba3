"""On-policy collection: an agent acts in episodes, which become a shard of its dataset.

Letters: B episodes, T model steps, P image size, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mujepa.agent.checkpoint import Checkpoint
from mujepa.agent.mpc import Agent, AgentState
from mujepa.envs.behaviour import RedNoise
from mujepa.envs.world import World
from mujepa.evaluation.loop import Outcome, run_episodes
from mujepa.evaluation.manifest import Manifest
from mujepa.evaluation.policies import AgentPolicy, Observation
from mujepa.rollouts.collection import columns_of
from mujepa.rollouts.store import read_meta, write_meta, write_shard
from mujepa.runtime.files import sha256


@dataclass(frozen=True)
class Exploration:
    """Noise on the agent's actions, and spells of random behaviour (epsilon-random exploration).

    On-policy data alone cannot correct the model: if it mistakes a tilted pendulum for an upright
    one, the agent never visits the upright state. A spell of the task's behaviour policy begins and
    ends with these probabilities at each model step.
    """

    noise: RedNoise = field(default_factory=lambda: RedNoise(strength=(0.0, 0.5)))
    begin: float = 1 / 15
    end: float = 1 / 5

    def random_steps(self, rng: np.random.Generator, steps: int) -> NDArray[np.bool_]:
        """Return at which model steps of an episode the behaviour policy acts, (steps,)."""
        draws, found = rng.random(steps), np.zeros(steps + 1, bool)
        for step, draw in enumerate(draws):
            found[step + 1] = draw >= self.end if found[step] else draw < self.begin
        return found[1:]


@dataclass(frozen=True)
class ExplorerState:
    """State of an explorer: noise on the agent's actions (B, T, A), when behaviour acts (B, T).

    The noise of the behaviour policy has the shape (B, T, A + extra_noise_dims).
    """

    agent: AgentState
    noise: NDArray[np.float64]
    random: NDArray[np.bool_]
    behaviour: NDArray[np.float64]


@dataclass(frozen=True)
class Explorer:
    """The agent with exploration; its memory holds the actions that were taken."""

    agent: Agent
    world: World
    exploration: Exploration = field(default_factory=Exploration)

    def reset(
        self, observation: Observation, info: dict[str, Any], seeds: Sequence[int]
    ) -> ExplorerState:
        """Set the goals, and draw the exploration of the episodes."""
        task, size = self.world.task, len(self.world.action_low)
        steps = -(-task.budget_steps // self.agent.frame_skip)
        noise, random, behaviour = [], [], []
        for rng in map(np.random.default_rng, seeds):
            noise.append(self.exploration.noise.draw(rng, steps, size))
            random.append(self.exploration.random_steps(rng, steps))
            behaviour.append(task.behaviour.draw(rng, steps, size + task.extra_noise_dims))
        agent = AgentPolicy(self.agent).reset(observation, info, seeds)
        return ExplorerState(agent, np.stack(noise), np.stack(random), np.stack(behaviour))

    def act(
        self, state: ExplorerState, observation: Observation
    ) -> tuple[ExplorerState, NDArray[np.float32]]:
        """Return the agent's actions with noise, or those of the behaviour policy."""
        step, skip = state.agent.step, self.agent.frame_skip
        agent, action = AgentPolicy(self.agent).act(state.agent, observation)
        if step % skip == 0:
            assert agent.action is not None
            now, world = step // skip, self.world
            own = agent.action.cpu().double().numpy() + state.noise[:, now]
            other = world.task.behave(world, observation["state"], state.behaviour[:, now])
            unit = np.clip(np.where(state.random[:, now, None], other, own), -1, 1)
            agent = replace(agent, action=torch.from_numpy(unit).to(agent.action))
            action = world.from_unit(unit).astype(np.float32)
        return replace(state, agent=agent), action


def collect_on_policy(
    folder: Path,
    name: str,
    checkpoint: Checkpoint,
    world: World,
    manifest: Manifest,
    on_step: Callable[[], object] = lambda: None,
) -> Outcome:
    """Run an agent with exploration, and add all episodes to a dataset, or none."""
    explorer = Explorer(checkpoint.agent(), world)
    outcome = run_episodes(world, explorer, manifest, on_step)
    skip = world.task.frame_skip
    steps = world.task.budget_steps // skip
    columns = columns_of(
        world,
        outcome.states[:, ::skip][:, : steps + 1],
        outcome.actions[:, ::skip][:, :steps],
        world.variants(episode.draw for episode in manifest.episodes),
    )
    origin = {
        "weights": sha256(checkpoint.folder / "model.safetensors"),
        "cost": checkpoint.config.cost,
        "mode": checkpoint.config.actor_mode,
        "exploration": asdict(explorer.exploration),
        "variation": world.variation.plain() if world.variation else {},
    }
    write_shard(folder / name, columns, [steps + 1] * len(manifest.episodes), origin)
    spec, shards = read_meta(folder)
    write_meta(folder, spec, sorted([*shards, name]))
    return outcome
