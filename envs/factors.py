"""The factors of variation: what each of them changes in a compiled model, and in which models.

This is the one place that names them. Eight change fields of a model's copy; `texture` and
`distractors` are drawn over the scene, see `envs/scenery.py`; the last four move by themselves, see
`envs/motion.py`.
"""

# MuJoCo's compiled names have no stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import mujoco
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ORBIT, ROLL = np.deg2rad(15), np.deg2rad(10)
"""How far a camera goes around what it looks at, and turns about its axis, at most [rad]."""
SIMPLE_GAINS = (mujoco.mjtGain.mjGAIN_FIXED.value, mujoco.mjtGain.mjGAIN_AFFINE.value)


@dataclass(frozen=True)
class Factor:
    """One thing that can differ from episode to episode.

    Attributes:
        kind: whether it changes what is seen, or how things move.
        meaning: what a value says, for people.
        neutral: the value that changes nothing.
        low: smallest value.
        high: largest value.
        works: whether a model has what the factor changes.
        apply: changes a model in place, given a value and the random stream of the factor.
        whole: whether values are whole numbers.
    """

    kind: Literal["visual", "physical"]
    meaning: str
    neutral: float
    low: float
    high: float
    works: Callable[[mujoco.MjModel], bool]
    apply: Callable[[mujoco.MjModel, float, np.random.Generator], None]
    whole: bool = False


def _colour(model: mujoco.MjModel, value: float, rng: np.random.Generator) -> None:
    """Mix every colour with a random one; what had the same colour keeps having the same."""
    parts: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = [
        (rgba, rgba[:, 3] > 0) for rgba in (model.mat_rgba,)
    ]
    for kind in ("geom", "site", "tendon"):
        rgba, material = getattr(model, f"{kind}_rgba"), getattr(model, f"{kind}_matid")
        parts.append((rgba, (rgba[:, 3] > 0) & (material < 0)))  # others have their material's
    colours = np.concatenate([rgba[shown, :3] for rgba, shown in parts])
    colours, which = np.unique(colours, axis=0, return_inverse=True)
    mixed = ((1 - value) * colours + value * rng.random(colours.shape))[which.ravel()]
    for rgba, shown in parts:
        rgba[shown, :3], mixed = mixed[: shown.sum()], mixed[shown.sum() :]


def _light(model: mujoco.MjModel, value: float, rng: np.random.Generator) -> None:
    for part in ("ambient", "diffuse", "specular"):
        getattr(model, f"light_{part}")[:] *= value
        getattr(model.vis.headlight, part)[:] *= value


def _camera(model: mujoco.MjModel, value: float, rng: np.random.Generator) -> None:
    """Move all cameras around the point of their line of sight that is nearest to the middle."""
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


def _mass(model: mujoco.MjModel, value: float, rng: np.random.Generator) -> None:
    model.body_mass[:] *= value
    model.body_inertia[:] *= value


def _friction(model: mujoco.MjModel, value: float, rng: np.random.Generator) -> None:
    for field in ("geom_friction", "pair_friction", "dof_frictionloss", "tendon_frictionloss"):
        getattr(model, field)[:] *= value


def _damping(model: mujoco.MjModel, value: float, rng: np.random.Generator) -> None:
    for field in ("dof_damping", "tendon_damping"):
        getattr(model, field)[:] *= value


def _gravity(model: mujoco.MjModel, value: float, rng: np.random.Generator) -> None:
    model.opt.gravity[:] *= value


def _gain(model: mujoco.MjModel, value: float, rng: np.random.Generator) -> None:
    model.actuator_gainprm[np.isin(model.actuator_gaintype, SIMPLE_GAINS), :3] *= value


def _nothing(model: mujoco.MjModel, value: float, rng: np.random.Generator) -> None:
    """Leave the model alone: what is drawn is changed instead."""


def _always(model: mujoco.MjModel) -> bool:
    return True


def _has_surroundings(model: mujoco.MjModel) -> bool:
    return bool((model.body_weldid[model.geom_bodyid] == 0).any())


def _has_mass(model: mujoco.MjModel) -> bool:
    return bool((model.body_mass[model.body_weldid != 0] > 0).any())


def _rubs(model: mujoco.MjModel) -> bool:
    """Whether there is dry friction: in joints and tendons, or in contacts that can be."""
    dry = (model.dof_frictionloss > 0).any() or (model.tendon_frictionloss > 0).any()
    touching = (model.geom_contype > 0) | (model.geom_conaffinity > 0)
    sliding = (model.geom_condim[touching] > 1).any() or (model.pair_dim > 1).any()
    contacts = not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT.value
    return bool(dry or (contacts and sliding))


def _is_damped(model: mujoco.MjModel) -> bool:
    return bool((model.dof_damping > 0).any() or (model.tendon_damping > 0).any())


def _weighs(model: mujoco.MjModel) -> bool:
    disabled = model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_GRAVITY.value
    return bool(model.opt.gravity.any() and not disabled and _has_mass(model))


def _has_gain(model: mujoco.MjModel) -> bool:
    return bool(np.isin(model.actuator_gaintype, SIMPLE_GAINS).any())


FACTORS: dict[str, Factor] = {
    "colour": Factor(
        "visual", "how far colours are mixed with random ones", 0, 0, 1, _always, _colour
    ),
    "light": Factor("visual", "brightness of all lights, as a factor", 1, 0, 3, _always, _light),
    "camera": Factor(
        "visual", "how far the camera goes round and rolls, 1: 15 and 10 degrees at most",
        0, 0, 1, lambda model: model.ncam > 0, _camera,
    ),
    "texture": Factor(
        "visual", "contrast of random patterns on what does not move, in eighths",
        0, 0, 1, _has_surroundings, _nothing,
    ),
    "distractors": Factor(
        "visual", "number of coloured shapes in the background",
        0, 0, 20, _always, _nothing, whole=True,
    ),
    "mass": Factor(
        "physical", "mass and inertia of all bodies, as a factor", 1, 0.01, 100, _has_mass, _mass
    ),
    "friction": Factor(
        "physical", "friction of contacts and dry joints, as a factor", 1, 0, 100, _rubs, _friction
    ),
    "damping": Factor(
        "physical", "damping of joints and tendons, as a factor", 1, 0, 100, _is_damped, _damping
    ),
    "gravity": Factor("physical", "gravity, as a factor", 1, 0, 100, _weighs, _gravity),
    "gain": Factor(
        "physical", "what an action does: force, or the speed or place that a servo seeks",
        1, 0, 100, _has_gain, _gain,
    ),
    "flicker": Factor(
        "visual", "how far what does not move takes on a random colour, new at every moment",
        0, 0, 1, _has_surroundings, _nothing,
    ),
    "drift": Factor(
        "visual", "number of discs in a pattern that drifts over the background",
        0, 0, 20, _always, _nothing, whole=True,
    ),
    "intruder": Factor(
        "visual", "number of objects that wander over the background by themselves",
        0, 0, 5, _always, _nothing, whole=True,
    ),
    "jitter": Factor(
        "visual", "how far the camera shakes, new at every moment, 1: 2 degrees at most",
        0, 0, 1, _always, _nothing,
    ),
}  # fmt: skip
"""By name, in the order in which their values are drawn: add new ones at the end."""
