"""What the page shows of a state: pictures, overlays, charts and captions."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mujepa.visual.decoder import Decoder
from mujepa.visual.whatif.session import Future, Futures, Session
from mujepa.visual.whatif.whatif_state import WhatIfState

REAL, IMAGINED, BEFORE, GOAL = "#2563eb", "#ea580c", "#6b7280", "#16a34a"
"""Colours of the simulator, the model, the plan before, and the goal."""
PICTURE = 360  # width and height of a picture on the page [pixels]
Chart = dict[str, Any]  # options of an ECharts chart


@dataclass(frozen=True)
class View:
    """What the page shows: pictures as data URLs, overlays as SVG, charts as ECharts options."""

    goal: str
    real: str
    imagined: str
    over_goal: str
    over_real: str
    over_imagined: str
    costs: Chart
    distances: Chart
    real_text: str
    imagined_text: str


def view(session: Session, decoder: Decoder, state: WhatIfState, shown: int) -> View:
    """Compute and draw what the page shows, with the pictures of step `shown`."""
    futures, world = session.futures(state), session.world
    decoded = decoder.decode(futures.imagined.embeddings[shown])
    goal, task = session.goal_point(state), world.task

    def overlay(size: float, *paths: tuple[Future | None, str, int | None]) -> str:
        parts = [] if goal is None else [_ring(_pixels(goal, size), GOAL, size / 40, size / 120)]
        for future, colour, at in paths:
            if future is not None and future.path is not None:
                parts.append(path_svg(future.path, colour, size, at))
        return "".join(parts)

    def text(future: Future) -> str:
        return f"{task.text(future.distance[shown])} from the goal · cost {future.cost:.3g}"

    before, imagined = (futures.before, BEFORE, None), (futures.imagined, IMAGINED, shown)
    real = (futures.real, REAL, shown)
    reached = futures.real.distance[shown] <= task.tolerance
    unit, tolerance = task.per_unit, task.per_unit * task.tolerance
    return View(
        goal=data_url(world.enlarge(state.goal)),
        real=data_url(world.enlarge(futures.states[shown])),
        imagined=data_url(decoded),
        over_goal=overlay(PICTURE),
        over_real=overlay(PICTURE, before, imagined, real),
        over_imagined=overlay(len(decoded), before, (*real[:2], None), imagined),
        costs=chart(futures, lambda future: future.costs, shown),
        distances=chart(futures, lambda it: unit * it.distance, shown, task.unit, tolerance),
        real_text=text(futures.real) + (" · reached" if reached else ""),
        imagined_text=text(futures.imagined),
    )


def chart(
    futures: Futures,
    values: Callable[[Future], NDArray[np.float64]],
    shown: int,
    unit: str = "",
    bound: float | None = None,
) -> Chart:
    """Return a line chart of values by step, with step `shown` marked and a bound dashed."""
    horizon = len(futures.real.costs)

    def points(future: Future | None) -> list[list[float | None]]:
        numbers = [] if future is None else values(future).tolist()
        first = horizon + 1 - len(numbers)
        rounded = [float(f"{it:.4g}") if np.isfinite(it) else None for it in numbers]
        return [[first + step, value] for step, value in enumerate(rounded)]

    level = [] if bound is None else [[0, bound], [horizon, bound]]
    series = [
        _line("plan before", points(futures.before), BEFORE, dashed=True),
        _line("tolerance", level, GOAL, dashed=True),
        _line("simulator", points(futures.real), REAL),
        _line("model", points(futures.imagined), IMAGINED),
    ]
    series[0]["markLine"] = {
        "silent": True, "z": 1, "symbol": "none", "label": {"show": False}, "animation": False,
        "lineStyle": {"color": "#cbd5e1", "width": 6, "type": "solid"}, "data": [{"xAxis": shown}],
    }  # fmt: skip
    return {
        "animation": False,
        "grid": {"left": 44, "right": 12, "top": 16, "bottom": 20},
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "value", "max": horizon, "splitLine": {"show": False}},
        "yAxis": {"type": "value", "name": unit, "nameGap": 4, "splitNumber": 2},
        "series": series,
    }


def _line(name: str, points: list[Any], colour: str, *, dashed: bool = False) -> Chart:
    return {
        "name": name, "type": "line", "data": points, "showSymbol": not dashed, "symbolSize": 5,
        "symbol": "circle", "itemStyle": {"color": colour},
        "lineStyle": {"color": colour, "width": 2, "type": "dashed" if dashed else "solid"},
    }  # fmt: skip


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


def _pixels(points: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    return np.clip(np.nan_to_num(points, nan=-1), -1, 2) * size


def _ring(point: NDArray[np.float64], colour: str, radius: float, width: float) -> str:
    return "".join(
        f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="{radius:.2f}" fill="none" '
        f'stroke="{stroke}" stroke-width="{thickness:.2f}"/>'
        for stroke, thickness in (("white", 2 * width), (colour, width))
    )
