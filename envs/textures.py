"""Random textures on the static geoms of a scene; they are no part of the compiled model."""

from __future__ import annotations

import mujoco
import numpy as np

from mujepa.envs.types import Model

PATTERNS, CONTRASTS = 6, 8
"""Number of patterns, and of contrasts of each."""
STATIC = mujoco.mjtCatBit.mjCAT_STATIC.value


class Textures:
    """The patterns as OpenGL textures, added to another drawing context.

    A context takes its textures from its model. These are loaded with a model of their own and
    entered at the end of the other context's tables, behind its own textures and materials.
    """

    def __init__(self, context: mujoco.MjrContext) -> None:
        model = _textured_model()
        self._owner = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        roles = mujoco.mjtTextureRole.mjNTEXROLE.value
        materials, own = (each.mat_texid.reshape(-1, roles) for each in (context, self._owner))
        first = len(context.texture) - model.ntex
        self._first_material = len(materials) - model.nmat
        context.texture[first:] = self._owner.texture[: model.ntex]
        context.textureType[first:] = self._owner.textureType[: model.ntex]
        used = own[: model.nmat]
        materials[self._first_material :] = np.where(used >= 0, used + first, -1)
        context.mat_texuniform[self._first_material :] = 0
        context.mat_texrepeat.reshape(-1, 2)[self._first_material :] = 1

    def apply(self, scene: mujoco.MjvScene, pattern: int, contrast: float) -> None:
        """Put a pattern, of a contrast from 0 to 1, on the static geoms of an updated scene."""
        level = int(np.ceil(CONTRASTS * contrast))
        for geom in scene.geoms[: scene.ngeom]:
            if geom.category == STATIC and not geom.texcoord:
                geom.matid = self._first_material + CONTRASTS * pattern + level - 1
                # A pattern can only darken: dark surfaces are lightened so that it shows.
                geom.rgba[:3] += 0.3 * level / CONTRASTS * (1 - geom.rgba[:3])


def _textured_model() -> Model:
    """Return a model of nothing but textures, one material for each."""
    spec = mujoco.MjSpec()
    for pattern in range(PATTERNS):
        cells = 4 << pattern % 3
        dark = np.random.default_rng(pattern).random((6, cells, cells, 1)) < 0.5
        dark = dark.repeat(32 // cells, axis=1).repeat(32 // cells, axis=2)
        for level in range(1, CONTRASTS + 1):
            name, cube = f"{pattern}-{level}", mujoco.mjtTexture.mjTEXTURE_CUBE
            texture = spec.add_texture(name=name, type=cube, width=32, height=6 * 32, nchannel=3)
            grey = np.where(dark, 255 - 255 * level // CONTRASTS, 255).astype(np.uint8)
            texture.data = grey.repeat(3, axis=-1).tobytes()
            material = spec.add_material(name=name)
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    return spec.compile()
