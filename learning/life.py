"""What an agent lives through: episodes that it acts in itself, kept as a shard of its data.

Letters: B episodes, T model steps, A action.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mujepa.envs.behaviour import RedNoise
from mujepa.evaluation.loop import Outcome, run_episodes
from mujepa.evaluation.policies import AgentPolicy, Observation
from mujepa.files import sha256
from mujepa.rollouts.collect import columns_of
from mujepa.rollouts.store import read_meta, write_meta, write_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mujepa.agent.checkpoint import Checkpoint
    from mujepa.agent.mpc import Agent, AgentState
    from mujepa.envs.world import World
    from mujepa.evaluation.manifest import Manifest

WANDERING = RedNoise(strength=(0.0, 0.5))
"""Added to what the agent does while it lives, from none at all to half of the bounds."""


@dataclass(frozen=True)
class ExplorerState:
    """What an explorer carries: the agent's state, and the noise (B, T, A) of its episodes."""

    agent: AgentState
    noise: NDArray[np.float64]


@dataclass(frozen=True)
class Explorer:
    """The agent, but what it does is disturbed; it knows of that, since it has felt its actions.

    Attributes:
        agent: who acts.
        world: in which.
        noise: of each episode, drawn from the episode's own seed.
    """

    agent: Agent
    world: World
    noise: RedNoise = WANDERING

    def reset(
        self, observation: Observation, info: dict[str, Any], seeds: Sequence[int]
    ) -> ExplorerState:
        """Want what the goals show, and draw the noise."""
        steps = -(-self.world.task.budget_steps // self.agent.frame_skip)
        size = len(self.world.action_low)
        noise = [self.noise.draw(np.random.default_rng(seed), steps, size) for seed in seeds]
        agent = AgentPolicy(self.agent).reset(observation, info, seeds)
        return ExplorerState(agent, np.stack(noise))

    def act(
        self, state: ExplorerState, observation: Observation
    ) -> tuple[ExplorerState, NDArray[np.float32]]:
        """Plan on what is seen, and do something near it."""
        step, skip = state.agent.step, self.agent.frame_skip
        agent, action = AgentPolicy(self.agent).act(state.agent, observation)
        if step % skip == 0:
            assert agent.action is not None
            noise = torch.from_numpy(state.noise[:, step // skip]).to(agent.action)
            unit = (agent.action + noise).clamp(-1, 1)
            agent = replace(agent, action=unit)
            action = self.world.from_unit(unit.cpu().double().numpy()).astype(np.float32)
        return replace(state, agent=agent), action


def curious(cost: str, weight: float) -> str:
    """Return a cost that also seeks what the ensemble disagrees on."""
    return f"{cost} + {-weight!r}*uncertainty" if weight else cost


def live(
    folder: Path,
    name: str,
    checkpoint: Checkpoint,
    world: World,
    manifest: Manifest,
    weight: float = 0.0,
    on_step: Callable[[], object] = lambda: None,
) -> Outcome:
    """Let an agent act in episodes, and add them to a dataset, all of them or none.

    Args:
        folder: of the dataset.
        name: of the new shard.
        checkpoint: of the agent.
        world: in which it lives.
        manifest: starts, goals and seeds of the episodes.
        weight: of curiosity, see `curious`.
        on_step: called after each environment step.

    Raises:
        UserError: the shard cannot be written.
    """
    cost = curious(checkpoint.config.cost, weight)
    agent = checkpoint.agent(cost=cost if weight else None)
    explorer = Explorer(agent, world)
    outcome = run_episodes(world.task, world.image_size, explorer, manifest, on_step)
    skip = world.task.frame_skip
    steps = world.task.budget_steps // skip
    columns = columns_of(
        world,
        outcome.states[:, ::skip][:, : steps + 1],
        outcome.actions[:, ::skip][:, :steps],
        world.variants(episode.draw for episode in manifest.episodes),
    )
    made_by = {
        "weights": sha256(checkpoint.folder / "model.safetensors"),
        "cost": cost,
        "mode": checkpoint.config.mode,
        "noise": asdict(explorer.noise),
        "variation": world.variation.plain() if world.variation else {},
    }
    write_shard(folder / name, columns, [steps + 1] * len(manifest.episodes), made_by)
    recipe, shards = read_meta(folder)
    write_meta(folder, recipe, sorted([*shards, name]))
    return outcome
