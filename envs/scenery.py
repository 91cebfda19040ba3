"""What is drawn over a model's scene: patterns on what does not move, shapes in the background.

Neither is part of the compiled model, so that physics cannot notice them, every task can have them,
and one drawing context serves all episodes.
"""

# MuJoCo's compiled names have no stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import mujoco
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PATTERNS, CONTRASTS = 6, 8
"""How many patterns there are, and in how many contrasts each."""
SHAPES = (
    mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    mujoco.mjtGeom.mjGEOM_BOX,
    mujoco.mjtGeom.mjGEOM_CYLINDER,
)
STATIC = mujoco.mjtCatBit.mjCAT_STATIC.value
HIDDEN = 5
"""A geom group that MuJoCo does not draw unless it is asked to."""


@dataclass(frozen=True)
class Ornament:
    """A shape that is drawn but not simulated.

    Attributes:
        shape: of MuJoCo's geoms.
        size: half-extents, (3,) [m].
        position: (3,) [m].
        axes: its axes as columns, (3, 3).
        rgba: colour, (4,).
    """

    shape: mujoco.mjtGeom
    size: NDArray[np.float64]
    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    rgba: NDArray[np.float32]

    def draw(self, scene: mujoco.MjvScene) -> None:
        """Add the shape to a scene."""
        geom = scene.geoms[scene.ngeom]
        mujoco.mjv_initGeom(
            geom, self.shape, self.size, self.position, self.axes.flatten(), self.rgba
        )
        # Left as memory had it, it would now and then be taken for a surface, and flicker as those.
        geom.category = mujoco.mjtCatBit.mjCAT_DECOR.value
        scene.ngeom += 1


@dataclass(frozen=True)
class Scenery:
    """What an episode's surroundings wear.

    Attributes:
        pattern: which pattern, from 0 to `PATTERNS` - 1.
        contrast: how strong it is, from 0 for none to 1.
        ornaments: shapes in the background.
    """

    pattern: int = 0
    contrast: float = 0.0
    ornaments: Sequence[Ornament] = ()

    def draw(self, scene: mujoco.MjvScene, first_material: int) -> None:
        """Change an updated scene; `first_material` is what `Patterns` returned."""
        level = int(np.ceil(CONTRASTS * self.contrast))
        if level:
            for geom in scene.geoms[: scene.ngeom]:
                if geom.category == STATIC and not geom.texcoord:
                    geom.matid = first_material + CONTRASTS * self.pattern + level - 1
                    # A pattern can only darken: dark surfaces are lightened so that it shows.
                    geom.rgba[:3] += 0.3 * level / CONTRASTS * (1 - geom.rgba[:3])
        for ornament in self.ornaments:
            ornament.draw(scene)


class Patterns:
    """The patterns as textures, lent to another drawing context of the same OpenGL context.

    A context takes its textures from the model that it is made for, and tasks' models know nothing
    of these. They are loaded with a model of their own and entered at the end of the other
    context's tables, where its own textures and materials do not reach.

    Args:
        borrower: the drawing context that is to use them.
    """

    def __init__(self, borrower: mujoco.MjrContext) -> None:
        model = _pattern_model()
        self._owner = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        roles = mujoco.mjtTextureRole.mjNTEXROLE.value
        materials, theirs = (
            context.mat_texid.reshape(-1, roles) for context in (borrower, self._owner)
        )
        first = len(borrower.texture) - model.ntex
        self.first_material = len(materials) - model.nmat
        borrower.texture[first:] = self._owner.texture[: model.ntex]
        borrower.textureType[first:] = self._owner.textureType[: model.ntex]
        used = theirs[: model.nmat]
        materials[self.first_material :] = np.where(used >= 0, used + first, -1)
        borrower.mat_texuniform[self.first_material :] = 0
        borrower.mat_texrepeat.reshape(-1, 2)[self.first_material :] = 1


def place_ornaments(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    frame: tuple[NDArray[np.float64], NDArray[np.float64], float],
    count: int,
    rng: np.random.Generator,
) -> list[Ornament]:
    """Lay flat shapes on the surroundings, at random places of a camera's image.

    Args:
        model: the model.
        data: simulation data with up-to-date positions.
        frame: the camera's position, axes and field of view, as `camera_frame` returns them.
        count: how many.
        rng: source of places, shapes, sizes and colours.
    """
    eye, axes = frame[0].copy(), frame[1].copy()
    half = np.tan(np.deg2rad(frame[2]) / 2)
    ornaments = []
    for _ in range(count):
        place, share, colour = rng.uniform(-0.9, 0.9, 2), rng.uniform(0.05, 0.12), rng.random(3)
        ray = axes @ np.array([*(half * place), -1.0])
        away = surface_distances(model, data, eye, ray[None])[0]
        away = away if away >= 0 else beyond(model, eye)
        radius = share * half * away
        ornaments.append(
            Ornament(
                SHAPES[rng.integers(len(SHAPES))], radius * np.array([1, 1, 0.1]), eye + away * ray,
                axes, np.array([*colour, 1], np.float32),
            )
        )  # fmt: skip
    return ornaments


def surface_distances(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    eye: NDArray[np.float64],
    rays: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return how far away the surroundings are, in lengths of rays (N, 3) from an eye (3,) -> (N,).

    All that moves is made invisible to them for a while. Where there is nothing, it is -1.
    """
    groups = model.geom_group.copy()
    model.geom_group[model.body_weldid[model.geom_bodyid] != 0] = HIDDEN
    shown, hit = np.array([1, 1, 1, 0, 0, 0], np.uint8), np.zeros(1, np.int32)
    away = [mujoco.mj_ray(model, data, eye, ray, shown, 1, -1, hit) for ray in rays]
    model.geom_group[:] = groups
    return np.array(away)


def beyond(model: mujoco.MjModel, eye: NDArray[np.float64]) -> float:
    """Return a distance from an eye (3,) that is behind all of the scene [m]."""
    return float(np.linalg.norm(eye - model.stat.center) + model.stat.extent)


def _pattern_model() -> mujoco.MjModel:
    """Return a model of nothing but textures, one material for each."""
    spec = mujoco.MjSpec()
    for pattern in range(PATTERNS):
        cells = 4 << pattern % 3
        dark = np.random.default_rng(pattern).random((6, cells, cells, 1)) < 0.5
        dark = dark.repeat(32 // cells, axis=1).repeat(32 // cells, axis=2)
        for level in range(1, CONTRASTS + 1):
            name = f"{pattern}-{level}"
            texture = spec.add_texture(
                name=name, type=mujoco.mjtTexture.mjTEXTURE_CUBE, width=32, height=6 * 32,
                nchannel=3,
            )  # fmt: skip
            grey = np.where(dark, 255 - 255 * level // CONTRASTS, 255).astype(np.uint8)
            texture.data = grey.repeat(3, axis=-1).tobytes()
            material = spec.add_material(name=name)
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    return spec.compile()
