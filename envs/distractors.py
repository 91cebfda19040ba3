"""Distractors: what images show that is not simulated; functions of the draw and the time."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from mujepa.envs.camera import CameraFrame
from mujepa.envs.textures import STATIC
from mujepa.envs.types import Array, Data, Model, Rng

GOAL_TIME = 1000.0
"""Time at which goal images are drawn [s]: after any episode, with moving discs elsewhere."""
MAX_SHAKE = np.deg2rad(2)
"""Largest angle by which a shaking camera turns about each axis [rad]."""
EDGE = 1.4
"""Where drifting discs leave the image and enter again; the image's own edge is at 1."""
MAX_RADIUS = 0.35
"""Largest radius of a disc, as a share of half the image."""
CELLS = 17
"""Rows and columns of the grid of a `Backdrop`."""
UNDRAWN_GROUP = 5
"""A geom group that MuJoCo does not draw by default."""
DISC = mujoco.mjtGeom.mjGEOM_ELLIPSOID
SHAPES = (DISC, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER)


@dataclass(frozen=True)
class Shape:
    """A geom that is drawn but not simulated."""

    kind: mujoco.mjtGeom
    size: Array  # half-extents, (3,) [m]
    position: Array  # (3,) [m]
    axes: Array  # as columns, (3, 3)
    rgba: NDArray[np.float32]  # (4,)

    def draw(self, scene: mujoco.MjvScene) -> None:
        """Add the shape to a scene."""
        geom = scene.geoms[scene.ngeom]
        axes = self.axes.flatten()
        mujoco.mjv_initGeom(geom, self.kind, self.size, self.position, axes, self.rgba)
        geom.category = mujoco.mjtCatBit.mjCAT_DECOR.value  # MuJoCo leaves it uninitialised
        scene.ngeom += 1


@dataclass(frozen=True)
class Backdrop:
    """The surface of the static geoms, as a camera sees it.

    `depth` is the distance at which a disc hides nothing that moves, on a grid of (CELLS, CELLS)
    lines of sight to its middle, from -EDGE to EDGE upwards and to the right [m].
    """

    camera: CameraFrame
    depth: Array

    @classmethod
    def measure(cls, model: Model, data: Data, camera: CameraFrame) -> Backdrop:
        """Measure the depth along each line of sight; `data` must be up to date."""
        line, half = np.linspace(-EDGE, EDGE, CELLS), camera.half
        rays = np.array([[half * x, half * y, -1.0] for y in line for x in line]) @ camera.axes.T
        depth = static_depths(model, data, camera.position, rays)
        empty = depth < 0
        depth[empty] = _beyond(model, camera.position) if empty.all() else depth.max()
        size = 2 * int(np.ceil(MAX_RADIUS / (line[1] - line[0]))) + 1
        return cls(camera, maximum_filter(depth.reshape(CELLS, CELLS), size, mode="nearest"))

    def place(self, points: Array) -> tuple[Array, Array]:
        """Return where discs lie that appear at image points (N, 2), from -1 to 1: right, upwards.

        These are positions (N, 3), and half of the image's width there (N,) [m].
        """
        cells = ((points + EDGE) * ((CELLS - 1) / (2 * EDGE)) + 0.5).astype(int)
        column, row = np.clip(cells, 0, CELLS - 1).T
        depth, axes = self.depth[row, column], self.camera.axes
        rays = points @ (self.camera.half * axes[:, :2].T) - axes[:, 2]
        return self.camera.position + depth[:, None] * rays, self.camera.half * depth


@dataclass(frozen=True)
class MovingDiscs:
    """N flat discs that move over the backdrop."""

    radii: Array  # as shares of half the image, (N,)
    colours: Array  # (N, 3)
    points: Callable[[float], Array]  # of their middles at a time [s], from -1 to 1, (N, 2)

    def draw(self, scene: mujoco.MjvScene, backdrop: Backdrop, time: float) -> None:
        """Add the discs to a scene."""
        positions, halves = backdrop.place(self.points(time))
        sizes = (self.radii * halves)[:, None] * np.array([1, 1, 0.1])
        for size, position, colour in zip(sizes, positions, self.colours, strict=True):
            Shape(DISC, size, position, backdrop.camera.axes, _opaque(colour)).draw(scene)


@dataclass(frozen=True)
class Motion:
    """The distractors that move in one episode.

    Colours of `flicker` and angles of `jitter` are drawn anew at each physics step.
    """

    seed: Sequence[int]
    timestep: float  # of physics [s]
    flicker: float  # weight of a random colour of the static geoms, from 0 to 1
    jitter: float  # strength of the camera's shaking, from 0 to 1
    backdrop: Backdrop
    drift: MovingDiscs  # that move together
    intruders: MovingDiscs  # that move independently

    def tint(self, time: float) -> Array:
        """Return the random colour of the static geoms, (3,)."""
        return self._random(time)[:3]

    def shake(self, time: float) -> Array:
        """Return the angles of the camera at a time, to the right and upwards, (2,) [rad]."""
        return self.jitter * MAX_SHAKE * (2 * self._random(time)[3:] - 1)

    def draw(self, scene: mujoco.MjvScene, time: float) -> None:
        """Change an updated scene to how it looks at a time."""
        if self.flicker:
            tint = self.flicker * self.tint(time)
            for geom in scene.geoms[: scene.ngeom]:
                if geom.category == STATIC:
                    geom.rgba[:3] = (1 - self.flicker) * geom.rgba[:3] + tint
        for discs in (self.drift, self.intruders):
            discs.draw(scene, self.backdrop, time)
        if self.jitter:
            _turn_camera(scene, *np.tan(self.shake(time)))

    def _random(self, time: float) -> Array:
        """Return the random numbers of a physics step, from 0 to 1: colour (3) and angles (2)."""
        return np.random.default_rng([*self.seed, round(time / self.timestep)]).random(5)


def make_drift(count: int, rng: Rng) -> MovingDiscs:
    """Return discs that move together; their pattern is the same in all episodes."""
    start, heading = rng.uniform(-EDGE, EDGE, 2), rng.uniform(-np.pi, np.pi)
    velocity = rng.uniform(0.4, 0.8) * np.array([np.cos(heading), np.sin(heading)])
    pattern = np.random.default_rng(0).random((count, 6))
    radii = 0.15 + (MAX_RADIUS - 0.15) * pattern[:, 0]
    home = start + EDGE * (2 * pattern[:, 4:] - 1)

    def points(time: float) -> Array:
        return (home + velocity * time + EDGE) % (2 * EDGE) - EDGE

    return MovingDiscs(radii, pattern[:, 1:4], points)


def make_intruders(count: int, rng: Rng) -> MovingDiscs:
    """Return discs of bright colours that oscillate through the whole image."""
    random = rng.random((count, 5))
    hues = [colorsys.hsv_to_rgb(hue, 1, 1) for hue in random[:, 0]]
    rate, phase = 0.08 + 0.17 * random[:, 1:3], random[:, 3:]

    def points(time: float) -> Array:
        return 0.85 * np.sin(2 * np.pi * (rate * time + phase))

    return MovingDiscs(np.full(count, 0.16), np.array(hues).reshape(count, 3), points)


def make_shapes(model: Model, data: Data, camera: CameraFrame, count: int, rng: Rng) -> list[Shape]:
    """Return flat shapes on the static geoms, at random points of a camera's image."""
    shapes = []
    for _ in range(count):
        point, share, colour = rng.uniform(-0.9, 0.9, 2), rng.uniform(0.05, 0.12), rng.random(3)
        ray = camera.axes @ np.array([*(camera.half * point), -1.0])
        depth = static_depths(model, data, camera.position, ray[None])[0]
        depth = depth if depth >= 0 else _beyond(model, camera.position)
        size = share * camera.half * depth * np.array([1, 1, 0.1])
        kind, position = SHAPES[rng.integers(len(SHAPES))], camera.position + depth * ray
        shapes.append(Shape(kind, size, position, camera.axes, _opaque(colour)))
    return shapes


def static_depths(model: Model, data: Data, origin: Array, rays: Array) -> Array:
    """Return the distances to static geoms, in lengths of rays (N, 3) -> (N,); -1 for none."""
    groups = model.geom_group.copy()
    model.geom_group[model.body_weldid[model.geom_bodyid] != 0] = UNDRAWN_GROUP
    drawn, hit = np.array([1, 1, 1, 0, 0, 0], np.uint8), np.zeros(1, np.int32)
    depths = [mujoco.mj_ray(model, data, origin, ray, drawn, 1, -1, hit) for ray in rays]
    model.geom_group[:] = groups
    return np.array(depths)


def _beyond(model: Model, origin: Array) -> float:
    """Return a distance from a point (3,) that is behind all of the scene [m]."""
    return float(np.linalg.norm(origin - model.stat.center) + model.stat.extent)


def _turn_camera(scene: mujoco.MjvScene, right: float, up: float) -> None:
    forward, above, aside = scene.camera[0].forward.copy(), scene.camera[0].up.copy(), np.empty(3)
    mujoco.mju_cross(aside, forward, above)
    turned = forward + right * aside + up * above
    turned /= np.sqrt(turned @ turned)
    above -= (above @ turned) * turned
    above /= np.sqrt(above @ above)
    for eye in scene.camera:  # MuJoCo averages the two
        eye.forward[:], eye.up[:] = turned, above


def _opaque(colour: Array) -> NDArray[np.float32]:
    return np.array([*colour, 1], np.float32)
