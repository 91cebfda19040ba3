"""Cameras: those of a model file, by name, and free ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mujepa.envs.types import Array, Data, Model


@dataclass(frozen=True)
class FreeCamera:
    """A camera that no model file names."""

    lookat: tuple[float, float, float]  # the point in the middle of the image [m]
    distance: float  # of the camera from this point [m]
    azimuth: float  # direction of view around the vertical [degrees]; 90 looks along y
    elevation: float  # direction of view above the horizon [degrees]; -90 looks down


Camera: TypeAlias = str | FreeCamera
"""The name of a camera in the model, or a free camera."""


@dataclass(frozen=True)
class CameraFrame:
    """Where a camera is."""

    position: Array  # (3,) [m]
    axes: Array  # right, up and backwards, as columns; (3, 3)
    half: float  # half of the width of the image one metre away [m]


def camera_frame(model: Model, data: Data, camera: Camera) -> CameraFrame:
    """Return the frame of a camera. `data` must be up to date."""
    if isinstance(camera, str):
        index = model.camera(camera).id
        position, axes = data.cam_xpos[index].copy(), data.cam_xmat[index].reshape(3, 3).copy()
        return CameraFrame(position, axes, _half(model.cam_fovy[index]))
    azimuth, elevation = np.deg2rad(camera.azimuth), np.deg2rad(camera.elevation)
    level = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    upright = np.array([0.0, 0.0, 1.0])
    forward = np.cos(elevation) * level + np.sin(elevation) * upright
    up = np.cos(elevation) * upright - np.sin(elevation) * level
    axes = np.stack([np.cross(forward, up), up, -forward], axis=1)
    position = np.asarray(camera.lookat) - camera.distance * forward
    return CameraFrame(position, axes, _half(model.vis.global_.fovy))


def _half(fovy: float) -> float:
    return float(np.tan(np.deg2rad(fovy) / 2))


def overview(
    model: Model,
    lookat: Array | None = None,
    distance: float | None = None,
    azimuth: float | None = None,
    elevation: float | None = None,
) -> FreeCamera:
    """Return a free camera that sees the whole model; what is None is chosen from the model."""
    view, (x, y, z) = model.vis.global_, map(float, model.stat.center if lookat is None else lookat)
    return FreeCamera(
        (x, y, z),
        float(1.5 * model.stat.extent if distance is None else distance),
        float(view.azimuth if azimuth is None else azimuth),
        float(view.elevation if elevation is None else elevation),
    )
