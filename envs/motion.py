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
CELLS = 17
"""Lines of sight along each side of a picture of which a `Backdrop` knows where they end."""
FLICKER, SHAKING = 0, 1
"""Words in the random streams of moments."""


@dataclass(frozen=True)
class Backdrop:
    """What does not move, as a camera sees it.

    Attributes:
        eye: the camera's position, (3,) [m].
        axes: its axes as columns: right, up, backwards; (3, 3).
        half: half of the width of a picture one metre away [m].
        depth: how far away surfaces are, by row and column of lines of sight [m].
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
        return cls(eye, axes, half, depth.reshape(CELLS, CELLS))

    def lay(self, place: NDArray[np.float64], share: float) -> tuple[NDArray[np.float64], float]:
        """Return where something lies that must hide nothing of the scene, and how large it is.

        Args:
            place: where it appears, from -1 to 1 in the picture, (2,): to the right, upwards.
            share: its radius, as a share of half the picture.

        Returns:
            Its position (3,) and its radius [m].
        """
        scale = (CELLS - 1) / (2 * EDGE)
        low = np.floor((place - share + EDGE) * scale).astype(int).clip(0, CELLS - 1)
        high = np.ceil((place + share + EDGE) * scale).astype(int).clip(0, CELLS - 1)
        depth = self.depth[low[1] : high[1] + 1, low[0] : high[0] + 1].max()
        ray = self.axes @ np.array([*(self.half * place), -1.0])
        return self.eye + depth * ray, share * self.half * depth


@dataclass(frozen=True)
class Wanderer:
    """A flat disc that goes its own way over the backdrop.

    Its place in the picture at time t is home + velocity * t, wrapped at the edges, plus
    swing * sin(2 pi (rate * t + phase)).

    Attributes:
        share: its radius, as a share of half the picture.
        rgba: its colour, (4,).
        home: (2,).
        velocity: halves of the picture per second, (2,).
        swing: how far it swings, in halves of the picture.
        rate: of the swing along either axis, (2,) [1/s].
        phase: of the swing, (2,).
    """

    share: float
    rgba: NDArray[np.float32]
    home: NDArray[np.float64]
    velocity: NDArray[np.float64]
    swing: float
    rate: NDArray[np.float64]
    phase: NDArray[np.float64]

    def place(self, time: float) -> NDArray[np.float64]:
        """Return where it appears, from -1 to 1 inside the picture, (2,)."""
        drifted = (self.home + self.velocity * time + EDGE) % (2 * EDGE) - EDGE
        return drifted + self.swing * np.sin(2 * np.pi * (self.rate * time + self.phase))


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
    drifting: Sequence[Wanderer]
    intruders: Sequence[Wanderer]

    def tint(self, time: float) -> NDArray[np.float64]:
        """Return the colour that the surroundings take on at a time, (3,)."""
        return self._moment(time, FLICKER).random(3)

    def shake(self, time: float) -> NDArray[np.float64]:
        """Return how far the camera is turned at a time, to the right and upwards, (2,) [rad]."""
        return self.jitter * SHAKE * self._moment(time, SHAKING).uniform(-1, 1, 2)

    def draw(self, scene: mujoco.MjvScene, time: float) -> None:
        """Change an updated scene to what is seen at a time."""
        if self.flicker:
            tint = self.tint(time)
            for geom in scene.geoms[: scene.ngeom]:
                if geom.category == STATIC:
                    geom.rgba[:3] += self.flicker * (tint - geom.rgba[:3])
        for wanderer in (*self.drifting, *self.intruders):
            position, radius = self.backdrop.lay(wanderer.place(time), wanderer.share)
            size = radius * np.array([1, 1, 0.1])
            disc = mujoco.mjtGeom.mjGEOM_ELLIPSOID
            Ornament(disc, size, position, self.backdrop.axes, wanderer.rgba).draw(scene)
        if self.jitter:
            right, up = np.tan(self.shake(time))
            for eye in scene.camera:
                forward, above = eye.forward.copy(), eye.up.copy()
                turned = forward + right * np.cross(forward, above) + up * above
                turned /= np.linalg.norm(turned)
                above -= (above @ turned) * turned
                eye.forward[:], eye.up[:] = turned, above / np.linalg.norm(above)

    def _moment(self, time: float, word: int) -> np.random.Generator:
        return np.random.default_rng([*self.seed, word, round(time / self.timestep)])


def make_drift(count: int, rng: np.random.Generator) -> list[Wanderer]:
    """Return a pattern of discs, the same in all episodes, with a way of its own in each.

    Args:
        count: how many discs.
        rng: source of where the pattern is at time 0, and of its velocity.
    """
    start, heading = rng.uniform(-EDGE, EDGE, 2), rng.uniform(-np.pi, np.pi)
    velocity = rng.uniform(0.4, 0.8) * np.array([np.cos(heading), np.sin(heading)])
    pattern = np.random.default_rng(0)
    return [
        Wanderer(
            share=pattern.uniform(0.15, 0.35),
            rgba=np.array([*pattern.random(3), 1], np.float32),
            home=start + pattern.uniform(-EDGE, EDGE, 2),
            velocity=velocity,
            swing=0.0,
            rate=np.zeros(2),
            phase=np.zeros(2),
        )
        for _ in range(count)
    ]


def make_intruders(count: int, rng: np.random.Generator) -> list[Wanderer]:
    """Return objects of bright colours that wander through the whole picture.

    Args:
        count: how many.
        rng: source of their colours and ways.
    """
    return [
        Wanderer(
            share=0.16,
            rgba=np.array([*colorsys.hsv_to_rgb(rng.random(), 1, 1), 1], np.float32),
            home=np.zeros(2),
            velocity=np.zeros(2),
            swing=0.85,
            rate=rng.uniform(0.08, 0.25, 2),
            phase=rng.random(2),
        )
        for _ in range(count)
    ]
