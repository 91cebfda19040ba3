"""The policies that are evaluated: the agent and its baselines.

A policy keeps no state of its own: `reset` returns one, `act` takes it and returns the next.
Observations are those of `GoalVectorEnv`, and the simulator's states as `state`, which only the
oracle reads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mujepa.agent.mpc import Agent, AgentState, decision_generator
from mujepa.envs.variation import Variants, physical_draws
from mujepa.envs.world import World
from mujepa.planners import Bounds, CostFn, Planner, SamplingState

State = TypeVar("State")
Observation = dict[str, Any]
Info = dict[str, Any]
Actions = NDArray[np.float32]
Clock = tuple[int, tuple[int, ...]]
"""Environment steps taken, and the seeds of the episodes."""


class Policy(Protocol, Generic[State]):
    """Anything that acts in a batch of B episodes."""

    def reset(self, observation: Observation, info: Info, seeds: Sequence[int]) -> State:
        """Return the state at the start of the episodes; `info` holds the goal images."""
        ...

    def act(self, state: State, observation: Observation) -> tuple[State, Actions]:
        """Return the next state and the actions (B, A)."""
        ...


@dataclass(frozen=True)
class AgentPolicy:
    """The agent, which reads what its encoder reads: usually images."""

    agent: Agent

    def reset(self, observation: Observation, info: Info, seeds: Sequence[int]) -> AgentState:
        """Encode the goals."""
        return self.agent.reset(info[f"goal_{self.agent.observes}"], list(seeds))

    def act(self, state: AgentState, observation: Observation) -> tuple[AgentState, Actions]:
        """Plan from the observation."""
        return self.agent.act(state, observation[self.agent.observes])


@dataclass(frozen=True)
class ZeroPolicy:
    """Zero-action baseline."""

    world: World

    def reset(self, observation: Observation, info: Info, seeds: Sequence[int]) -> int:
        """Return the number of environments."""
        return len(seeds)

    def act(self, state: int, observation: Observation) -> tuple[int, Actions]:
        """Return the action nearest to zero."""
        idle = np.clip(0.0, self.world.action_low, self.world.action_high)
        return state, np.tile(idle, (state, 1)).astype(np.float32)


@dataclass(frozen=True)
class RandomPolicy:
    """Random baseline: uniform actions, held for a model step, from each episode's own stream."""

    world: World

    def reset(self, observation: Observation, info: Info, seeds: Sequence[int]) -> Clock:
        """Return step 0 and the seeds."""
        return 0, tuple(seeds)

    def act(self, state: Clock, observation: Observation) -> tuple[Clock, Actions]:
        """Draw an action for each episode."""
        step, seeds = state
        now, size = step // self.world.task.frame_skip, len(self.world.action_low)
        unit = [np.random.default_rng([seed, now]).uniform(-1, 1, size) for seed in seeds]
        return (step + 1, seeds), self.world.from_unit(np.stack(unit)).astype(np.float32)


@dataclass(frozen=True)
class OracleState:
    """State of the oracle."""

    seeds: tuple[int, ...]
    step: int  # environment steps taken
    sampling: SamplingState
    unit: NDArray[np.float64]  # actions that are held, (B, A), in [-1, 1]
    variants: Variants = None  # worlds of the episodes, if they vary


@dataclass(frozen=True)
class OraclePolicy:
    """The same planner on the true simulator, with the true remaining distance as its cost.

    Where it fails, the task or the planner is at fault, not the learned model.
    """

    world: World
    planner: Planner

    @functools.cached_property
    def _bounds(self) -> Bounds:
        unit = torch.ones(len(self.world.action_low))
        return Bounds(-unit, unit)

    def reset(self, observation: Observation, info: Info, seeds: Sequence[int]) -> OracleState:
        """Begin with the planner's initial distribution and the physics of each episode."""
        variants = None
        if "variation" in info:
            draws = physical_draws(info["variation"], len(seeds))
            variants = [self.world.variant(draw) for draw in draws]
        sampling = self.planner.start(len(seeds), self._bounds)
        unit = np.zeros((len(seeds), len(self.world.action_low)))
        return OracleState(tuple(seeds), 0, sampling, unit, variants)

    def act(self, state: OracleState, observation: Observation) -> tuple[OracleState, Actions]:
        """Plan at every model step from the simulator's states."""
        skip = self.world.task.frame_skip
        if state.step % skip == 0:
            generators = [decision_generator(seed, state.step // skip) for seed in state.seeds]
            cost = self.cost_fn(observation["state"], observation["desired_goal"], state.variants)
            plan = self.planner.plan(cost, state.sampling, self._bounds, generators)
            sampling = self.planner.shift(plan.sampling, self._bounds)
            state = replace(state, sampling=sampling, unit=plan.actions[:, 0].double().numpy())
        action = self.world.from_unit(state.unit).astype(np.float32)
        return replace(state, step=state.step + 1), action

    def cost_fn(
        self, states: NDArray[np.float64], goals: NDArray[np.float64], variants: Variants = None
    ) -> CostFn:
        """Return the cost of actions (B, N, H, A): the mean remaining distance to goals (B, G)."""

        def cost(actions: torch.Tensor) -> torch.Tensor:
            batch, candidates, horizon, size = actions.shape
            controls = self.world.from_unit(actions.reshape(-1, horizon, size).numpy())
            starts = np.repeat(states, candidates, axis=0)
            worlds = variants and [one for one in variants for _ in range(candidates)]
            _, achieved = self.world.rollout(starts, controls, self.world.task.frame_skip, worlds)
            desired = np.repeat(goals, candidates, axis=0)[:, None]
            remaining = self.world.task.remaining(achieved, desired)
            return torch.from_numpy(remaining.mean(axis=1).reshape(batch, candidates)).float()

        return cost
