"""What moves by itself in an episode's pictures and does not matter: nothing simulates it.

Where it is depends on the episode's draw and on the clock of the state that is drawn, so that a
picture stays a function of the two, and physics cannot notice any of it.
"""

# MuJoCo's compiled names have no stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from scipy.ndimage import maximum_filter

from mujepa.envs.scenery import STATIC, Ornament, beyond, surface_distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

GOAL_TIME = 1000.0
"""Clock of the pictures of goals [s]: later than any episode, so that what moves is elsewhere."""
SHAKE = np.deg2rad(2)
"""How far a camera that shakes turns about each axis, at most [rad]."""
EDGE = 1.4
"""Where shapes that drift leave a picture and come in again; the picture's own edge is at 1."""
LARGEST = 0.35
"""Largest radius of a disc, as a share of half the picture."""
CELLS = 17
"""Lines of sight along each side of a picture of which a `Backdrop` knows where they end."""
DISC = mujoco.mjtGeom.mjGEOM_ELLIPSOID


@dataclass(frozen=True)
class Backdrop:
    """What does not move, as a camera sees it.

    Attributes:
        eye: the camera's position, (3,) [m].
        axes: its axes as columns: right, up, backwards; (3, 3).
        half: half of the width of a picture one metre away [m].
        depth: how far away a disc is to be that hides nothing, by row and column of lines of sight
            to its middle [m].
    """

    eye: NDArray[np.float64]
    axes: NDArray[np.float64]
    half: float
    depth: NDArray[np.float64]

    @classmethod
    def behind(
        cls,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        frame: tuple[NDArray[np.float64], NDArray[np.float64], float],
    ) -> Backdrop:
        """Look along lines of sight, through all that moves.

        Args:
            model: the model.
            data: simulation data with up-to-date positions.
            frame: the camera's position, axes and field of view, as `camera_frame` returns them.
        """
        eye, axes, half = frame[0].copy(), frame[1].copy(), float(np.tan(np.deg2rad(frame[2]) / 2))
        line = np.linspace(-EDGE, EDGE, CELLS)
        rays = np.array([[half * x, half * y, -1.0] for y in line for x in line]) @ axes.T
        depth = surface_distances(model, data, eye, rays)
        nothing = depth < 0
        depth[nothing] = beyond(model, eye) if nothing.all() else depth.max()
        around = 2 * int(np.ceil(LARGEST / (line[1] - line[0]))) + 1
        farthest = maximum_filter(depth.reshape(CELLS, CELLS), around, mode="nearest")
        return cls(eye, axes, half, farthest)

    def lay(self, places: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where discs lie that appear at places (N, 2), from -1 to 1: right, upwards.

        Returns:
            Their positions (N, 3), and half of the picture's width there (N,) [m].
        """
        cells = ((places + EDGE) * ((CELLS - 1) / (2 * EDGE)) + 0.5).astype(int)
        column, row = np.clip(cells, 0, CELLS - 1).T
        depth = self.depth[row, column]
        rays = places @ (self.half * self.axes[:, :2].T) - self.axes[:, 2]
        return self.eye + depth[:, None] * rays, self.half * depth


@dataclass(frozen=True)
class Wanderers:
    """Flat discs that go their own ways over the backdrop, N of them.

    Their places in the picture at time t are home + velocity * t, wrapped at the edges, plus
    swing * sin(2 pi (rate * t + phase)).

    Attributes:
        shares: radii, as shares of half the picture, (N,).
        colours: (N, 4).
        home: (N, 2).
        velocity: halves of the picture per second, (N, 2).
        swing: how far they swing, in halves of the picture.
        rate: of the swing along either axis, (N, 2) [1/s].
        phase: of the swing, (N, 2).
    """

    shares: NDArray[np.float64]
    colours: NDArray[np.float32]
    home: NDArray[np.float64]
    velocity: NDArray[np.float64]
    swing: float
    rate: NDArray[np.float64]
    phase: NDArray[np.float64]

    def places(self, time: float) -> NDArray[np.float64]:
        """Return where they appear, from -1 to 1 inside the picture, (N, 2)."""
        drifted = (self.home + self.velocity * time + EDGE) % (2 * EDGE) - EDGE
        return drifted + self.swing * np.sin(2 * np.pi * (self.rate * time + self.phase))

    def draw(self, scene: mujoco.MjvScene, backdrop: Backdrop, time: float) -> None:
        """Add the discs to a scene."""
        if not len(self.shares):
            return
        positions, halves = backdrop.lay(self.places(time))
        sizes = (self.shares * halves)[:, None] * np.array([1, 1, 0.1])
        for size, position, colour in zip(sizes, positions, self.colours, strict=True):
            Ornament(DISC, size, position, backdrop.axes, colour).draw(scene)


@dataclass(frozen=True)
class Motion:
    """All that moves by itself in one episode.

    Attributes:
        seed: of what is random at every moment.
        timestep: how long a moment is: a physics step [s].
        flicker: how far the surroundings take on a random colour, another at every moment.
        jitter: how far the camera shakes, up to 1.
        backdrop: what wanderers move over.
        drifting: a pattern of discs that moves as a whole.
        intruders: objects that move each for itself.
    """

    seed: Sequence[int]
    timestep: float
    flicker: float
    jitter: float
    backdrop: Backdrop
    drifting: Wanderers
    intruders: Wanderers

    def tint(self, time: float) -> NDArray[np.float64]:
        """Return the colour that the surroundings take on at a time, (3,)."""
        return self._chance(time)[:3]

    def shake(self, time: float) -> NDArray[np.float64]:
        """Return how far the camera is turned at a time, to the right and upwards, (2,) [rad]."""
        return self.jitter * SHAKE * (2 * self._chance(time)[3:] - 1)

    def draw(self, scene: mujoco.MjvScene, time: float) -> None:
        """Change an updated scene to what is seen at a time."""
        if self.flicker:
            tint = self.flicker * self.tint(time)
            for geom in scene.geoms[: scene.ngeom]:
                if geom.category == STATIC:
                    geom.rgba[:3] = (1 - self.flicker) * geom.rgba[:3] + tint
        self.drifting.draw(scene, self.backdrop, time)
        self.intruders.draw(scene, self.backdrop, time)
        if self.jitter:
            _turn(scene, *np.tan(self.shake(time)))

    def _chance(self, time: float) -> NDArray[np.float64]:
        """Return what is random at a moment, from 0 to 1: colour (3) and turn (2)."""
        return np.random.default_rng([*self.seed, round(time / self.timestep)]).random(5)


def _turn(scene: mujoco.MjvScene, right: float, up: float) -> None:
    """Turn a scene's camera, by tangents of angles."""
    forward, above, aside = scene.camera[0].forward.copy(), scene.camera[0].up.copy(), np.empty(3)
    mujoco.mju_cross(aside, forward, above)
    turned = forward + right * aside + up * above
    turned /= np.sqrt(turned @ turned)
    above -= (above @ turned) * turned
    above /= np.sqrt(above @ above)
    for eye in scene.camera:  # two of them, which are one unless a scene is seen in stereo
        eye.forward[:], eye.up[:] = turned, above


def make_drift(count: int, rng: np.random.Generator) -> Wanderers:
    """Return a pattern of discs, the same in all episodes, with a way of its own in each.

    Args:
        count: how many discs.
        rng: source of where the pattern is at time 0, and of its velocity.
    """
    start, heading = rng.uniform(-EDGE, EDGE, 2), rng.uniform(-np.pi, np.pi)
    velocity = rng.uniform(0.4, 0.8) * np.array([np.cos(heading), np.sin(heading)])
    pattern = np.random.default_rng(0).random((count, 6))  # the first of them whatever their number
    still = np.zeros((count, 2))
    return Wanderers(
        shares=0.15 + (LARGEST - 0.15) * pattern[:, 0],
        colours=_opaque(pattern[:, 1:4]),
        home=start + EDGE * (2 * pattern[:, 4:] - 1),
        velocity=np.tile(velocity, (count, 1)),
        swing=0.0,
        rate=still,
        phase=still,
    )


def make_intruders(count: int, rng: np.random.Generator) -> Wanderers:
    """Return objects of bright colours that wander through the whole picture.

    Args:
        count: how many.
        rng: source of their colours and ways.
    """
    drawn = rng.random((count, 5))
    still = np.zeros((count, 2))
    hues = [colorsys.hsv_to_rgb(hue, 1, 1) for hue in drawn[:, 0]]
    return Wanderers(
        shares=np.full(count, 0.16),
        colours=_opaque(np.array(hues).reshape(count, 3)),
        home=still,
        velocity=still,
        swing=0.85,
        rate=0.08 + 0.17 * drawn[:, 1:3],
        phase=drawn[:, 3:],
    )


def _opaque(colours: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return colours (N, 3) with nothing shining through, (N, 4)."""
    return np.concatenate([colours, np.ones((len(colours), 1))], axis=1).astype(np.float32)
