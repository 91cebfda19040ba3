"""What the page draws: paths over a picture, and small charts, as SVG; pictures as data URLs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

REAL, IMAGINED, BEFORE, GOAL = "#2563eb", "#ea580c", "#6b7280", "#16a34a"
"""Colours of the world, of the model, of the plan before, of the goal."""
PICTURE = 360
"""Width and height of a picture [pixels]."""


@dataclass(frozen=True)
class Line:
    """One line of a chart: its values by step, where the first lies, its colour, its dashes."""

    values: NDArray[np.float64]
    colour: str
    first: int = 0
    dashes: str = ""


def data_url(image: NDArray[np.uint8]) -> str:
    """Return an image (P, P, 3) as a data URL: small ones as PNG, large ones as JPEG."""
    kind = "png" if len(image) < PICTURE else "jpeg"
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def path_svg(path: NDArray[np.float64], colour: str, size: float, step: int | None = None) -> str:
    """Return a path (T, 2) [shares of the image] with a dot at each step, and a ring at one."""
    points = np.clip(np.nan_to_num(path, nan=-1), -1, 2) * size
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    unit = size / PICTURE
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.4 * unit:.2f}"/>' for x, y in points[1:]
    )
    ring = "" if step is None else _ring(points[step], colour, 6 * unit, 2.2 * unit)
    opacity = 0.7 if step is None else 1
    return (
        f'<g opacity="{opacity}">'
        f'<polyline points="{line}" fill="none" stroke="white" stroke-opacity=".75" '
        f'stroke-width="{4.5 * unit:.2f}" stroke-linejoin="round"/>'
        f'<polyline points="{line}" fill="none" stroke="{colour}" '
        f'stroke-width="{2.2 * unit:.2f}" stroke-linejoin="round"/>'
        f'<g fill="{colour}" stroke="white" stroke-width="{0.8 * unit:.2f}">{dots}</g></g>{ring}'
    )


def goal_svg(point: NDArray[np.float64], size: float) -> str:
    """Return the mark of the goal's position (2,) [shares of the image]."""
    return _ring(np.clip(np.nan_to_num(point, nan=-1), -1, 2) * size, GOAL, size / 40, size / 120)


def chart_svg(
    lines: Sequence[Line], steps: int, shown: int, *, bound: float | None = None, unit: str = ""
) -> str:
    """Return a chart of values over the steps from 0 to `steps`.

    Args:
        lines: what to draw, the last on top.
        steps: how many there are.
        shown: the step that is marked.
        bound: a level to mark, such as the tolerance.
        unit: of the values, written at the top.
    """
    width, height, left, right, top, bottom = 330, 118, 44, 10, 12, 18
    values = np.concatenate([line.values for line in lines])
    values = values[np.isfinite(values)]
    low, high = (
        (min(0.0, values.min()), max(values.max(), bound or 0)) if len(values) else (0.0, 1.0)
    )
    high = high if high > low else low + 1

    def x(step: float) -> float:
        return left + (width - left - right) * step / steps

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    parts = [
        f'<line x1="{x(shown):.1f}" x2="{x(shown):.1f}" y1="{top}" y2="{height - bottom}" '
        'stroke="#cbd5e1" stroke-width="6"/>'
    ]
    for level in (low, high):
        parts += [
            f'<line x1="{left}" x2="{width - right}" y1="{y(level):.1f}" y2="{y(level):.1f}" '
            'stroke="#e2e8f0"/>',
            f'<text x="{left - 6}" y="{y(level) + 4:.1f}" text-anchor="end">{level:.3g}</text>',
        ]
    if bound is not None:
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y(bound):.1f}" y2="{y(bound):.1f}" '
            f'stroke="{GOAL}" stroke-dasharray="3 3"/>'
        )
    for line in lines:
        places = [
            (x(line.first + step), y(value))
            for step, value in enumerate(line.values)
            if np.isfinite(value)
        ]
        points = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="2" '
            f'stroke-dasharray="{line.dashes}"/>'
        )
        if not line.dashes:
            parts += [
                f'<circle cx="{across:.1f}" cy="{down:.1f}" r="2.5" fill="{line.colour}"/>'
                for across, down in places
            ]
    for step in range(0, steps + 1, max(1, steps // 5)):
        parts.append(f'<text x="{x(step):.1f}" y="{height - 4}" text-anchor="middle">{step}</text>')
    parts.append(f'<text x="{width - right}" y="{top - 3}" text-anchor="end">{unit}</text>')
    return f'<svg viewBox="0 0 {width} {height}" class="chart">{"".join(parts)}</svg>'


def _ring(point: NDArray[np.float64], colour: str, radius: float, width: float) -> str:
    x, y = point
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.2f}" fill="none" stroke="white" '
        f'stroke-width="{2 * width:.2f}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.2f}" '
        f'fill="none" stroke="{colour}" stroke-width="{width:.2f}"/>'
    )
