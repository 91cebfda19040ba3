"""The agent: model-predictive control in embedding space, with its state in the caller's hands.

    agent = mujepa.load("pretrained/reacher")
    state = agent.reset(goal_image)
    state, action = agent.act(state, image)

Letters: B environments, K history, H horizon in model steps, D embedding, A action.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mujepa.agent.alarm import merge_plans, surprise
from mujepa.agent.cost import Trajectory
from mujepa.agent.memory import Memory
from mujepa.planners import Bounds, Plan, Planner
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.actor import Actor
    from mujepa.agent.alarm import Alarm
    from mujepa.agent.configurator import Configurator
    from mujepa.agent.cost import Goal
    from mujepa.agent.encoder import Observes
    from mujepa.agent.hierarchy import Guide


@dataclass(frozen=True)
class AgentState:
    """All that the agent carries from one step to the next.

    Attributes:
        goal: what it wants in the end.
        wanted: what its plan leads to: the goal, or a subgoal; None where nothing is planned.
        seeds: source of randomness of each of the B environments.
        single: it acts in one environment, without a batch axis.
        step: environment steps taken.
        memory: its short-term memory; None before the first image.
        plan: the latest plan; None before the first image, and where nothing is planned.
        planned_at: model step of the latest plan.
        action: (B, A), held at present, in [-1, 1]; None before the first image.
        surprise: (B,), about the latest image; None before the second one, and without an alarm.
        alarmed: (B,), for how many looks the alarm stays set off, this one among them; None as
            `surprise` is.
    """

    goal: Goal
    seeds: tuple[int, ...]
    single: bool
    step: int = 0
    memory: Memory | None = None
    plan: Plan | None = None
    planned_at: int = 0
    action: Tensor | None = None
    wanted: Goal | None = None
    surprise: Tensor | None = None
    alarmed: Tensor | None = None


class Agent:
    """Perceives, imagines and plans; acts with the first action of the best plan.

    That is mode 2 of LeCun's architecture. In mode 1, `reactive`, a policy acts at once.

    Args:
        configurator: world model, critic and cost.
        planner: searches action sequences in units of the bounds, [-1, 1].
        action_low: lower bounds of the environment's actions, (A,).
        action_high: upper bounds, (A,).
        frame_skip: environment steps through which an action is held (one model step).
        replan_every: model steps between plans; in between the last plan is followed.
        actor: the policy; it proposes a sequence to the planner. None: the planner is alone.
        reactive: let the actor act without the planner.
        guide: the second level, which names a nearer goal where the goal is far.
        alarm: what it does differently where it is surprised, if anything.

    Raises:
        ValueError: `replan_every` is outside the planner's horizon, there is no actor to react, or
            no plan that an alarm could renew.
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
        guide: Guide | None = None,
        alarm: Alarm | None = None,
    ) -> None:
        if reactive and actor is None:
            raise ValueError("a reactive agent needs an actor")
        if not 1 <= replan_every <= planner.horizon:
            raise ValueError(
                f"replan_every must be from 1 to the horizon {planner.horizon}, got {replan_every}"
            )
        if alarm is not None and alarm.response == "replan" and (reactive or replan_every == 1):
            raise ValueError(
                "an alarm that replans needs a planner, and replan_every above 1; "
                f"got replan_every {replan_every}{', reactive' if reactive else ''}"
            )
        self.configurator = configurator
        self.jepa = configurator.jepa
        self.observes: Observes = self.jepa.observes
        self.planner = planner
        self.actor = actor
        self.reactive = reactive
        self.guide = guide
        self.alarm = alarm
        self.frame_skip = frame_skip
        self.replan_every = replan_every
        self.device = next(self.jepa.parameters()).device
        self._low, self._high = np.asarray(action_low), np.asarray(action_high)
        unit = torch.ones(len(self._low), device=self.device)
        self._bounds = Bounds(-unit, unit)
        idle = np.clip(0.0, self._low, self._high)
        idle = 2 * (idle - self._low) / (self._high - self._low) - 1
        self._idle = torch.from_numpy(idle).float().to(self.device)

    @torch.no_grad()
    def reset(self, goal: NDArray[Any], seed: int | Sequence[int] = 0) -> AgentState:
        """Return the state in which the agent wants what the goal image shows.

        Args:
            goal: an image (P, P, 3), or one for each of B environments (B, P, P, 3); a vector
                (O,), or (B, O), if the encoder reads joint positions and velocities.
            seed: one for each environment; a single number counts upwards.

        Raises:
            UserError: the image has another size or type than the agent was trained on.
        """
        images = self._batch(goal, "goal image")
        seeds = range(seed, seed + len(images)) if isinstance(seed, int | np.integer) else seed
        if len(seeds) != len(images):
            raise UserError(
                f"{len(images)} goal images but {len(seeds)} seeds; give one seed for each"
            )
        return AgentState(
            self.configurator.goal(images),
            tuple(seeds),
            single=np.ndim(goal) == len(images.shape) - 1,
        )

    @torch.no_grad()
    def act(
        self, state: AgentState, observation: NDArray[Any]
    ) -> tuple[AgentState, NDArray[np.float32]]:
        """Take one environment step.

        The image is looked at, and the plan renewed, at every `frame_skip`-th step; in between the
        action is held.

        Args:
            state: from `reset` or the previous `act`.
            observation: an image or a vector like the goal, or a batch if the goal was one.

        Returns:
            The next state, and the action (A,) or (B, A), within the environment's bounds.

        Raises:
            UserError: the image has another size or type than the agent was trained on.
        """
        if state.step % self.frame_skip == 0:
            state = self._decide(state, self._batch(observation, "image"))
        assert state.action is not None
        unit = state.action.cpu().double().numpy()
        action = (self._low + (unit + 1) / 2 * (self._high - self._low)).astype(np.float32)
        return replace(state, step=state.step + 1), action[0] if state.single else action

    @torch.no_grad()
    def foresee(self, state: AgentState) -> tuple[Tensor, Tensor]:
        """Return what the agent expects after its latest image.

        Returns:
            Embeddings (B, H, D) that what is left of its plan, or its actor, leads to, and their
            cost (B,).

        Raises:
            ValueError: it has seen no image yet.
        """
        imagined = self.intend(state)
        cost = self.configurator.cost(imagined, state.wanted or state.goal)
        return imagined.embeddings[:, 0], cost[:, 0]

    @torch.no_grad()
    def intend(self, state: AgentState) -> Trajectory:
        """Return what is left of its plan, or what its actor would do, and where that leads.

        Returns:
            One trajectory (N = 1) for each environment.

        Raises:
            ValueError: it has seen no image yet.
        """
        if state.memory is None:
            raise ValueError("the agent has seen nothing yet; call act first")
        if state.plan is not None:
            looked = (state.step - 1) // self.frame_skip
            actions = state.plan.actions[:, looked - state.planned_at :]
            embeddings = self.jepa.unroll(state.memory, actions)
        else:
            assert self.actor is not None
            goal = state.wanted or state.goal
            embeddings, actions = self.actor.imagine(
                self.jepa, state.memory, goal.embedding, self.planner.horizon
            )
        return Trajectory(embeddings[:, None], actions[:, None], state.memory)

    def _decide(self, state: AgentState, images: Tensor) -> AgentState:
        state = self._look(state, images)
        assert state.memory is not None
        if self.reactive:
            assert self.actor is not None
            action = self.actor(state.memory, state.goal.embedding)
        else:
            state = self._plan(state, state.memory)
            assert state.plan is not None
            now = state.step // self.frame_skip
            action = state.plan.actions[:, now - state.planned_at]
        if self.alarm is not None and self.alarm.response == "slow" and state.alarmed is not None:
            slower = self._idle + self.alarm.share * (action - self._idle)
            action = torch.where(state.alarmed[:, None] > 0, slower, action)
        return replace(state, action=action)

    def _look(self, state: AgentState, images: Tensor) -> AgentState:
        """Remember what is seen, and how surprising it was."""
        embedding = self.jepa.encode(images)
        if len(embedding) != len(state.seeds):
            raise UserError(
                f"{len(embedding)} images, but the agent was reset with {len(state.seeds)} goals"
            )
        memory, action = state.memory, state.action
        if memory is None or action is None:
            size = len(self._low)
            return replace(state, memory=Memory.at_rest(embedding, self.jepa.history, size))
        if self.alarm is not None:
            surprised = surprise(self.jepa, memory, action, embedding)
            left = self.alarm.next(state.alarmed, surprised)
            state = replace(state, surprise=surprised, alarmed=left)
        return replace(state, memory=memory.push(action, embedding))

    def _plan(self, state: AgentState, memory: Memory) -> AgentState:
        """Plan where it is time to, or where the alarm is set off."""
        now = state.step // self.frame_skip
        if state.plan is None or now % self.replan_every == 0:
            state = replace(state, wanted=self._wanted(state, memory))
            return replace(state, plan=self.search(state, memory), planned_at=now)
        if self.alarm is None or self.alarm.response != "replan" or state.alarmed is None:
            return state
        alarmed = state.alarmed > 0
        if not alarmed.any():
            return state
        kept = self.planner.follow(state.plan, self._bounds, now - state.planned_at)
        plan = merge_plans(kept, self.search(state, memory), alarmed)
        return replace(state, plan=plan, planned_at=now)

    def _wanted(self, state: AgentState, memory: Memory) -> Goal:
        if self.guide is None:
            return state.goal
        now = state.step // self.frame_skip
        generators = [decision_generator(seed, now, level=1) for seed in state.seeds]
        return self.guide.subgoal(memory.embeddings[:, -1], state.goal, generators)

    @torch.no_grad()
    def search(self, state: AgentState, memory: Memory) -> Plan:
        """Plan from what is remembered at the state's step, towards what is wanted next."""
        goal = state.wanted or state.goal
        now = state.step // self.frame_skip
        if state.plan is None:
            search = self.planner.start(len(state.seeds), self._bounds)
        else:
            search = self.planner.shift(state.plan.search, self._bounds, now - state.planned_at)
        if self.actor is not None:
            _, proposed = self.actor.imagine(
                self.jepa, memory, goal.embedding, self.planner.horizon
            )
            search = search.propose(proposed[:, None])
        generators = [decision_generator(seed, now) for seed in state.seeds]
        return self.planner.plan(
            self.configurator.cost_fn(memory, goal), search, self._bounds, generators
        )

    def _batch(self, images: NDArray[Any], what: str) -> Tensor:
        images, wanted = np.asarray(images), self.jepa.observation_shape
        if images.shape[-len(wanted) :] != wanted or images.ndim not in (
            len(wanted),
            len(wanted) + 1,
        ):
            raise UserError(
                f"{what} of shape {images.shape}; "
                f"the agent was trained on {wanted}, or a batch of them"
            )
        if len(wanted) == 3 and images.dtype != np.uint8:
            raise UserError(
                f"{what} of type {images.dtype}; "
                "the agent was trained on uint8 images from 0 to 255"
            )
        if len(wanted) == 1:
            images = images.astype(np.float32)
        batched = images if images.ndim > len(wanted) else images[None]
        return torch.from_numpy(np.ascontiguousarray(batched)).to(self.device)


def decision_generator(seed: int, step: int, level: int = 0) -> torch.Generator:
    """Return one decision's source of randomness, made of seed, step and level and nothing else."""
    words = np.random.SeedSequence([seed, step, level] if level else [seed, step]).generate_state(
        2, np.uint64
    )
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
