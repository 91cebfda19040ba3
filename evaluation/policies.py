"""Who can be judged: the agent, and the bounds that its figures stand between.

A policy keeps no state of its own: `reset` returns one, `act` takes it and returns the next.
Observations are those of `GoalVectorEnv`, with the simulator's states under `state`, at which only
the oracle looks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from mujepa.agent.mpc import Agent, AgentState, decision_generator
from mujepa.envs.variation import physical_draws
from mujepa.planners import Bounds, CostFn, Planner, SamplingState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mujepa.envs.world import Variants, World

State = TypeVar("State")
Observation = dict[str, Any]


class Policy(Protocol, Generic[State]):
    """Anything that acts in a batch of B episodes."""

    def reset(self, observation: Observation, info: dict[str, Any], seeds: Sequence[int]) -> State:
        """Return the state at the start of the episodes; `info` holds the goal images."""
        ...

    def act(self, state: State, observation: Observation) -> tuple[State, NDArray[np.float32]]:
        """Return the next state and the actions (B, A)."""
        ...


@dataclass(frozen=True)
class AgentPolicy:
    """The agent, which sees what its encoder reads: images, as a rule."""

    agent: Agent

    def reset(
        self, observation: Observation, info: dict[str, Any], seeds: Sequence[int]
    ) -> AgentState:
        """Want what the goals show."""
        return self.agent.reset(info[f"goal_{self.agent.observes}"], list(seeds))

    def act(
        self, state: AgentState, observation: Observation
    ) -> tuple[AgentState, NDArray[np.float32]]:
        """Plan on what is seen."""
        return self.agent.act(state, observation[self.agent.observes])


@dataclass(frozen=True)
class ZeroPolicy:
    """The lower bound of those who do nothing."""

    world: World

    def reset(self, observation: Observation, info: dict[str, Any], seeds: Sequence[int]) -> int:
        """Remember how many environments there are."""
        return len(seeds)

    def act(self, state: int, observation: Observation) -> tuple[int, NDArray[np.float32]]:
        """Do nothing: the action nearest to zero."""
        idle = np.clip(0.0, self.world.action_low, self.world.action_high)
        return state, np.tile(idle, (state, 1)).astype(np.float32)


@dataclass(frozen=True)
class RandomPolicy:
    """The lower bound of those who do anything: uniform actions, held for a model step."""

    world: World

    def reset(
        self, observation: Observation, info: dict[str, Any], seeds: Sequence[int]
    ) -> tuple[int, tuple[int, ...]]:
        """Start to count steps."""
        return 0, tuple(seeds)

    def act(
        self, state: tuple[int, tuple[int, ...]], observation: Observation
    ) -> tuple[tuple[int, tuple[int, ...]], NDArray[np.float32]]:
        """Draw an action for each episode from the episode's own stream."""
        step, seeds = state
        now = step // self.world.task.frame_skip
        size = len(self.world.action_low)
        unit = [np.random.default_rng([seed, now]).uniform(-1, 1, size) for seed in seeds]
        return (step + 1, seeds), self.world.from_unit(np.stack(unit)).astype(np.float32)


@dataclass(frozen=True)
class OracleState:
    """Seeds, steps taken, the sampling distribution and the current actions (B, A) of the oracle.

    Where the episodes vary, also the world of each.
    """

    seeds: tuple[int, ...]
    step: int
    sampling: SamplingState
    unit: NDArray[np.float64]
    variants: Variants = None


class OraclePolicy:
    """The upper bound: the same planner on the true simulator, with what truly remains as its cost.

    Where it fails, the task or the planner is at fault, not the learned model.

    Args:
        world: the true simulator.
        planner: the agent's planner.
    """

    def __init__(self, world: World, planner: Planner) -> None:
        self.world = world
        self.planner = planner
        unit = torch.ones(len(world.action_low))
        self._bounds = Bounds(-unit, unit)

    def reset(
        self, observation: Observation, info: dict[str, Any], seeds: Sequence[int]
    ) -> OracleState:
        """Begin with a search that knows nothing but the true physics of each episode."""
        sampling = self.planner.start(len(seeds), self._bounds)
        still = np.zeros((len(seeds), len(self.world.action_low)))
        variants = None
        if "variation" in info:
            draws = physical_draws(info["variation"], len(seeds))
            variants = [self.world.variant(draw) for draw in draws]
        return OracleState(tuple(seeds), 0, sampling, still, variants)

    def act(
        self, state: OracleState, observation: Observation
    ) -> tuple[OracleState, NDArray[np.float32]]:
        """Plan at every model step on the simulator's states."""
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
        self,
        states: NDArray[np.float64],
        goals: NDArray[np.float64],
        variants: Variants = None,
    ) -> CostFn:
        """Return the cost of actions (B, N, H, A): what remains to the goals (B, G), on average."""

        def cost(actions: torch.Tensor) -> torch.Tensor:
            batch, candidates, horizon, size = actions.shape
            controls = self.world.from_unit(actions.reshape(-1, horizon, size).numpy())
            starts = np.repeat(states, candidates, axis=0)
            worlds = variants and [one for one in variants for _ in range(candidates)]
            _, achieved = self.world.rollout(starts, controls, self.world.task.frame_skip, worlds)
            wanted = np.repeat(goals, candidates, axis=0)[:, None]
            remaining = self.world.task.remaining(achieved, wanted)
            return torch.from_numpy(remaining.mean(axis=1).reshape(batch, candidates)).float()

        return cost
