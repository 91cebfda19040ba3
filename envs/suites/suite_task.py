"""Environments of other suites as tasks: their physics and resets, goals that can be reached."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import mujoco
import numpy as np

from mujepa.envs.camera import Camera, overview
from mujepa.envs.suites.rules import GENERIC_TOLERANCE, Rule, find_rule
from mujepa.envs.suites.simulator import Simulator
from mujepa.envs.task import Task
from mujepa.envs.types import Array, Data, DistanceMetric, Dynamics, JointState, Model, Rng

Part: TypeAlias = tuple[str, int]
"""An array of positions in MuJoCo's data, and a row of it."""
POSITIONS = {"body": "xpos", "geom": "geom_xpos", "site": "site_xpos"}


@dataclass(frozen=True)
class SuiteTask(Task):
    """An environment of another suite.

    Episodes start where the suite's resets put them. The positions of the parts are the achieved
    goal. The first `counted` must reach the goal; others are for the behaviour policy.
    """

    simulator: Simulator = field(kw_only=True)
    parts: tuple[Part, ...] = field(kw_only=True)
    counted: int = field(kw_only=True)
    flat: bool = False  # ignore heights
    distance_metric: DistanceMetric = "remaining"

    @property
    def python_stepped(self) -> bool:
        """Whether the suite's own code has to take each step."""
        return not self.simulator.plain

    def compile(self) -> Model:
        """Return the suite's own model."""
        return self.simulator.model

    def action_bounds(self, model: Model) -> tuple[Array, Array]:
        """Return the bounds of the suite's actions."""
        return self.simulator.action_low.copy(), self.simulator.action_high.copy()

    def advance(self, states: Array, actions: Array, hold: int) -> Array:
        """Take the suite's own steps."""
        return self.simulator.advance(states, actions, hold)

    def read_goals(self, model: Model, data: Data, states: Array) -> Array:
        """Return the positions of the parts, concatenated."""
        goals = np.empty((*states.shape[:-1], 3 * len(self.parts)))
        rows = [(getattr(data, array), index) for array, index in self.parts]
        flat_states, flat_goals = (each.reshape(-1, each.shape[-1]) for each in (states, goals))
        for state, goal in zip(flat_states, flat_goals, strict=True):
            data.qpos[:] = state[1 : 1 + model.nq]
            mujoco.mj_kinematics(model, data)
            goal[:] = np.concatenate([positions[index] for positions, index in rows])
        return goals

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Reset as the suite does."""
        self.simulator.reset(int(rng.integers(2**31)))
        return self.simulator.data.qpos.copy(), self.simulator.data.qvel.copy()

    def distance(self, achieved: Array, desired: Array) -> Array:
        """Return the largest distance of a part [m]."""
        apart = (np.asarray(achieved) - desired)[..., : 3 * self.counted]
        apart = apart.reshape(*apart.shape[:-1], self.counted, 3)
        return np.linalg.norm(apart[..., : 2 if self.flat else 3], axis=-1).max(axis=-1)


@dataclass(frozen=True)
class PickTask(SuiteTask):
    """OGBench's cubes, with a behaviour policy that grasps: random actions never move a cube."""

    extra_noise_dims: int = 6

    def behave(self, world: Dynamics, states: Array, noise: Array) -> Array:
        """Pick a cube up, carry it and let go, or move elsewhere, as the noise says."""
        achieved = world.achieved(states)
        share = (np.clip(noise[:, 10], -1, 1) + 1) / 2
        chosen = np.minimum((share * self.counted).astype(int), self.counted - 1)
        cube = achieved.reshape(len(states), -1, 3)[np.arange(len(states)), chosen]
        pinch = achieved[:, -3:]
        adr = int(world.model.joint("ur5e/robotiq/right_driver_joint").qposadr[0])
        closed = states[:, 1 + adr, None] / 0.8
        elsewhere = (0.42, 0.0, 0.12) + np.clip(noise[:, 5:8], -1, 1) * (0.15, 0.3, 0.1)
        busy = noise[:, 8:9] > -0.5
        aside = np.linalg.norm((pinch - cube)[:, :2], axis=1, keepdims=True)
        over = aside < 0.02
        around = over & (np.abs(pinch - cube)[:, 2:] < 0.02)
        held = around & (closed > 0.35)
        target = np.where(over, cube, cube + np.array([0, 0, 0.1]))
        target = np.where(held | ~busy, elsewhere, target)
        move = np.clip((target - pinch) / 0.08, -1, 1) + 0.2 * noise[:, :3]
        grip = np.where(around & busy, 1.0, -1.0) + 0.2 * noise[:, 4:5]
        return np.concatenate([move, 0.3 * noise[:, 3:4], grip], axis=1)


def make_task(name: str, simulator: Simulator) -> SuiteTask:
    """Return the task of an environment."""
    rule, model = find_rule(name), simulator.model
    parts = _find_parts(model, rule)
    skip = max(1, round(rule.seconds / simulator.seconds))
    camera = _find_camera(simulator, rule)
    tolerance = rule.tolerance or float(f"{GENERIC_TOLERANCE * model.stat.extent:.2g}")
    counted, kind = len(parts), SuiteTask
    if rule.behaviour == "pick":
        parts, kind = (*parts, ("site_xpos", model.site("ur5e/robotiq/pinch").id)), PickTask
    return kind(
        name=name,
        mjcf=Path(),
        goal_sensors=(),
        tolerance=tolerance,
        substeps=simulator.substeps,
        frame_skip=skip,
        budget_steps=skip * rule.decisions,
        episode_steps=rule.decisions,
        goal_steps=0 if rule.resets else skip * (rule.decisions // 2),
        observation_camera=camera,
        pretty_camera=camera,
        simulator=simulator,
        parts=parts,
        counted=counted,
        flat=rule.flat,
    )


def _find_parts(model: Model, rule: Rule) -> tuple[Part, ...]:
    if rule.parts is None:
        moving = (model.body_weldid != 0) & (model.body_mass > 0)
        return tuple(("xipos", index) for index in np.flatnonzero(moving).tolist())
    counts = {"body": model.nbody, "geom": model.ngeom, "site": model.nsite}
    kinds = [part.split(":", 1) for part in rule.parts]
    return tuple(
        (POSITIONS[kind], index)
        for kind, pattern in kinds
        for index in range(counts[kind])
        if re.fullmatch(pattern, getattr(model, kind)(index).name)
    )


def _find_camera(simulator: Simulator, rule: Rule) -> Camera:
    """Return the rule's camera, the suite's own, the model's first, or an overview."""
    model = simulator.model
    if rule.camera == "above":
        return overview(model, distance=1.2 * model.stat.extent, elevation=-90)
    if rule.camera is not None:
        return rule.camera
    own = getattr(simulator, "camera", {})
    if model.ncam and not own and not simulator.name.startswith("ogbench"):
        return model.camera(0).name
    return overview(model, **{key: value for key, value in own.items() if key != "trackbodyid"})
