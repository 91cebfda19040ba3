"""The factors of variation: what each changes in a compiled model, and in which models it works.

`texture`, `distractors` and the last four change what is drawn, not the model: see `variation.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, TypeAlias

import mujoco
import numpy as np

from mujepa.envs.types import Model, Rng

Change: TypeAlias = Callable[[Model, float, Rng], None]
Condition: TypeAlias = Callable[[Model], bool]
ORBIT, ROLL = np.deg2rad(15), np.deg2rad(10)
"""Largest angles by which a camera orbits the point it looks at, and rolls [rad]."""
SIMPLE_GAINS = (mujoco.mjtGain.mjGAIN_FIXED.value, mujoco.mjtGain.mjGAIN_AFFINE.value)


def _scale(*fields: str) -> Change:
    def change(model: Model, value: float, rng: Rng) -> None:
        for field in fields:
            attrgetter(field)(model)[:] *= value

    return change


def _draw_only(model: Model, value: float, rng: Rng) -> None:
    pass


def _colour(model: Model, value: float, rng: Rng) -> None:
    # Equal colours stay equal.
    parts = [(model.mat_rgba, model.mat_rgba[:, 3] > 0)]
    for kind in ("geom", "site", "tendon"):
        rgba, material = getattr(model, f"{kind}_rgba"), getattr(model, f"{kind}_matid")
        parts.append((rgba, (rgba[:, 3] > 0) & (material < 0)))
    colours = np.concatenate([rgba[shown, :3] for rgba, shown in parts])
    colours, which = np.unique(colours, axis=0, return_inverse=True)
    mixed = ((1 - value) * colours + value * rng.random(colours.shape))[which.ravel()]
    for rgba, shown in parts:
        rgba[shown, :3], mixed = mixed[: shown.sum()], mixed[shown.sum() :]


def _camera(model: Model, value: float, rng: Rng) -> None:
    """Move all cameras around the point of their line of sight that is nearest to the centre."""
    direction, orbit, roll = rng.uniform(-np.pi, np.pi), rng.uniform(0, 1), rng.uniform(-1, 1)
    for camera in range(model.ncam):
        position, matrix = model.cam_pos[camera].copy(), np.empty(9)
        mujoco.mju_quat2Mat(matrix, model.cam_quat[camera])
        right, up, back = matrix.reshape(3, 3).T
        away = (position - model.stat.center) @ back
        away = away if away > 0 else model.stat.extent
        turn, tilt, moved, turned = np.empty(4), np.empty(4), np.empty(3), np.empty(4)
        axis = np.cos(direction) * right + np.sin(direction) * up
        mujoco.mju_axisAngle2Quat(turn, axis, value * orbit * ORBIT)
        mujoco.mju_axisAngle2Quat(tilt, np.array([0.0, 0.0, 1.0]), value * roll * ROLL)
        mujoco.mju_rotVecQuat(moved, away * back, turn)
        mujoco.mju_mulQuat(turned, turn, model.cam_quat[camera])
        mujoco.mju_mulQuat(model.cam_quat[camera], turned, tilt)
        model.cam_pos[camera] = position - away * back + moved


def _gain(model: Model, value: float, rng: Rng) -> None:
    model.actuator_gainprm[np.isin(model.actuator_gaintype, SIMPLE_GAINS), :3] *= value


def _always(model: Model) -> bool:
    return True


def _has_camera(model: Model) -> bool:
    return model.ncam > 0


def _has_static_geoms(model: Model) -> bool:
    return bool((model.body_weldid[model.geom_bodyid] == 0).any())


def _has_mass(model: Model) -> bool:
    return bool((model.body_mass[model.body_weldid != 0] > 0).any())


def _has_friction(model: Model) -> bool:
    """Whether joints or tendons have dry friction, or contacts are possible that have."""
    dry = (model.dof_frictionloss > 0).any() or (model.tendon_frictionloss > 0).any()
    touching = (model.geom_contype > 0) | (model.geom_conaffinity > 0)
    sliding = (model.geom_condim[touching] > 1).any() or (model.pair_dim > 1).any()
    contacts = not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT.value
    return bool(dry or (contacts and sliding))


def _has_damping(model: Model) -> bool:
    return bool((model.dof_damping > 0).any() or (model.tendon_damping > 0).any())


def _has_weight(model: Model) -> bool:
    disabled = model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_GRAVITY.value
    return bool(model.opt.gravity.any() and not disabled and _has_mass(model))


def _has_gain(model: Model) -> bool:
    return bool(np.isin(model.actuator_gaintype, SIMPLE_GAINS).any())


@dataclass(frozen=True)
class Factor:
    """A property that can differ from episode to episode."""

    kind: Literal["visual", "physical"]
    meaning: str  # of its value
    works: Condition = _always  # whether a model has what the factor changes
    apply: Change = _draw_only  # changes a model in place, given a value and a random stream
    neutral: float = 0  # the value that changes nothing
    low: float = 0  # smallest value
    high: float = 1  # largest value
    whole: bool = False  # whether values are whole numbers


def _physical(meaning: str, works: Condition, apply: Change, low: float = 0) -> Factor:
    return Factor("physical", f"{meaning}, as a factor", works, apply, neutral=1, low=low, high=100)


def _count(meaning: str, high: int) -> Factor:
    return Factor("visual", f"number of {meaning}", high=high, whole=True)


_mass = _scale("body_mass", "body_inertia")
_friction = _scale("geom_friction", "pair_friction", "dof_frictionloss", "tendon_frictionloss")
_damping = _scale("dof_damping", "tendon_damping")
_light = _scale(
    *(f"light_{part}" for part in ("ambient", "diffuse", "specular")),
    *(f"vis.headlight.{part}" for part in ("ambient", "diffuse", "specular")),
)
FACTORS: dict[str, Factor] = {
    "colour": Factor("visual", "weight of a random colour in each colour", apply=_colour),
    "light": Factor("visual", "brightness of all lights", apply=_light, neutral=1, high=3),
    "camera": Factor("visual", "orbit and roll, up to 15 and 10 degrees", _has_camera, _camera),
    "texture": Factor("visual", "contrast of textures on static geoms", _has_static_geoms),
    "distractors": _count("coloured shapes in the background", 20),
    "mass": _physical("mass and inertia of all bodies", _has_mass, _mass, low=0.01),
    "friction": _physical("friction of contacts, joints, tendons", _has_friction, _friction),
    "damping": _physical("damping of joints and tendons", _has_damping, _damping),
    "gravity": _physical("gravity", _has_weight, _scale("opt.gravity")),
    "gain": _physical("force of motors, target of servos", _has_gain, _gain),
    "flicker": Factor("visual", "weight of a changing colour of static geoms", _has_static_geoms),
    "drift": _count("discs that drift together over the background", 20),
    "intruder": _count("discs that move independently over the background", 5),
    "jitter": Factor("visual", "changing angle of the camera, up to 2 degrees"),
}
"""By name, in the order in which their values are drawn: add new ones at the end."""
