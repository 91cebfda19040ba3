"""An agent with an alarm: it slows down or replans when the world surprises it.

Surprise is the squared error of the one-step prediction. The threshold is a quantile of it on
episodes of the usual world.

Letters: B environments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mujepa.agent.mpc import Agent, AgentState
from mujepa.envs.world import World
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import manifest_of
from mujepa.evaluation.policies import AgentPolicy, Observation
from mujepa.planners import Plan, SamplingState, advance

Response = Literal["slow", "replan"]
FALSE_ALARMS = 0.01
"""Share of the decisions in the usual world that may set off the alarm."""
STREAM = 9
"""Second word of the random streams of the episodes that the threshold is set on."""


@dataclass(frozen=True)
class Alarm:
    """When the alarm is set off, and the response.

    Attributes:
        threshold: surprise above which it is set off; infinite: never.
        response: take a `share` of the action, or replan.
        decisions: for which it stays active, including the one that triggered it.
        share: of the action that a slow agent takes; the rest is the idle action.
    """

    threshold: float
    response: Response = "replan"
    decisions: int = 5
    share: float = 0.5

    def next(self, active: Tensor | None, surprise: Tensor) -> Tensor:
        """Return for how many decisions the alarm stays active in each environment, (B,)."""
        active = torch.zeros_like(surprise, dtype=torch.int64) if active is None else active
        return torch.where(surprise > self.threshold, self.decisions, (active - 1).clamp(min=0))


@dataclass(frozen=True)
class AlarmState(AgentState):
    """The agent's state, the latest surprise (B,), and how long the alarm stays active (B,)."""

    surprise: Tensor | None = None
    active: Tensor | None = None


class AlarmedAgent(Agent):
    """An agent that responds to surprise."""

    def __init__(self, agent: Agent, alarm: Alarm) -> None:
        vars(self).update(vars(agent))
        self.alarm = alarm
        idle = np.clip(0.0, self._low, self._high)
        idle = 2 * (idle - self._low) / (self._high - self._low) - 1
        self._idle = torch.from_numpy(idle).float().to(self.device)

    def reset(self, goal: NDArray[Any], seed: Any = 0) -> AgentState:  # noqa: ANN401
        """Return the initial state for a goal."""
        return AlarmState(**vars(super().reset(goal, seed)))

    def _perceive(self, state: AgentState, images: Tensor) -> AgentState:
        assert isinstance(state, AlarmState)
        after = super()._perceive(state, images)
        if state.memory is None or state.action is None:
            return after
        assert after.memory is not None
        seen = after.memory.embeddings[:, -1]
        surprise = self.jepa.surprise(state.memory, state.action, seen)
        return replace(after, surprise=surprise, active=self.alarm.next(state.active, surprise))

    def _decide(self, state: AgentState) -> AgentState:
        assert isinstance(state, AlarmState)
        now, active = state.step // self.frame_skip, state.active
        if active is None or not (active > 0).any():
            return super()._decide(state)
        if self.alarm.response == "slow":
            after = super()._decide(state)
            assert after.action is not None
            slower = self._idle + self.alarm.share * (after.action - self._idle)
            return replace(after, action=torch.where(active[:, None] > 0, slower, after.action))
        if state.plan is not None and now % self.replan_every:
            kept, steps = state.plan, now - state.planned_at
            old = replace(
                kept,
                actions=advance(kept.actions, steps),
                sampling=self.planner.shift(kept.sampling, self._bounds, steps),
            )
            state = replace(state, plan=merge(old, self.plan(state), active > 0), planned_at=now)
            assert state.plan is not None
            return replace(state, action=state.plan.actions[:, 0])
        return super()._decide(state)


def merge(old: Plan, new: Plan, renewed: Tensor) -> Plan:
    """Return the new plan in the environments (B,) that replanned, the old one elsewhere."""

    def choose(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(renewed.view(-1, *[1] * (new.ndim - 1)), new, old)

    def choose_sampling(old: SamplingState, new: SamplingState) -> SamplingState:
        elites = new.elites
        if old.elites is not None and elites is not None:
            elites = choose(old.elites, elites)
        return SamplingState(choose(old.mean, new.mean), choose(old.std, new.std), elites)

    return replace(
        new,
        actions=choose(old.actions, new.actions),
        cost=choose(old.cost, new.cost),
        sampling=choose_sampling(old.sampling, new.sampling),
    )


@dataclass(frozen=True)
class WatchedPolicy(AgentPolicy):
    """The agent, and a function that is called with its state before and after each decision."""

    watch: Callable[[AlarmState, AlarmState], object]

    def act(
        self, state: AgentState, observation: Observation
    ) -> tuple[AgentState, NDArray[np.float32]]:
        """Act as the agent does."""
        after, action = super().act(state, observation)
        if state.step % self.agent.frame_skip == 0:
            assert isinstance(state, AlarmState)
            assert isinstance(after, AlarmState)
            self.watch(state, after)
        return after, action


def usual_threshold(agent: AlarmedAgent, world: World, seed: int, episodes: int) -> float:
    """Return the surprise that a share `FALSE_ALARMS` of decisions in a world exceeds.

    Args:
        agent: with an alarm that is never set off.
        world: the usual one.
        seed: of the episodes, which differ from those of training and evaluation.
        episodes: how many.
    """
    streams = (np.random.default_rng([seed, STREAM, index]) for index in range(episodes))
    manifest = manifest_of([world.sample_episode(rng) for rng in streams], seed)
    surprises: list[Tensor] = []

    def watch(before: AlarmState, after: AlarmState) -> None:
        if after.surprise is not None:
            surprises.append(after.surprise)

    run_episodes(world, WatchedPolicy(agent, watch), manifest)
    return float(torch.cat(surprises).double().quantile(1 - FALSE_ALARMS))
