"""Tasks from any MuJoCo file: bring a site to where the goal image shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from mujepa.envs.behaviour import RedNoise
from mujepa.envs.camera import FreeCamera, overview
from mujepa.envs.names import FileName, digest
from mujepa.envs.task import Task, rollout_ends
from mujepa.envs.types import Array, Data, Dynamics, JointState, Model, Rng
from mujepa.runtime.errors import UserError

SENSOR = "mujepa_goal_site"
SPAN = 1.0  # largest distance of joints and servo targets from the home pose [rad]
STEP_SECONDS = 0.04  # approximate duration of an environment step [s]
MAX_DRAWS = 200
EXTRA_DEPTH = 0.001  # how much deeper than in the home pose bodies may penetrate [m]
OVERVIEW_POSES = 32  # that the default camera must see
SETTLE_STEPS = 25  # environment steps in which a robot comes to rest at a drawn pose


@dataclass(frozen=True)
class RobotTask(Task):
    """Bring a site to where the goal image shows it.

    Starts and goals are random poses around the home pose (the keyframe `home`, or the model's
    own): every actuated joint anywhere within its limits, at most `span` away, without new
    collisions. Robots whose actuators are position servos then hold still there. A model without
    such joints (one that drives or flies) starts at home, and its goals are what random actions
    reach.
    """

    site: str = ""
    span: float = SPAN
    random_steps: int = 50  # to a goal, where poses cannot be drawn
    behaviour: RedNoise = field(default_factory=lambda: RedNoise((0.3, 1.2), (0.3, 0.97)))

    def compile(self) -> Model:
        """Compile the file with a sensor for the site."""
        site, position = mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtSensor.mjSENS_FRAMEPOS
        return _compile(self.mjcf, name=SENSOR, type=position, objtype=site, objname=self.site)

    def action_bounds(self, model: Model) -> tuple[Array, Array]:
        """Return the controls' limits; those of position servos go at most `span` from home."""
        low, high = model.actuator_ctrlrange.T.copy()
        home = home_pose(model)
        for actuator, joint in _servos(model).items():
            if not model.actuator_ctrllimited[actuator]:
                low[actuator], high[actuator] = model.jnt_range[joint]
            middle = home[model.jnt_qposadr[joint]]
            if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE:
                low[actuator] = max(low[actuator], middle - self.span)
                high[actuator] = min(high[actuator], middle + self.span)
        return low, high

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw a pose, at rest."""
        return self.sample_goal(model, rng), np.zeros(model.nv)

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Draw a pose without new collisions; the home pose if none is found."""
        return draw_pose(model, rng, self.span)

    def sample_ends(self, world: Dynamics, rng: Rng) -> tuple[Array, Array]:
        """Draw two poses, held still if servos can; or what random actions reach."""
        if not len(_posed_joints(world.model)):
            return rollout_ends(self, world, rng, self.random_steps)
        ends = super().sample_ends(world, rng)
        servos = _servos(world.model)
        if len(servos) < world.model.nu:
            return ends
        addresses = 1 + world.model.jnt_qposadr[list(servos.values())]
        states = np.stack(ends)
        targets = np.clip(states[:, addresses], world.action_low, world.action_high)
        for _ in range(SETTLE_STEPS):
            states = world.step(states, targets)
        start, goal = (world.state(state[1 : 1 + world.model.nq]) for state in states)
        return start, goal


def robot_task(file: FileName) -> RobotTask:
    """Return the task of a MuJoCo file; settings that are not given are chosen.

    Raises:
        UserError: the file is missing, invalid or edited, or a setting cannot be chosen.
    """
    file.check("digest", file.path)
    model = _compile(file.path)
    name, given = file.path.name, file.settings
    _check_actuators(name, model)
    site = _choose_site(name, _named(model.site, model.nsite), given.get("goal_site"))
    cameras = _named(model.camera, model.ncam)
    camera = given.get("camera") or next(iter(cameras), None)
    if camera and camera not in cameras:
        shown = ", ".join(cameras) or "none"
        raise UserError(f"no camera {camera!r} in {name}; its cameras: {shown}")
    tolerance = _tolerance(given.get("tolerance"), model)
    settings = {"goal_site": site, "tolerance": f"{tolerance:g}", "digest": digest(file.path)}
    settings |= {"camera": camera} if camera else {}
    view = camera or overview_of_poses(model)
    return RobotTask(
        name=FileName(file.path, "", settings).text,
        mjcf=file.path,
        goal_sensors=(SENSOR,),
        tolerance=tolerance,
        substeps=max(1, round(STEP_SECONDS / model.opt.timestep)),
        site=site,
        observation_camera=view,
        pretty_camera=view,
    )


def overview_of_poses(model: Model) -> FreeCamera:
    """Return a camera that sees the moving bodies and the sites in all poses."""
    rng, data, positions = np.random.default_rng(0), mujoco.MjData(model), []
    for _ in range(OVERVIEW_POSES):
        data.qpos[:] = draw_pose(model, rng, SPAN)
        mujoco.mj_kinematics(model, data)
        positions += [data.xipos[1:].copy(), data.xpos[1:].copy(), data.site_xpos.copy()]
    low, high = np.min(np.concatenate(positions), 0), np.max(np.concatenate(positions), 0)
    radius = max(float(np.linalg.norm(high - low)) / 2, model.stat.extent / 4)
    distance = 1.1 * radius / np.sin(np.deg2rad(model.vis.global_.fovy) / 2)
    return overview(model, (low + high) / 2, distance)


def draw_pose(model: Model, rng: Rng, span: float) -> Array:
    """Draw joint positions (nq,) without new collisions; the home pose if none are found."""
    home, data = home_pose(model), mujoco.MjData(model)
    joints = _posed_joints(model)
    low, high = _ranges(model, joints, home, span)
    allowed = _violation(model, data, home) + EXTRA_DEPTH
    for _ in range(MAX_DRAWS if len(joints) else 0):
        pose = home.copy()
        pose[model.jnt_qposadr[joints]] = rng.uniform(low, high)
        if _violation(model, data, pose) <= allowed:
            return pose
    return home


def home_pose(model: Model) -> Array:
    """Return the joint positions (nq,) of the keyframe `home`, or the model's own."""
    key = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_KEY, "home")
    return (model.key_qpos[key] if key >= 0 else model.qpos0).copy()


def _compile(path: Path, **sensor: object) -> Model:
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        if sensor:
            spec.add_sensor(**sensor)
        return spec.compile()
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a valid MuJoCo model: {reason}") from error


def _check_actuators(name: str, model: Model) -> None:
    if not model.nu:
        raise UserError(f"{name} has no actuators, so that nothing could act; add <actuator>")
    servos = _servos(model)
    unlimited = [
        model.actuator(index).name or f"number {index}"
        for index in np.flatnonzero(model.actuator_ctrllimited == 0).tolist()
        if index not in servos or not model.jnt_limited[servos[index]]
    ]
    if unlimited:
        raise UserError(
            f"actuators of {name} without limits: {', '.join(unlimited)}; "
            'give them a ctrlrange, for example ctrlrange="-1 1"'
        )


def _named(elements: Callable[[int], Any], count: int) -> list[str]:
    return [name for index in range(count) if (name := elements(index).name)]


def _choose_site(name: str, sites: Sequence[str], asked: str | None) -> str:
    if asked is None and len(sites) == 1:
        return sites[0]
    if asked is None and sites:
        raise UserError(f"{name} has {len(sites)} sites; choose --goal-site: {', '.join(sites)}")
    if asked is None:
        raise UserError(f'{name} has no site; add one where the goal is: <site name="hand"/>')
    if asked not in sites:
        raise UserError(f"no site {asked!r} in {name}; its sites: {', '.join(sites) or 'none'}")
    return asked


def _tolerance(asked: str | None, model: Model) -> float:
    if asked is None:
        return float(f"{0.05 * model.stat.extent:.2g}")
    try:
        tolerance = float(asked)
    except ValueError:
        tolerance = -1.0
    if not 0 < tolerance < np.inf:
        raise UserError(f"--tolerance must be a positive distance [m], got {asked}")
    return tolerance


def _servos(model: Model) -> dict[int, int]:
    """Return the joints, by actuator, of actuators that hold a joint at the position they get."""
    joint = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
    affine = model.actuator_biastype == mujoco.mjtBias.mjBIAS_AFFINE
    pulls = (model.actuator_biasprm[:, 1] < 0) & (model.actuator_gear[:, 0] == 1)
    return {int(i): int(model.actuator_trnid[i, 0]) for i in np.flatnonzero(joint & affine & pulls)}


def _posed_joints(model: Model) -> NDArray[np.int64]:
    """Return the hinges and slides that an actuator drives and no equality constrains."""
    driven = model.actuator_trnid[model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT, 0]
    tied = model.eq_type == mujoco.mjtEq.mjEQ_JOINT
    free = np.setdiff1d(driven, np.concatenate([model.eq_obj1id[tied], model.eq_obj2id[tied]]))
    return free[model.jnt_type[free] >= mujoco.mjtJoint.mjJNT_SLIDE.value].astype(int)


def _ranges(
    model: Model, joints: NDArray[np.int64], home: Array, span: float
) -> tuple[Array, Array]:
    middle = home[model.jnt_qposadr[joints]]
    hinge = model.jnt_type[joints] == mujoco.mjtJoint.mjJNT_HINGE
    limited = model.jnt_limited[joints].astype(bool)
    half = np.where(hinge, np.pi, 0.5)
    low = np.where(limited, model.jnt_range[joints, 0], middle - half)
    high = np.where(limited, model.jnt_range[joints, 1], middle + half)
    reach = np.where(hinge & np.isin(joints, list(_servos(model).values())), span, np.inf)
    return np.maximum(low, middle - reach), np.minimum(high, middle + reach)


def _violation(model: Model, data: Data, pose: Array) -> float:
    """Return how much a pose violates contacts and equalities [m]."""
    mujoco.mj_resetData(model, data)
    data.qpos[:] = pose
    mujoco.mj_forward(model, data)
    deepest = max((-contact.dist for contact in data.contact[: data.ncon]), default=0.0)
    tied = data.efc_type[: data.nefc] == mujoco.mjtConstraint.mjCNSTR_EQUALITY
    return max(deepest, float(np.abs(data.efc_pos[: data.nefc][tied]).max(initial=0.0)))
