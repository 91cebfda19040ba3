"""Images as data URLs, and paths over them as SVG."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

REAL, IMAGINED, BEFORE, GOAL = "#2563eb", "#ea580c", "#6b7280", "#16a34a"
"""Colours of the simulator, the model, the plan before, and the goal."""
PICTURE = 360
"""Width and height of a picture on the page [pixels]."""


def data_url(image: NDArray[np.uint8]) -> str:
    """Return an image (P, P, 3) as a data URL: small ones as PNG, large ones as JPEG."""
    kind = "png" if len(image) < PICTURE else "jpeg"
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def path_svg(path: NDArray[np.float64], colour: str, size: float, step: int | None = None) -> str:
    """Return a path (T, 2) [shares of the image] with a dot at each step and a ring at `step`."""
    points, unit = _pixels(path, size), size / PICTURE
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.4 * unit:.2f}"/>' for x, y in points[1:]
    )
    ring = "" if step is None else _ring(points[step], colour, 6 * unit, 2.2 * unit)
    strokes = "".join(
        f'<polyline points="{line}" fill="none" stroke="{stroke}" '
        f'stroke-width="{width * unit:.2f}" stroke-linejoin="round"/>'
        for stroke, width in (("#ffffffbf", 4.5), (colour, 2.2))
    )
    return (
        f'<g opacity="{0.7 if step is None else 1}">{strokes}'
        f'<g fill="{colour}" stroke="white" stroke-width="{0.8 * unit:.2f}">{dots}</g></g>{ring}'
    )


def goal_svg(point: NDArray[np.float64], size: float) -> str:
    """Return the mark of the goal's position (2,) [shares of the image]."""
    return _ring(_pixels(point, size), GOAL, size / 40, size / 120)


def _pixels(points: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    return np.clip(np.nan_to_num(points, nan=-1), -1, 2) * size


def _ring(point: NDArray[np.float64], colour: str, radius: float, width: float) -> str:
    return "".join(
        f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="{radius:.2f}" fill="none" '
        f'stroke="{stroke}" stroke-width="{thickness:.2f}"/>'
        for stroke, thickness in (("white", 2 * width), (colour, width))
    )
