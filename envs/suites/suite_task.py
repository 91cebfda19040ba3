"""Environments of other suites as tasks: their physics and resets, goals that were reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from mujepa.envs.suites.goals import GENERIC_TOLERANCE, find_camera, find_parts, find_rule
from mujepa.envs.task import Task, rollout_ends
from mujepa.envs.types import Array, Data, DistanceMetric, Dynamics, JointState, Model, Rng

if TYPE_CHECKING:
    from mujepa.envs.suites.goals import Part
    from mujepa.envs.suites.simulator import Simulator


@dataclass(frozen=True)
class SuiteTask(Task):
    """An environment of another suite.

    Episodes start where the suite's resets put them. The distance to a goal is that of whichever
    part is farthest from where the goal shows it.

    Attributes:
        simulator: the environment.
        parts: whose positions are the achieved goal; those after the first `counted` are there for
            the behaviour policy only.
        counted: parts that must be where the goal shows them.
        flat: heights do not matter.
        resets: starts and goals are two resets of the suite's.
        goal_steps: otherwise, environment steps of the behaviour policy between them.
    """

    simulator: Simulator | None = None
    parts: tuple[Part, ...] = ()
    counted: int = 1
    flat: bool = False
    resets: bool = False
    goal_steps: int = 1
    distance_metric: DistanceMetric = "remaining"

    @property
    def suite(self) -> Simulator:
        """The environment, which every task of `make_task` has."""
        assert self.simulator is not None
        return self.simulator

    @property
    def python_stepped(self) -> bool:
        """Whether the suite's own code has to take each step."""
        return not self.suite.plain

    def compile(self) -> Model:
        """Return the suite's own model."""
        return self.suite.model

    def action_bounds(self, model: Model) -> tuple[Array, Array]:
        """Return the bounds of the suite's actions."""
        return self.suite.action_low.copy(), self.suite.action_high.copy()

    def advance(self, states: Array, actions: Array, hold: int) -> Array:
        """Take the suite's own steps."""
        return self.suite.advance(states, actions, hold)

    def read_goals(self, model: Model, data: Data, states: Array) -> Array:
        """Return the positions of the parts, one after the other."""
        goals = np.empty((*states.shape[:-1], 3 * len(self.parts)))
        rows = [(getattr(data, array), index) for array, index in self.parts]
        for state, goal in zip(
            states.reshape(-1, states.shape[-1]), goals.reshape(-1, goals.shape[-1]), strict=True
        ):
            data.qpos[:] = state[1 : 1 + model.nq]
            mujoco.mj_kinematics(model, data)
            goal[:] = np.concatenate([positions[index] for positions, index in rows])
        return goals

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Reset as the suite does."""
        self.suite.reset(int(rng.integers(2**31)))
        return self.suite.data.qpos.copy(), self.suite.data.qvel.copy()

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Take another reset's pose; where resets cover little, `sample_ends` does better."""
        return self.sample_start(model, rng)[0]

    def sample_ends(self, world: Dynamics, rng: Rng) -> tuple[Array, Array]:
        """Draw two resets, or a reset and what the behaviour policy reaches from there."""
        if self.resets:
            return super().sample_ends(world, rng)
        return rollout_ends(self, world, rng, self.goal_steps)

    def distance(self, achieved: Array, desired: Array) -> Array:
        """Return how far the part that is farthest from its goal is [m]."""
        apart = (np.asarray(achieved) - desired)[..., : 3 * self.counted]
        apart = apart.reshape(*apart.shape[:-1], self.counted, 3)
        return np.linalg.norm(apart[..., : 2 if self.flat else 3], axis=-1).max(axis=-1)


@dataclass(frozen=True)
class PickTask(SuiteTask):
    """OGBench's cubes, whose behaviour policy seeks contact: by chance no cube is ever moved."""

    extra_noise_dims: int = 6

    def behaviour_action(self, world: Dynamics, states: Array, noise: Array) -> Array:
        """Pick a cube up, carry it about and let go, or rollout_behavior, as the noise has it."""
        achieved = world.achieved(states)
        share = (np.clip(noise[:, 10], -1, 1) + 1) / 2
        chosen = np.minimum((share * self.counted).astype(int), self.counted - 1)
        cube = achieved.reshape(len(states), -1, 3)[np.arange(len(states)), chosen]
        pinch = achieved[:, -3:]
        adr = int(world.model.joint("ur5e/robotiq/right_driver_joint").qposadr[0])
        closed = states[:, 1 + adr, None] / 0.8
        wander = (0.42, 0.0, 0.12) + np.clip(noise[:, 5:8], -1, 1) * (0.15, 0.3, 0.1)
        busy = noise[:, 8:9] > -0.5
        aside = np.linalg.norm((pinch - cube)[:, :2], axis=1, keepdims=True)
        over = aside < 0.02
        around = over & (np.abs(pinch - cube)[:, 2:] < 0.02)
        held = around & (closed > 0.35)
        target = np.where(over, cube, cube + np.array([0, 0, 0.1]))
        target = np.where(held | ~busy, wander, target)
        move = np.clip((target - pinch) / 0.08, -1, 1) + 0.2 * noise[:, :3]
        grip = np.where(around & busy, 1.0, -1.0) + 0.2 * noise[:, 4:5]
        return np.concatenate([move, 0.3 * noise[:, 3:4], grip], axis=1)


def make_task(name: str, simulator: Simulator) -> SuiteTask:
    """Return the task that an environment makes, by what is known about it."""
    rule, model = find_rule(name), simulator.model
    parts = find_parts(model, rule)
    skip = max(1, round(rule.seconds / simulator.seconds))
    camera = find_camera(simulator, rule)
    tolerance = rule.tolerance or float(f"{GENERIC_TOLERANCE * model.stat.extent:.2g}")
    counted, kind = len(parts), SuiteTask
    if rule.behaviour == "pick":
        hand: Part = ("site_xpos", model.site("ur5e/robotiq/pinch").id)
        parts, kind = (*parts, hand), PickTask
    return kind(
        name=name, mjcf=Path(), goal_sensors=(), tolerance=tolerance,
        substeps=simulator.substeps, frame_skip=skip, budget_steps=skip * rule.decisions,
        observation_camera=camera, pretty_camera=camera, simulator=simulator, parts=parts,
        counted=counted, flat=rule.flat, resets=rule.resets,
        goal_steps=skip * (rule.decisions // 2), episode_steps=rule.decisions,
    )  # fmt: skip
