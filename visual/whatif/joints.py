"""The joints and actuators of a simulator that the what-if page shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mujepa.envs.world import World

FREE, BALL, SLIDE, HINGE = range(4)  # the values of mjtJoint
ROTATIONS = ("turn_x", "turn_y", "turn_z")
VELOCITIES = {
    FREE: ("x", "y", "z", *ROTATIONS), BALL: ROTATIONS, SLIDE: ("x",), HINGE: ("turn",)
}  # fmt: skip
"""Names of a joint's velocities, by its type."""
STARTS = 32  # starts that are sampled to find the range of a slide joint without limits


@dataclass(frozen=True)
class Slider:
    """A joint position that can be set: its name, its index into qpos, and its range."""

    name: str
    index: int
    low: float
    high: float


@dataclass(frozen=True)
class Push:
    """A joint velocity that can be changed: its name, the largest change, and its unit."""

    name: str
    strongest: float
    unit: str


def joint_sliders(world: World) -> list[Slider]:
    """Return the positions of slide and hinge joints."""
    model, rng = world.model, np.random.default_rng(0)
    starts = np.stack([world.task.sample_start(model, rng)[0] for _ in range(STARTS)])
    sliders = []
    for joint in np.flatnonzero(np.isin(model.jnt_type, (SLIDE, HINGE))).tolist():
        index = int(model.jnt_qposadr[joint])
        low, high = starts[:, index].min(), starts[:, index].max()
        if model.jnt_limited[joint]:
            low, high = model.jnt_range[joint]
        elif model.jnt_type[joint] == HINGE:
            low, high = min(-np.pi, low), max(np.pi, high)
        elif low == high:
            low, high = -1, 1
        sliders.append(Slider(_name(world, joint), index, float(low), float(high)))
    return sliders


def joint_pushes(world: World) -> list[Push]:
    """Return the velocities of all joints, in the order of qvel."""
    pushes = []
    for joint, kind in enumerate(world.model.jnt_type.tolist()):
        for part in VELOCITIES[kind]:
            name = _name(world, joint) + (f".{part}" if len(VELOCITIES[kind]) > 1 else "")
            largest = (8.0, "rad/s") if part.startswith("turn") else (2.0, "m/s")
            pushes.append(Push(name, *largest))
    return pushes


def action_names(world: World) -> list[str]:
    """Return the names of the actions, (A,)."""
    model, count = world.model, len(world.action_low)
    names = [model.actuator(i).name if model.nu == count else "" for i in range(count)]
    return [name or f"action {index}" for index, name in enumerate(names)]


def _name(world: World, joint: int) -> str:
    return world.model.joint(joint).name or f"joint {joint}"
