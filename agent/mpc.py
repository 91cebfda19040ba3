"""The agent: model-predictive control in embedding space, with its state in the caller's hands.

    agent = mujepa.load("pretrained/reacher")
    state = agent.reset(goal_image)
    state, action = agent.act(state, image)

Letters: B environments, K history, H horizon in model steps, D embedding, A action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mujepa.agent.actor import Actor
from mujepa.agent.configurator import Configurator
from mujepa.agent.cost import Goal, Trajectory
from mujepa.agent.encoder import Observes
from mujepa.agent.memory import Memory
from mujepa.planners import Bounds, Plan, Planner
from mujepa.runtime.errors import UserError


@dataclass(frozen=True)
class AgentState:
    """Everything that the agent carries from one step to the next."""

    goal: Goal  # the goal of each of the B environments
    seeds: tuple[int, ...]  # the seed of each environment
    single: bool  # whether there is one environment, without a batch axis
    step: int = 0  # environment steps taken
    memory: Memory | None = None  # short-term memory; None before the first image
    plan: Plan | None = None  # the latest plan; a reactive agent has none
    planned_at: int = 0  # model step of the latest plan
    action: Tensor | None = None  # the current one (B, A), in [-1, 1]; None before the first image


class Agent:
    """Encodes images, plans in the world model, and takes the first action of the best plan.

    This is mode 2 of LeCun's architecture; the actor proposes a sequence to the planner, if it is
    given. In mode 1, `reactive`, the actor chooses the action. An action is held for `frame_skip`
    environment steps, which are one model step; there are `replan_every` model steps between plans.

    Raises:
        UserError: `replan_every` is above the horizon, or a reactive agent has no actor.
    """

    def __init__(
        self,
        configurator: Configurator,
        planner: Planner,
        action_low: NDArray[np.float64],
        action_high: NDArray[np.float64],
        frame_skip: int,
        replan_every: int = 1,
        actor: Actor | None = None,
        *,
        reactive: bool = False,
        task: str | None = None,
    ) -> None:
        if reactive and actor is None:
            raise UserError("a reactive agent needs an actor")
        if not 1 <= replan_every <= planner.horizon:
            raise UserError(
                f"replan_every must be from 1 to the horizon {planner.horizon}, got {replan_every}"
            )
        self.configurator = configurator
        self.jepa = configurator.jepa
        self.observes: Observes = self.jepa.observes
        self.planner = planner
        self.actor = actor
        self.reactive = reactive
        self.task = task
        self.frame_skip = frame_skip
        self.replan_every = replan_every
        self.device = next(self.jepa.parameters()).device
        self._low, self._high = np.asarray(action_low), np.asarray(action_high)
        unit = torch.ones(len(self._low), device=self.device)
        self._bounds = Bounds(-unit, unit)

    def __repr__(self) -> str:
        parts = [self.jepa, self.configurator.critic, *([self.actor] if self.actor else [])]
        count = sum(parameter.numel() for part in parts for parameter in part.parameters())
        acts = "reactive" if self.reactive else f"planner={type(self.planner).__name__}"
        return f"Agent(task={self.task!r}, {acts}, {count:,} parameters, device={self.device})"

    @torch.no_grad()
    def reset(self, goal: NDArray[Any], seed: int | Sequence[int] = 0) -> AgentState:
        """Return the initial state for a goal.

        The goal is an image (P, P, 3), or one for each of B environments (B, P, P, 3); a vector
        (S,), or (B, S), if the encoder reads joint positions and velocities. There is one seed for
        each environment, or the first of consecutive seeds.

        Raises:
            UserError: the agent was trained on observations of another shape or type.
        """
        images = self._batch(goal, "goal image")
        count, single = len(images), np.ndim(goal) < images.ndim
        seeds = range(seed, seed + count) if isinstance(seed, int | np.integer) else seed
        if len(seeds) != count:
            raise UserError(f"{count} goal images but {len(seeds)} seeds; give one seed for each")
        return AgentState(self.configurator.goal(images), tuple(seeds), single)

    @torch.no_grad()
    def act(
        self, state: AgentState, observation: NDArray[Any]
    ) -> tuple[AgentState, NDArray[np.float32]]:
        """Take one environment step; between every `frame_skip`-th steps, hold the action.

        Returns the next state, and the action (A,) or (B, A), within the environment's bounds.

        Raises:
            UserError: the agent was trained on observations of another shape or type.
        """
        if state.step % self.frame_skip == 0:
            state = self._decide(self._perceive(state, self._batch(observation, "image")))
        assert state.action is not None
        unit = state.action.cpu().double().numpy()
        action = (self._low + (unit + 1) / 2 * (self._high - self._low)).astype(np.float32)
        return replace(state, step=state.step + 1), action[0] if state.single else action

    @torch.no_grad()
    def predict(self, state: AgentState) -> tuple[Tensor, Tensor]:
        """Return the embeddings (B, H, D) of the planned trajectory, and its cost (B,)."""
        trajectory = self.planned_trajectory(state)
        cost = self.configurator.cost(trajectory, state.goal)
        return trajectory.embeddings[:, 0], cost[:, 0]

    @torch.no_grad()
    def planned_trajectory(self, state: AgentState) -> Trajectory:
        """Return the rest of the plan, or of a reactive actor the rollout, with N = 1."""
        if state.memory is None:
            raise ValueError("the agent has not seen an image yet; call act first")
        if state.plan is not None:
            now = (state.step - 1) // self.frame_skip
            actions = state.plan.actions[:, now - state.planned_at :]
            embeddings = self.jepa.unroll(state.memory, actions)
        else:
            assert self.actor is not None
            embeddings, actions = self.actor.rollout(
                self.jepa, state.memory, state.goal.embedding, self.planner.horizon
            )
        return Trajectory(embeddings[:, None], actions[:, None], state.memory)

    @torch.no_grad()
    def plan(self, state: AgentState) -> Plan:
        """Search for the best action sequence from the state's memory towards its goal."""
        assert state.memory is not None
        now = state.step // self.frame_skip
        sampling = self.planner.start(len(state.seeds), self._bounds)
        if state.plan is not None:
            steps = now - state.planned_at
            sampling = self.planner.shift(state.plan.sampling, self._bounds, steps)
        if self.actor is not None:
            _, proposed = self.actor.rollout(
                self.jepa, state.memory, state.goal.embedding, self.planner.horizon
            )
            sampling = sampling.add_candidates(proposed[:, None])
        generators = [decision_generator(seed, now) for seed in state.seeds]
        cost = self.configurator.cost_fn(state.memory, state.goal)
        return self.planner.plan(cost, sampling, self._bounds, generators)

    def _perceive(self, state: AgentState, images: Tensor) -> AgentState:
        embedding = self.jepa.encode(images)
        if len(embedding) != len(state.seeds):
            raise UserError(
                f"{len(embedding)} images, but the agent was reset with {len(state.seeds)} goals"
            )
        if state.memory is None or state.action is None:
            memory = Memory.at_rest(embedding, self.jepa.history, len(self._low))
        else:
            memory = state.memory.push(state.action, embedding)
        return replace(state, memory=memory)

    def _decide(self, state: AgentState) -> AgentState:
        if self.reactive:
            assert self.actor is not None
            assert state.memory is not None
            return replace(state, action=self.actor(state.memory, state.goal.embedding))
        now = state.step // self.frame_skip
        if state.plan is None or now % self.replan_every == 0:
            state = replace(state, plan=self.plan(state), planned_at=now)
        assert state.plan is not None
        return replace(state, action=state.plan.actions[:, now - state.planned_at])

    def _batch(self, images: NDArray[Any], what: str) -> Tensor:
        images, expected = np.asarray(images), self.jepa.observation_shape
        single = images.ndim == len(expected)
        if expected not in (images.shape, images.shape[1:]):
            raise UserError(
                f"{what} of shape {images.shape}; "
                f"the agent was trained on {expected}, or a batch of them"
            )
        if self.observes == "pixels" and images.dtype != np.uint8:
            raise UserError(
                f"{what} of type {images.dtype}; "
                "the agent was trained on uint8 images from 0 to 255"
            )
        kind = np.uint8 if self.observes == "pixels" else np.float32
        batch = np.ascontiguousarray(images[None] if single else images, kind)
        return torch.from_numpy(batch).to(self.device)


def decision_generator(seed: int, step: int) -> torch.Generator:
    """Return the random generator of one decision, which depends on seed and step only."""
    words = np.random.SeedSequence([seed, step]).generate_state(2, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
