"""The networks of a run, and the settings of the agent that they make."""

from __future__ import annotations

from typing import Any

from mujepa.agent.checkpoint import AgentConfig, Checkpoint, Networks
from mujepa.envs.world import World
from mujepa.rollouts.store import DatasetSpec
from mujepa.training.config import AUTO, TrainConfig


def make_networks(
    config: TrainConfig, world: World | None, spec: DatasetSpec | None = None
) -> tuple[AgentConfig, Networks]:
    """Return the networks of a run and the settings of its agent."""
    if world:
        resting = world.state(world.model.qpos0)[None]
        about: dict[str, Any] = {
            "task": world.task.name,
            "observation_shape": world.observe(resting, config.jepa.encoder.observes).shape[1:],
            "action_low": tuple(world.action_low.tolist()),
            "action_high": tuple(world.action_high.tolist()),
            "goal_size": world.goal_size,
            "quantities": world.quantities,
            "frame_skip": world.task.frame_skip,
        }
    else:
        assert spec is not None
        about = {
            "task": None,
            "observation_shape": (spec.image_size, spec.image_size, 3),
            "action_low": tuple(spec.action_low),
            "action_high": tuple(spec.action_high),
            "goal_size": 0,
            "frame_skip": spec.frame_skip,
        }
    agent_config = AgentConfig(
        **about, jepa=config.jepa, critic=config.critic, ensemble=config.ensemble,
        actor=config.actor, planner=config.planner, cost=config.cost, actor_mode=config.mode,
    )  # fmt: skip
    networks = Networks(agent_config)
    cost = "critic" if config.cost == AUTO else config.cost
    Checkpoint(agent_config, networks, {}, config.out).agent(cost=cost)  # is the cost readable?
    return agent_config, networks
