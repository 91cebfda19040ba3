"""What happens if I do this? Answered by the model and by the world, without any page.

A `Situation` is all that a person made: it goes in and comes out, and the session remembers none.

Letters: H horizon in model steps, K history, S state, A action, D embedding, P image size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch

from mujepa.agent.cost import Trajectory
from mujepa.agent.memory import Memory
from mujepa.agent.mpc import decision_generator
from mujepa.evaluation.manifest import draw_episode
from mujepa.planners import Bounds
from mujepa.runtime.errors import UserError
from mujepa.visual.whatif.state import Situation, read_situation

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.checkpoint import Checkpoint, Mode
    from mujepa.agent.cost import Goal
    from mujepa.agent.mpc import Agent
    from mujepa.envs.world import World

SLIDE, HINGE = mujoco.mjtJoint.mjJNT_SLIDE.value, mujoco.mjtJoint.mjJNT_HINGE.value  # pyright: ignore[reportAttributeAccessIssue]
TURNS = ("turn_x", "turn_y", "turn_z")
VELOCITIES = {0: ("x", "y", "z", *TURNS), 1: TURNS, SLIDE: ("x",), HINGE: ("turn",)}
"""Of free joints, balls, slides and hinges."""
STARTS = 32
"""Starts that are drawn to find how far a slide without limits reaches."""


@dataclass(frozen=True)
class Future:
    """Where a sequence leads, the present first.

    Attributes:
        embeddings: (H + 1, D), imagined, or of what the camera sees in the real world.
        distance: to the goal, (H + 1,); the linear probe reads the imagined one.
        path: of the first position that the goal says, (H + 1, 2) [shares of the image], or None
            where the goal is no position.
        cost: of the whole sequence.
        costs: by step, (H,), before any aggregate.
    """

    embeddings: Tensor
    distance: NDArray[np.float64]
    path: NDArray[np.float64] | None
    cost: float
    costs: NDArray[np.float64]


@dataclass(frozen=True)
class Futures:
    """A sequence in the world, in the model, and what the model says of the one before it.

    `states` are those of the real world, (H + 1, S).
    """

    real: Future
    imagined: Future
    before: Future | None
    states: NDArray[np.float64]


@dataclass(frozen=True)
class Slider:
    """A joint position that can be chosen: its name, its place in qpos, and its range."""

    name: str
    index: int
    low: float
    high: float


@dataclass(frozen=True)
class Push:
    """A velocity that can be changed: its name, the strongest change on offer, and its unit."""

    name: str
    strongest: float
    unit: str


class Session:
    """One checkpoint and its world, asked what would happen.

    Args:
        checkpoint: whose model imagines.
        world: the task's, with the image size of the checkpoint.
        mode: who plans, if not as the checkpoint says.
        cost: what the planner minimises at first, if not as the checkpoint says.
        seed: of the evaluation's episodes.

    Raises:
        UserError: the cost cannot be read, or nothing is planned.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        world: World,
        *,
        mode: Mode | None = None,
        cost: str | None = None,
        seed: int = 0,
    ) -> None:
        mode = checkpoint.config.mode if mode is None else mode
        if mode == "reactive":
            raise UserError(
                "a reactive actor plans nothing to be changed; choose --actor proposing"
            )
        self.checkpoint, self.world = checkpoint, world
        self.mode: Mode = mode
        self.cost = checkpoint.config.cost if cost is None else cost
        self.seed = seed
        self.horizon = self._agent(self.cost).planner.horizon
        self.actions = len(world.action_low)
        self.seconds = checkpoint.config.frame_skip * world.step_seconds
        """How long a model step is [s]."""

    def read(self, raw: object) -> Situation:
        """Return the situation that `write_situation` described.

        Raises:
            UserError: it is damaged, of another task or another model, or its cost cannot be read.
        """
        config, shape = self.checkpoint.config, (self.horizon, self.actions)
        history = config.jepa.predictor.history
        situation = read_situation(raw, config.task, history, self.world.state_size, shape)
        return self.weigh(situation, situation.cost)

    # ---------------------------------------------------------------- where it starts

    def begin(
        self, start: NDArray[np.float64], goal: NDArray[np.float64], cost: str | None = None
    ) -> Situation:
        """Return the situation at a start, in which nothing is done."""
        nothing = np.zeros((self.horizon, self.actions), np.float32)
        cost = self.cost if cost is None else cost
        return Situation(start, goal, start[None], nothing[:0], nothing, cost)

    def episode(self, number: int, cost: str | None = None) -> Situation:
        """Return the situation at the start of an episode of the evaluation.

        Raises:
            UserError: the number is negative.
        """
        if number < 0:
            raise UserError(f"there is no episode {number}; the first is 0")
        drawn = draw_episode(self.world, number, self.seed)
        return self.begin(drawn.start, drawn.goal, cost)

    def draw(self, rng: np.random.Generator, cost: str | None = None) -> Situation:
        """Return the situation at the start of an episode drawn at random."""
        drawn = self.world.sample_episode(rng)
        return self.begin(drawn.start, drawn.goal, cost)

    def restart(self, situation: Situation) -> Situation:
        """Return to the start; the sequence stays."""
        fresh = self.begin(situation.start, situation.goal, situation.cost)
        return replace(fresh, sequence=situation.sequence)

    def pose(self, situation: Situation, index: int, position: float) -> Situation:
        """Return to the start with one of its joint positions (index into qpos) changed."""
        start = situation.start.copy()
        start[1 + index] = position
        return self.restart(replace(situation, start=start))

    def want_present(self, situation: Situation) -> Situation:
        """Make the present pose, at rest, the goal."""
        positions = situation.present[1 : 1 + self.world.model.nq]
        return replace(situation, goal=self.world.state(positions))

    def sliders(self) -> list[Slider]:
        """Return the joint positions that can be chosen: of slides and hinges."""
        model = self.world.model
        rng = np.random.default_rng(0)
        drawn = [self.world.task.sample_start(model, rng)[0] for _ in range(STARTS)]
        low, high = np.min(drawn, axis=0), np.max(drawn, axis=0)
        sliders = []
        for joint in np.flatnonzero(np.isin(model.jnt_type, (SLIDE, HINGE))):
            index = int(model.jnt_qposadr[joint])
            ends = (low[index], high[index]) if low[index] < high[index] else (-1, 1)
            if model.jnt_type[joint] == HINGE:
                ends = min(-np.pi, low[index]), max(np.pi, high[index])
            if model.jnt_limited[joint]:
                ends = model.jnt_range[joint]
            sliders.append(Slider(self._joint(int(joint)), index, float(ends[0]), float(ends[1])))
        return sliders

    def pushes(self) -> list[Push]:
        """Return the velocities that can be pushed, in the order of qvel."""
        pushes = []
        for joint, kind in enumerate(self.world.model.jnt_type):
            for part in VELOCITIES[int(kind)]:
                turns = part.startswith("turn")
                name = self._joint(joint) + (f".{part}" if len(VELOCITIES[int(kind)]) > 1 else "")
                pushes.append(Push(name, 8.0, "rad/s") if turns else Push(name, 2.0, "m/s"))
        return pushes

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions, (A,)."""
        model = self.world.model
        if model.nu != self.actions:
            return tuple(f"action {index}" for index in range(self.actions))
        return tuple(model.actuator(i).name or f"action {i}" for i in range(model.nu))

    # ---------------------------------------------------------------- what is changed

    def drag(self, situation: Situation, step: int, action: int, value: float) -> Situation:
        """Return the situation with one number of its sequence changed, within the bounds.

        Raises:
            UserError: there is no such step or action, or the value is not a number.
        """
        if not (0 <= step < self.horizon and 0 <= action < self.actions and np.isfinite(value)):
            raise UserError(
                f"step {step}, action {action}, value {value}: there are {self.horizon} steps "
                f"and {self.actions} actions"
            )
        sequence = situation.sequence.copy()
        sequence[step, action] = np.clip(value, -1, 1)
        return replace(situation, sequence=sequence)

    def rest(self, situation: Situation) -> Situation:
        """Return the situation in which nothing is done."""
        return replace(situation, sequence=np.zeros_like(situation.sequence), before=None)

    def weigh(self, situation: Situation, cost: str) -> Situation:
        """Return the situation with another cost.

        Raises:
            UserError: it cannot be read.
        """
        self._agent(cost)
        return replace(situation, cost=cost)

    def kick(self, situation: Situation, velocity: int, change: float) -> Situation:
        """Add to one velocity (index into qvel) of the present state [rad/s or m/s].

        An agent that sees images learns of it with the next one.

        Raises:
            UserError: there is no such velocity, or the change is not a number.
        """
        model = self.world.model
        if not (0 <= velocity < model.nv and np.isfinite(change)):
            raise UserError(f"velocity {velocity}, change {change}: there are {model.nv}")
        states = situation.states.copy()
        states[-1, 1 + model.nq + velocity] += change
        return replace(situation, states=states)

    @torch.no_grad()
    def plan(self, situation: Situation) -> Situation:
        """Fill the sequence with what the planner finds, which starts from the present sequence.

        Its cost is never above that of the sequence before.
        """
        agent = self._agent(situation.cost)
        memory, goal = self._memory(situation), self._goal(agent, situation)
        unit = torch.ones(self.actions, device=agent.device)
        bounds = Bounds(-unit, unit)
        search = replace(
            agent.planner.start(1, bounds), mean=self._tensor(situation.sequence)[None]
        )
        if agent.actor is not None:
            _, proposed = agent.actor.imagine(agent.jepa, memory, goal.embedding, self.horizon)
            search = search.propose(proposed[:, None])
        cost, source = (
            agent.configurator.cost_fn(memory, goal),
            decision_generator(0, situation.step),
        )
        plan = agent.planner.plan(cost, search, bounds, [source])
        sequence = plan.actions[0].cpu().numpy()
        return replace(situation, sequence=sequence, before=situation.sequence)

    def step(self, situation: Situation) -> Situation:
        """Do the first action of the sequence in the world; the rest moves up, the last is held."""
        history = self.checkpoint.networks.jepa.history
        first, rest = situation.sequence[:1], situation.sequence[1:]
        states = np.concatenate([situation.states, self._real(situation, first)])[-history:]
        taken = np.concatenate([situation.taken, first])
        return replace(
            situation,
            states=states,
            taken=taken[len(taken) - len(states) + 1 :],
            sequence=np.concatenate([rest, situation.sequence[-1:]]),
            before=None,
            step=situation.step + 1,
        )

    # ---------------------------------------------------------------- what would happen

    @torch.no_grad()
    def futures(self, situation: Situation) -> Futures:
        """Return what the sequence leads to, in the world and in the model."""
        agent, jepa = self._agent(situation.cost), self.checkpoint.networks.jepa
        memory, goal = self._memory(situation), self._goal(agent, situation)
        wanted = self.world.achieved(situation.goal[None])[0]
        now = memory.embeddings[0, -1:]

        def future(
            embeddings: Tensor, actions: Tensor, achieved: NDArray[np.float64] | None = None
        ) -> Future:
            trajectory = Trajectory(embeddings[None, None], actions[None, None], memory)
            whole = torch.cat([now, embeddings])
            if achieved is None:
                achieved = self.checkpoint.networks.probe(whole).cpu().double().numpy()
            assert achieved is not None
            return Future(
                whole,
                self.world.task.distance(achieved, wanted),
                self.world.project(achieved[:, :3]) if self.world.goal_size >= 3 else None,
                float(agent.configurator.cost(trajectory, goal)[0, 0]),
                agent.configurator.cost.by_step(trajectory, goal)[0, 0].cpu().double().numpy(),
            )

        actions = self._tensor(situation.sequence)
        states = np.concatenate(
            [situation.present[None], self._real(situation, situation.sequence)]
        )
        seen = jepa.encode(self._observe(states[1:]))
        before = None
        if situation.before is not None:
            former = self._tensor(situation.before)
            before = future(jepa.unroll(memory, former[None])[0], former)
        return Futures(
            future(seen, actions, self.world.achieved(states)),
            future(jepa.unroll(memory, actions[None])[0], actions),
            before,
            states,
        )

    def goal_point(self, situation: Situation) -> NDArray[np.float64] | None:
        """Return where the goal's first position appears, (2,) [shares of the image], or None."""
        if self.world.goal_size < 3:
            return None
        return self.world.project(self.world.achieved(situation.goal[None])[0, :3])

    # ----------------------------------------------------------------

    def _agent(self, cost: str) -> Agent:
        return self.checkpoint.agent(cost=cost, mode=self.mode)

    def _goal(self, agent: Agent, situation: Situation) -> Goal:
        return agent.configurator.goal(self._observe(situation.goal[None]))

    def _memory(self, situation: Situation) -> Memory:
        """Return what the agent remembers; before the start the world stood still."""
        jepa = self.checkpoint.networks.jepa
        embeddings = jepa.encode(self._observe(situation.states))
        memory = Memory.at_rest(embeddings[:1], jepa.history, self.actions)
        for action, embedding in zip(self._tensor(situation.taken), embeddings[1:], strict=True):
            memory = memory.push(action[None], embedding[None])
        return memory

    def _real(self, situation: Situation, sequence: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the states (T, S) at the ends of the actions (T, A) from the present."""
        controls, hold = self.world.from_unit(sequence), self.checkpoint.config.frame_skip
        return self.world.rollout(situation.present[None], controls[None], hold)[0][0]

    def _observe(self, states: NDArray[np.float64]) -> Tensor:
        return self._tensor(self.world.observe(states, self.checkpoint.networks.jepa.observes))

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        device = next(self.checkpoint.networks.parameters()).device
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def _joint(self, joint: int) -> str:
        return self.world.model.joint(joint).name or f"joint {joint}"
