"""Off-screen OpenGL: choose a library, hold one context per process, draw a model's camera.

A context belongs to the thread that made it: draw where the `Renderer` was created.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import os
import sys
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from mujepa.envs.camera import Camera, FreeCamera
from mujepa.envs.distractors import Shape
from mujepa.envs.textures import Textures
from mujepa.envs.types import Array, Data, Model
from mujepa.envs.variation import Variant
from mujepa.runtime.errors import UserError

LIBRARIES = ("egl", "osmesa")
QUALITY = {"offsamples": 0, "shadowsize": 0, "numslices": 12, "numstacks": 6, "numquads": 1}
"""Fields of `model.vis.quality` that make a 64x64 software-rendered frame fast: no multisampling,
no shadow pass, coarse capsules (measured: 1.1k -> 4.5k frames/s on one core for the reacher)."""
MESH_FACES, MESH_CELLS = 300, 12
"""Meshes with more faces are coarsened to a grid, with this number of cells on the longest side."""


@functools.cache
def gl_context() -> Any:  # noqa: ANN401 - MuJoCo's context classes share no base class
    """Make this process's off-screen OpenGL context current and return it.

    `MUJOCO_GL` chooses the library; without it EGL is tried, then OSMesa.
    """
    # Mesa then draws in the calling thread: processes scale better, and a forked one can draw too.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if sys.platform != "linux":
        context = mujoco.GLContext(64, 64)
        context.make_current()
        return context
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    failures = []
    for library in [wanted] if wanted else LIBRARIES:
        try:
            context = _linux_context(library)
            context.make_current()
        except Exception as error:  # the libraries raise what they like: ImportError, GLError, ...
            failures.append(
                f"{library}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            )
        else:
            atexit.register(_free, context)  # before the modules that it needs are gone
            return context
    raise UserError(
        f"no OpenGL library for off-screen rendering ({'; '.join(failures)}); "
        "install one with: apt-get install -y libegl1 libopengl0 libgl1-mesa-dri"
    )


def free_gl_context() -> None:
    """Free the OpenGL context of this thread, so that another thread can make its own."""
    gl_context().free()
    gl_context.cache_clear()


def _free(context: Any) -> None:  # noqa: ANN401
    with contextlib.suppress(Exception):  # another package may have closed the display
        context.free()


def _linux_context(library: str) -> Any:  # noqa: ANN401
    os.environ["PYOPENGL_PLATFORM"] = library  # PyOpenGL reads it when it is first imported
    if library == "egl":
        from mujoco.egl import GLContext
    elif library == "osmesa":
        from mujoco.osmesa import GLContext
    else:
        raise UserError(
            f"MUJOCO_GL={library!r} is not one of {', '.join(LIBRARIES)}; "
            "unset it to choose automatically"
        )
    return GLContext(64, 64)


class Renderer:
    """Draws one camera of one model into square RGB images of `size` pixels.

    With `pretty`, it keeps shadows and fine shapes for people, instead of speed for the encoder.
    With `antialias`, it smooths edges by multisampling; pretty images are always smooth.
    """

    def __init__(
        self,
        model: Model,
        camera: Camera,
        size: int,
        *,
        pretty: bool = False,
        antialias: bool = False,
    ) -> None:
        self._camera = _mujoco_camera(model, camera)
        self._model = model
        self._gl = gl_context()
        self._gl.make_current()  # another may be, such as that of a mujoco.Renderer
        _set_quality(model, size, pretty=pretty, antialias=antialias)
        self._slices: int = model.vis.quality.numslices
        drawn = model if pretty else _coarse_meshes(model)
        self._context = mujoco.MjrContext(drawn, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nsite + 100)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = pretty
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = pretty
        self._option = mujoco.MjvOption()
        self._perturb = mujoco.MjvPerturb()
        self._rectangle = mujoco.MjrRect(0, 0, size, size)
        self._buffer = np.empty((size, size, 3), np.uint8)

    def render(
        self, data: Data, marker: Array | None = None, variant: Variant | None = None
    ) -> NDArray[np.uint8]:
        """Return the camera's image, (size, size, 3) uint8, top row first.

        Args:
            data: simulation data that is up to date (after `mj_forward`).
            marker: a world position, (3,) [m], at which a translucent ball is drawn.
            variant: a changed copy of the model, and what is drawn over its scene.
        """
        model = self._model if variant is None else variant.model
        model.vis.quality.numslices = self._slices  # MuJoCo reads it for each slack tendon
        self._gl.make_current()
        # A texture is an OpenGL object: make it before the framebuffer is bound.
        textures = self._textures if variant and variant.contrast else None
        # All renderers share the process's OpenGL context, so that each binds its own buffer.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        all_geoms = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            model, data, self._option, self._perturb, self._camera, all_geoms, self._scene
        )
        if variant is not None:
            variant.draw(self._scene, data.time, textures)
        if marker is not None:
            sphere, green = mujoco.mjtGeom.mjGEOM_SPHERE, np.array([0.2, 1, 0.4, 0.35], np.float32)
            Shape(sphere, np.full(3, 0.05), marker, np.eye(3), green).draw(self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._buffer, None, self._rectangle, self._context)
        return self._buffer[::-1].copy()

    @functools.cached_property
    def _textures(self) -> Textures:
        return Textures(self._context)


def _mujoco_camera(model: Model, camera: Camera) -> mujoco.MjvCamera:
    made = mujoco.MjvCamera()
    if isinstance(camera, FreeCamera):
        made.type, made.lookat[:] = mujoco.mjtCamera.mjCAMERA_FREE.value, camera.lookat
        made.distance, made.azimuth = camera.distance, camera.azimuth
        made.elevation = camera.elevation
        return made
    names = [model.camera(index).name for index in range(model.ncam)]
    if camera not in names:
        raise UserError(
            f"no camera {camera!r} in the model; its cameras: {', '.join(names) or 'none'}"
        )
    made.type, made.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED.value, names.index(camera)
    return made


def _coarse_meshes(model: Model) -> Model:
    """Return a copy of a model whose large meshes have fewer faces; or the model, if it has none.

    Vertices that share a cell of a grid over their mesh become one, and faces without area vanish:
    a scanned arm is drawn 10 to 50 times as fast.
    """
    large = np.flatnonzero(model.mesh_facenum > MESH_FACES)
    if not len(large):
        return model
    coarse = copy.copy(model)
    for mesh in large:
        vertices = slice(model.mesh_vertadr[mesh], None)
        places = model.mesh_vert[vertices][: model.mesh_vertnum[mesh]]
        rows = model.mesh_faceadr[mesh] + np.arange(model.mesh_facenum[mesh])
        cell = np.ptp(places, axis=0).max() / MESH_CELLS
        cells = np.round((places - places.min(axis=0)) / max(cell, 1e-9)).astype(int)
        _, first, owner = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        faces = first[owner.ravel()][model.mesh_face[rows]]
        distinct = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
        _, once = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
        kept = np.intersect1d(np.flatnonzero(distinct), once)
        coarse.mesh_face[rows[: len(kept)]] = faces[kept]
        coarse.mesh_facenormal[rows[: len(kept)]] = model.mesh_facenormal[rows][kept]
        coarse.mesh_facetexcoord[rows[: len(kept)]] = model.mesh_facetexcoord[rows][kept]
        coarse.mesh_facenum[mesh] = len(kept)
    return coarse


def _set_quality(model: Model, size: int, *, pretty: bool, antialias: bool) -> None:
    """Set the model's drawing quality; MuJoCo reads it once, when a drawing context is made."""
    quality = model.vis.quality
    for name, value in QUALITY.items():
        setattr(quality, name, value)
    if pretty or antialias:
        quality.offsamples = 4
    if pretty:
        quality.shadowsize, quality.numslices, quality.numstacks = 2048, 28, 16
    model.vis.global_.offwidth = model.vis.global_.offheight = size
