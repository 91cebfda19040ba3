"""A world of your own: any MuJoCo file, with a site that has to be brought to where it could be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from mujepa.envs import names
from mujepa.envs.behaviour import RedNoise
from mujepa.envs.camera import FreeCamera, overview
from mujepa.envs.task import Task, rollout_ends
from mujepa.envs.types import Array, Data, Dynamics, JointState, Model, Rng
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray


SENSOR = "mujepa_goal_site"
SPAN = 1.0
"""How far joints and their targets go from the home pose, where their limits are wider [rad]."""
STEP = 0.04
"""Seconds that an environment step should last."""
DRAWS = 200
DEEP = 0.001
"""How much deeper than in the home pose bodies may penetrate in a drawn one [m]."""
OVERVIEW_POSES = 32
"""Poses that are drawn to find out what a camera has to see."""
SETTLE_STEPS = 25
"""Environment steps in which a robot comes to rest at a drawn pose."""


@dataclass(frozen=True)
class RobotTask(Task):
    """Bring a site to where the goal image shows it.

    Starts and goals are random poses around the home pose (the keyframe `home`, or the model's
    own): every actuated joint anywhere within its limits, at most `span` away, without new
    collisions. Robots whose actuators are position servos then hold still there. A model without
    such joints (one that drives or flies) starts at home, and its goals are what random actions
    reach.

    Attributes:
        site: name of the site.
        span: how far from home joints are drawn, and servos are sent [rad].
        goal_steps: environment steps to a goal, where poses cannot be drawn.
    """

    site: str = ""
    span: float = SPAN
    goal_steps: int = 50
    behaviour: RedNoise = field(default_factory=lambda: RedNoise((0.3, 1.2), (0.3, 0.97)))

    def compile(self) -> Model:
        """Compile the file with a sensor for the site."""
        spec = _load(self.mjcf)
        spec.add_sensor(
            name=SENSOR, type=mujoco.mjtSensor.mjSENS_FRAMEPOS,
            objtype=mujoco.mjtObj.mjOBJ_SITE, objname=self.site,
        )  # fmt: skip
        return _compile(self.mjcf, spec)

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
        """Draw two poses, held still where servos can; or what random actions reach."""
        if not len(_drawn_joints(world.model)):
            return rollout_ends(self, world, rng, self.goal_steps)
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


def robot_task(name: str) -> RobotTask:
    """Return the task of a MuJoCo file; settings that the name leaves open are chosen.

    Raises:
        UserError: the file is missing, invalid, edited, or leaves open what cannot be chosen.
    """
    file = names.parse(name)
    file.check("digest", file.path)
    model = _compile(file.path, _load(file.path))
    _check_actuators(file.path.name, model)
    sites = [model.site(index).name for index in range(model.nsite)]
    site = _choose_site(file.path.name, sites, file.settings.get("goal_site"))
    asked = file.settings.get("camera")
    cameras = [model.camera(index).name for index in range(model.ncam)]
    if asked is not None and asked not in cameras:
        raise UserError(
            f"no camera {asked!r} in {file.path.name}; its cameras: {', '.join(cameras) or 'none'}"
        )
    named = asked or next(filter(None, cameras), None)
    camera = named or overview_of_poses(model)
    tolerance = _tolerance(file.settings.get("tolerance"), model)
    settings = {"goal_site": site, "tolerance": f"{tolerance:g}"}
    settings |= {"digest": names.digest(file.path)} | ({"camera": named} if named else {})
    substeps = max(1, round(STEP / model.opt.timestep))
    return RobotTask(
        name=names.FileName(file.path, "", settings).text, mjcf=file.path, goal_sensors=(SENSOR,),
        tolerance=tolerance, substeps=substeps, site=site,
        observation_camera=camera, pretty_camera=camera,
    )  # fmt: skip


def overview_of_poses(model: Model) -> FreeCamera:
    """Return a camera that sees the model's moving bodies and sites, wherever they reach."""
    rng, data, places = np.random.default_rng(0), mujoco.MjData(model), []
    for _ in range(OVERVIEW_POSES):
        data.qpos[:] = draw_pose(model, rng, SPAN)
        mujoco.mj_kinematics(model, data)
        places += [data.xipos[1:].copy(), data.xpos[1:].copy(), data.site_xpos.copy()]
    everywhere = np.concatenate(places)
    low, high = everywhere.min(axis=0), everywhere.max(axis=0)
    radius = max(float(np.linalg.norm(high - low)) / 2, model.stat.extent / 4)
    distance = 1.1 * radius / np.sin(np.deg2rad(model.vis.global_.fovy) / 2)
    return overview(model, (low + high) / 2, float(distance))


def draw_pose(model: Model, rng: Rng, span: float) -> Array:
    """Draw joint positions (nq,) without new collisions; those of home if none are found."""
    home, data = home_pose(model), mujoco.MjData(model)
    joints = _drawn_joints(model)
    low, high = _reach(model, joints, home, span)
    allowed = _violation(model, data, home) + DEEP
    for _ in range(DRAWS if len(joints) else 0):
        pose = home.copy()
        pose[model.jnt_qposadr[joints]] = rng.uniform(low, high)
        if _violation(model, data, pose) <= allowed:
            return pose
    return home


def home_pose(model: Model) -> Array:
    """Return the joint positions (nq,) of the keyframe `home`, or the model's own."""
    key = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_KEY, "home")
    return (model.key_qpos[key] if key >= 0 else model.qpos0).copy()


def _load(path: object) -> mujoco.MjSpec:
    try:
        return mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a valid MuJoCo model: {reason}") from error


def _compile(path: object, spec: mujoco.MjSpec) -> Model:
    try:
        return spec.compile()
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a valid MuJoCo model: {reason}") from error


def _check_actuators(name: str, model: Model) -> None:
    if not model.nu:
        raise UserError(f"{name} has no actuators, so that nothing could act; add <actuator>")
    servos = _servos(model)
    limited = model.actuator_ctrllimited.astype(bool)
    endless = [
        model.actuator(index).name or f"number {index}"
        for index in np.flatnonzero(~limited).tolist()
        if index not in servos or not model.jnt_limited[servos[index]]
    ]
    if endless:
        raise UserError(
            f"actuators of {name} without limits: {', '.join(endless)}; "
            'give them a ctrlrange, for example ctrlrange="-1 1"'
        )


def _choose_site(name: str, sites: list[str], asked: str | None) -> str:
    known = [site for site in sites if site]
    if asked is None and len(known) == 1:
        return known[0]
    if asked is None and known:
        raise UserError(f"{name} has {len(known)} sites; choose --goal-site: {', '.join(known)}")
    if asked is None:
        raise UserError(f'{name} has no site; add one where the goal is: <site name="hand"/>')
    if asked not in known:
        raise UserError(f"no site {asked!r} in {name}; its sites: {', '.join(known) or 'none'}")
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
    """Return the joint of each actuator that pulls a joint to the position it is sent."""
    joint = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
    affine = model.actuator_biastype == mujoco.mjtBias.mjBIAS_AFFINE
    pulls = (model.actuator_biasprm[:, 1] < 0) & (model.actuator_gear[:, 0] == 1)
    return {int(i): int(model.actuator_trnid[i, 0]) for i in np.flatnonzero(joint & affine & pulls)}


def _drawn_joints(model: Model) -> NDArray[np.int64]:
    """Return the hinges and slides that an actuator drives and no equality ties to others."""
    driven = model.actuator_trnid[model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT, 0]
    tied = model.eq_type == mujoco.mjtEq.mjEQ_JOINT
    others = {*model.eq_obj1id[tied].tolist(), *model.eq_obj2id[tied].tolist()}
    plain = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
    return np.array(
        [j for j in sorted(set(driven.tolist())) if model.jnt_type[j] in plain and j not in others],
        int,
    )


def _reach(
    model: Model, joints: NDArray[np.int64], home: Array, span: float
) -> tuple[Array, Array]:
    """Return the lowest and highest position that is drawn of each joint."""
    middle = home[model.jnt_qposadr[joints]]
    hinge = model.jnt_type[joints] == mujoco.mjtJoint.mjJNT_HINGE
    limited = model.jnt_limited[joints].astype(bool)
    servo = np.isin(joints, list(_servos(model).values()))
    low = np.where(limited, model.jnt_range[joints, 0], middle - np.where(hinge, np.pi, 0.5))
    high = np.where(limited, model.jnt_range[joints, 1], middle + np.where(hinge, np.pi, 0.5))
    near = hinge & servo
    return (
        np.where(near, np.maximum(low, middle - span), low),
        np.where(near, np.minimum(high, middle + span), high),
    )


def _violation(model: Model, data: Data, pose: Array) -> float:
    """Return how much a pose violates contacts and equalities [m]."""
    mujoco.mj_resetData(model, data)
    data.qpos[:] = pose
    mujoco.mj_forward(model, data)
    deepest = max((-contact.dist for contact in data.contact[: data.ncon]), default=0.0)
    tied = data.efc_type[: data.nefc] == mujoco.mjtConstraint.mjCNSTR_EQUALITY
    return max(deepest, float(np.abs(data.efc_pos[: data.nefc][tied]).max(initial=0.0)))
