"""What an agent lives through: episodes that it acts in itself, kept as a shard of its data.

Letters: B episodes, T model steps, A action.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mujepa.envs.behaviour import RedNoise
from mujepa.evaluation.loop import Outcome, run_episodes
from mujepa.evaluation.policies import AgentPolicy, Observation
from mujepa.rollouts.collection import columns_of
from mujepa.rollouts.store import read_meta, write_meta, write_shard
from mujepa.runtime.files import sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mujepa.agent.checkpoint import Checkpoint
    from mujepa.agent.mpc import Agent, AgentState
    from mujepa.envs.world import World
    from mujepa.evaluation.manifest import Manifest


@dataclass(frozen=True)
class Wandering:
    """How far an agent strays from its plans while it lives.

    An agent that follows its plans sees what it believes in: a pendulum that it holds aslant,
    since its model takes that for upright, never shows it upright. So it lets go of them for a
    while, does what the behaviour policy of the task does, and plans on from where that has led.

    Attributes:
        noise: added to what it plans, drawn for each episode.
        begin: chance at a model step to let go.
        end: chance at a model step to plan again.
    """

    noise: RedNoise = field(default_factory=lambda: RedNoise(strength=(0.0, 0.5)))
    begin: float = 1 / 15
    end: float = 1 / 5

    def spells(self, rng: np.random.Generator, steps: int) -> NDArray[np.bool_]:
        """Return the model steps, (steps,), at which plans are let go in an episode."""
        draws, astray = rng.random(steps), np.zeros(steps + 1, bool)
        for step, draw in enumerate(draws):
            astray[step + 1] = draw >= self.end if astray[step] else draw < self.begin
        return astray[1:]


@dataclass(frozen=True)
class ExplorerState:
    """What an explorer carries.

    Attributes:
        agent: the agent's state.
        noise: added to what it plans, (B, T, A).
        astray: at which model steps it does not plan, (B, T).
        behaviour: noise of the behaviour policy, there, (B, T, A + extra_noise_dims).
    """

    agent: AgentState
    noise: NDArray[np.float64]
    astray: NDArray[np.bool_]
    behaviour: NDArray[np.float64]


@dataclass(frozen=True)
class Explorer:
    """The agent, but what it does is disturbed; it knows of that, since it has felt its actions.

    Attributes:
        agent: who acts.
        world: in which.
        wandering: how it is disturbed, drawn from each episode's own seed.
    """

    agent: Agent
    world: World
    wandering: Wandering = field(default_factory=Wandering)

    def reset(
        self, observation: Observation, info: dict[str, Any], seeds: Sequence[int]
    ) -> ExplorerState:
        """Want what the goals show, and draw all that disturbs."""
        task, size = self.world.task, len(self.world.action_low)
        steps = -(-task.budget_steps // self.agent.frame_skip)
        noise, astray, behaviour = [], [], []
        for rng in map(np.random.default_rng, seeds):
            noise.append(self.wandering.noise.draw(rng, steps, size))
            astray.append(self.wandering.spells(rng, steps))
            behaviour.append(task.behaviour.draw(rng, steps, size + task.extra_noise_dims))
        agent = AgentPolicy(self.agent).reset(observation, info, seeds)
        return ExplorerState(agent, np.stack(noise), np.stack(astray), np.stack(behaviour))

    def act(
        self, state: ExplorerState, observation: Observation
    ) -> tuple[ExplorerState, NDArray[np.float32]]:
        """Plan on what is seen, and do something near it, or something else."""
        step, skip = state.agent.step, self.agent.frame_skip
        agent, action = AgentPolicy(self.agent).act(state.agent, observation)
        if step % skip == 0:
            assert agent.action is not None
            now = step // skip
            near = agent.action.cpu().double().numpy() + state.noise[:, now]
            other = self.world.task.behaviour_action(
                self.world, observation["state"], state.behaviour[:, now]
            )
            unit = np.clip(np.where(state.astray[:, now, None], other, near), -1, 1)
            agent = replace(agent, action=torch.from_numpy(unit).to(agent.action))
            action = self.world.from_unit(unit).astype(np.float32)
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
    origin = {
        "weights": sha256(checkpoint.folder / "model.safetensors"),
        "cost": cost,
        "mode": checkpoint.config.actor_mode,
        "wandering": asdict(explorer.wandering),
        "variation": world.variation.plain() if world.variation else {},
    }
    write_shard(folder / name, columns, [steps + 1] * len(manifest.episodes), origin)
    spec, shards = read_meta(folder)
    write_meta(folder, spec, sorted([*shards, name]))
    return outcome
