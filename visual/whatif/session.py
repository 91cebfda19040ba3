"""Ask a world model and the simulator what happens if the agent acts differently; needs no page.

Methods take a `WhatIfState`, which holds everything that a person chose, and return a new one.
Letters: H horizon in model steps, K history, S state, A action, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mujepa.agent.checkpoint import ActorMode, Checkpoint
from mujepa.agent.cost import Goal, Trajectory
from mujepa.agent.memory import Memory
from mujepa.agent.mpc import Agent, decision_generator
from mujepa.envs.world import World
from mujepa.evaluation.manifest import draw_episode
from mujepa.planners import Bounds
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json
from mujepa.visual.whatif.whatif_state import WhatIfState, read_state, write_state

FILE = "what-if.json"  # the latest state of the page, in the folder of the checkpoint


@dataclass(frozen=True)
class Future:
    """Where an action sequence leads; the first entry is the current step."""

    embeddings: Tensor  # (H + 1, D), predicted, or of the images that the simulator renders
    distance: NDArray[np.float64]  # to the goal, (H + 1,); a prediction's is read by the probe
    path: NDArray[np.float64] | None
    """Of the goal's first position, (H + 1, 2) [shares of the image], if it is a position."""
    cost: float  # of the whole sequence
    costs: NDArray[np.float64]  # by step, (H,), before any aggregate


@dataclass(frozen=True)
class Futures:
    """What a sequence leads to in the simulator and in the world model."""

    real: Future
    imagined: Future
    before: Future | None
    states: NDArray[np.float64]


class Session:
    """A checkpoint and its task's simulator.

    `mode` and `cost` are those of the training if None; `seed` is of the evaluation episodes.

    Raises:
        UserError: the cost is invalid, or the actor is reactive, so that there is no plan.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        world: World,
        *,
        mode: ActorMode | None = None,
        cost: str | None = None,
        seed: int = 0,
    ) -> None:
        self.checkpoint, self.world = checkpoint, world
        self.mode: ActorMode = checkpoint.config.actor_mode if mode is None else mode
        if self.mode == "reactive":
            raise UserError("a reactive actor does not plan; choose --actor proposing")
        self.cost = checkpoint.config.cost if cost is None else cost
        self.seed = seed
        self.jepa = checkpoint.networks.jepa
        self.horizon = self._agent(self.cost).planner.horizon
        self.actions = len(world.action_low)
        self.seconds = checkpoint.config.frame_skip * world.step_seconds
        """Duration of a model step [s]."""

    def read(self, raw: object) -> WhatIfState:
        """Return the state that `write_state` wrote, if it is valid; see `read_state`."""
        task, shape = self.checkpoint.task_name, (self.horizon, self.actions)
        state = read_state(raw, task, self.jepa.history, self.world.state_size, shape)
        return self.set_cost(state, state.cost)

    def episode(self, number: int | None, cost: str | None = None) -> WhatIfState:
        """Return the start of an evaluation episode, or of a random one, with zero actions."""
        if number is None:
            drawn = self.world.sample_episode(np.random.default_rng())
        elif number >= 0:
            drawn = draw_episode(self.world, number, self.seed)
        else:
            raise UserError(f"there is no episode {number}; the first is 0")
        return self._start(drawn.start, drawn.goal, self.cost if cost is None else cost)

    def restart(self, state: WhatIfState) -> WhatIfState:
        """Return to the start and keep the sequence."""
        start = self._start(state.start, state.goal, state.cost)
        return replace(start, sequence=state.sequence)

    def set_start_position(self, state: WhatIfState, index: int, position: float) -> WhatIfState:
        """Return to the start with one joint position changed (index into qpos) [rad or m]."""
        start = state.start.copy()
        start[1 + index] = position
        return self.restart(replace(state, start=start))

    def _start(
        self, start: NDArray[np.float64], goal: NDArray[np.float64], cost: str
    ) -> WhatIfState:
        zeros = np.zeros((self.horizon, self.actions), np.float32)
        return WhatIfState(start, goal, start[None], zeros[:0], zeros, cost)

    def set_goal_to_current(self, state: WhatIfState) -> WhatIfState:
        """Make the current positions, at rest, the goal."""
        positions = state.current[1 : 1 + self.world.model.nq]
        return replace(state, goal=self.world.state(positions))

    def set_action(self, state: WhatIfState, step: int, action: int, value: float) -> WhatIfState:
        """Change one number of the sequence, clipped to the bounds; `UserError` if invalid."""
        if not (0 <= step < self.horizon and 0 <= action < self.actions and np.isfinite(value)):
            raise UserError(
                f"step {step}, action {action}, value {value}: there are {self.horizon} steps "
                f"and {self.actions} actions"
            )
        sequence = state.sequence.copy()
        sequence[step, action] = np.clip(value, -1, 1)
        return replace(state, sequence=sequence)

    def zero_actions(self, state: WhatIfState) -> WhatIfState:
        """Set all actions of the sequence to zero."""
        return replace(state, sequence=np.zeros_like(state.sequence), before=None)

    def set_cost(self, state: WhatIfState, cost: str) -> WhatIfState:
        """Change the cost; `UserError` if it is invalid."""
        self._agent(cost)
        return replace(state, cost=cost)

    def perturb(self, state: WhatIfState, velocity: int, change: float) -> WhatIfState:
        """Add to one velocity (index into qvel) of the current state [rad/s or m/s]."""
        model = self.world.model
        if not (0 <= velocity < model.nv and np.isfinite(change)):
            raise UserError(f"velocity {velocity}, change {change}: there are {model.nv}")
        states = state.states.copy()
        states[-1, 1 + model.nq + velocity] += change
        return replace(state, states=states)

    @torch.no_grad()
    def plan(self, state: WhatIfState) -> WhatIfState:
        """Replace the sequence by the planner's, which never costs more than the old one."""
        agent = self._agent(state.cost)
        memory, goal = self._memory(state), self._goal(agent, state)
        unit = torch.ones(self.actions, device=agent.device)
        bounds = Bounds(-unit, unit)
        search = agent.planner.start(1, bounds)
        search = replace(search, mean=self._tensor(state.sequence)[None])
        if agent.actor is not None:
            _, proposed = agent.actor.rollout(self.jepa, memory, goal.embedding, self.horizon)
            search = search.add_candidates(proposed[:, None])
        cost = agent.configurator.cost_fn(memory, goal)
        generators = [decision_generator(0, state.step)]
        plan = agent.planner.plan(cost, search, bounds, generators)
        return replace(state, sequence=plan.actions[0].cpu().numpy(), before=state.sequence)

    def step(self, state: WhatIfState) -> WhatIfState:
        """Execute the first action; the others move up, and the last one is repeated."""
        first, rest = state.sequence[:1], state.sequence[1:]
        states = np.concatenate([state.states, self._simulate(state, first)])
        states = states[-self.jepa.history :]
        taken = np.concatenate([state.taken, first])
        return replace(
            state,
            states=states,
            taken=taken[len(taken) - len(states) + 1 :],
            sequence=np.concatenate([rest, state.sequence[-1:]]),
            before=None,
            step=state.step + 1,
        )

    @torch.no_grad()
    def futures(self, state: WhatIfState) -> Futures:
        """Return what the sequence leads to, in the simulator and in the world model."""
        agent, memory, world = self._agent(state.cost), self._memory(state), self.world
        cost, goal = agent.configurator.cost, self._goal(agent, state)
        target = world.achieved(state.goal[None])[0]

        def future(
            sequence: NDArray[np.float32],
            embeddings: Tensor,
            achieved: NDArray[np.float64] | None = None,
        ) -> Future:
            actions = self._tensor(sequence)[None, None]
            trajectory = Trajectory(embeddings[None, None], actions, memory)
            whole = torch.cat([memory.embeddings[0, -1:], embeddings])
            if achieved is None:
                achieved = self.checkpoint.networks.probe(whole).cpu().double().numpy()
            assert achieved is not None
            return Future(
                whole,
                world.task.distance(achieved, target),
                self._project(achieved),
                float(cost(trajectory, goal)[0, 0]),
                cost.by_step(trajectory, goal)[0, 0].cpu().double().numpy(),
            )

        def predict(sequence: NDArray[np.float32]) -> Future:
            return future(sequence, self.jepa.unroll(memory, self._tensor(sequence)[None])[0])

        states = np.concatenate([state.current[None], self._simulate(state, state.sequence)])
        encoded = self.jepa.encode(self._observe(states[1:]))
        return Futures(
            future(state.sequence, encoded, world.achieved(states)),
            predict(state.sequence),
            None if state.before is None else predict(state.before),
            states,
        )

    def goal_point(self, state: WhatIfState) -> NDArray[np.float64] | None:
        """Return the goal's first position, (2,) [shares of the image], or None if it has none."""
        point = self._project(self.world.achieved(state.goal[None]))
        return None if point is None else point[0]

    def _project(self, achieved: NDArray[np.float64]) -> NDArray[np.float64] | None:
        return self.world.project(achieved[:, :3]) if self.world.goal_size >= 3 else None

    def _agent(self, cost: str) -> Agent:
        return self.checkpoint.agent(cost=cost, actor=self.mode)

    def _goal(self, agent: Agent, state: WhatIfState) -> Goal:
        return agent.configurator.goal(self._observe(state.goal[None]))

    def _memory(self, state: WhatIfState) -> Memory:
        embeddings = self.jepa.encode(self._observe(state.states))
        memory = Memory.at_rest(embeddings[:1], self.jepa.history, self.actions)
        for action, embedding in zip(self._tensor(state.taken), embeddings[1:], strict=True):
            memory = memory.push(action[None], embedding[None])
        return memory

    def _simulate(self, state: WhatIfState, sequence: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the states (T, S) after each of the actions (T, A)."""
        controls, frame_skip = self.world.from_unit(sequence), self.checkpoint.config.frame_skip
        return self.world.rollout(state.current[None], controls[None], frame_skip)[0][0]

    def _observe(self, states: NDArray[np.float64]) -> Tensor:
        return self._tensor(self.world.observe(states, self.jepa.observes))

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        device = next(self.checkpoint.networks.parameters()).device
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)


class Store:
    """Keeps the latest state in a file; without a file it is the start of the first episode."""

    def __init__(self, path: Path, session: Session) -> None:
        self.path = path
        self._task = session.checkpoint.task_name
        remedy = "remove it to start anew"
        raw = read_json(path, remedy) if path.exists() else None
        try:
            self.latest = session.episode(0) if raw is None else session.read(raw)
        except UserError as error:
            raise UserError(f"{path}: {error}; {remedy}") from error

    def save(self, state: WhatIfState) -> None:
        """Replace the file; `UserError` if it cannot be written."""
        self.latest = state
        write_json(self.path, write_state(state, self._task))
