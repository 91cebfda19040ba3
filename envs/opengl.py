"""Off-screen OpenGL: choose a library, hold one context per process, draw a model's camera.

A context belongs to the thread that made it, so pictures are drawn where their `Renderer` was
created.
"""

# MuJoCo's compiled names have no stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import atexit
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from mujepa.envs.scenery import Ornament, Patterns
from mujepa.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mujepa.envs.variation import Variant

LIBRARIES = ("egl", "osmesa")
OBSERVATION_QUALITY = {
    "offsamples": 0,
    "shadowsize": 0,
    "numslices": 12,
    "numstacks": 6,
    "numquads": 1,
}
"""Fields of `model.vis.quality` that make a 64x64 software-rendered frame fast: no multisampling,
no shadow pass, coarse capsules (measured: 1.1k -> 4.5k frames/s on one core for the reacher)."""


@functools.cache
def gl_context() -> Any:  # noqa: ANN401 - MuJoCo's context classes share no base class
    """Make this process's off-screen OpenGL context current and return it.

    `MUJOCO_GL` chooses the library; without it EGL is tried, then OSMesa.

    Raises:
        UserError: no OpenGL library could be loaded.
    """
    # Mesa then draws in the calling thread: processes scale better, and a forked one can draw too.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if sys.platform != "linux":
        context = mujoco.GLContext(64, 64)  # pyright: ignore[reportAttributeAccessIssue]
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
            atexit.register(context.free)  # later the modules that it needs may be gone
            return context
    raise UserError(
        f"no OpenGL library for off-screen rendering ({'; '.join(failures)}); "
        "install one with: apt-get install -y libegl1 libopengl0 libgl1-mesa-dri"
    )


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
    """Draws one camera of one model into square RGB images.

    Args:
        model: the compiled model.
        camera: name of a camera in it.
        size: width and height of the image in pixels.
        pretty: keep shadows and multisampling (for people), instead of speed (for the encoder).

    Raises:
        UserError: the camera is not in the model, or there is no OpenGL library.
    """

    def __init__(
        self, model: mujoco.MjModel, camera: str, size: int, *, pretty: bool = False
    ) -> None:
        camera_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if camera_id < 0:
            names = [model.camera(i).name for i in range(model.ncam)]
            raise UserError(
                f"no camera {camera!r} in the model; its cameras are {', '.join(names) or 'none'}"
            )
        self._model = model
        self._gl = gl_context()
        self._gl.make_current()  # someone else's may be, such as that of a mujoco.Renderer
        _set_quality(model, size, pretty=pretty)
        self._slices: int = model.vis.quality.numslices
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nsite + 100)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = pretty
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = pretty
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
        self._camera.fixedcamid = camera_id
        self._option = mujoco.MjvOption()
        self._perturb = mujoco.MjvPerturb()
        self._rectangle = mujoco.MjrRect(0, 0, size, size)
        self._buffer = np.empty((size, size, 3), np.uint8)

    def render(
        self,
        data: mujoco.MjData,
        markers: Sequence[NDArray[np.float64]] = (),
        variant: Variant | None = None,
    ) -> NDArray[np.uint8]:
        """Return the camera's image, (size, size, 3) uint8, top row first.

        Args:
            data: simulation data with up-to-date positions (after `mj_forward`).
            markers: world positions, (3,) [m], at which a translucent ball is drawn.
            variant: a changed copy of the model to draw, and what is drawn over its scene.
        """
        model = self._model if variant is None else variant.model
        model.vis.quality.numslices = self._slices  # a slack tendon is drawn with the model's
        self._gl.make_current()
        patterned = variant is not None and variant.scenery.contrast > 0
        material = self._patterns.first_material if patterned else 0
        # All renderers share the process's OpenGL context, so that each binds its own buffer.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            model, data, self._option, self._perturb, self._camera, everything, self._scene
        )
        if variant is not None:
            variant.scenery.draw(self._scene, material)
        for marker in markers:
            sphere, rgba = mujoco.mjtGeom.mjGEOM_SPHERE, np.array([0.2, 1, 0.4, 0.35], np.float32)
            Ornament(sphere, np.full(3, 0.05), marker, np.eye(3), rgba).draw(self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._buffer, None, self._rectangle, self._context)
        return self._buffer[::-1].copy()

    @functools.cached_property
    def _patterns(self) -> Patterns:
        return Patterns(self._context)


def _set_quality(model: mujoco.MjModel, size: int, *, pretty: bool) -> None:
    """Set the model's drawing quality; MuJoCo reads it once, when a drawing context is made."""
    quality = model.vis.quality
    for name, value in OBSERVATION_QUALITY.items():
        setattr(quality, name, value)
    if pretty:
        quality.offsamples, quality.shadowsize, quality.numslices, quality.numstacks = (
            4,
            2048,
            28,
            16,
        )
    model.vis.global_.offwidth = model.vis.global_.offheight = size
