"""What the page shows of a state: pictures, overlays, charts and captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mujepa.visual.decoder import Decoder
from mujepa.visual.whatif import drawing
from mujepa.visual.whatif.drawing import BEFORE, GOAL, IMAGINED, PICTURE, REAL
from mujepa.visual.whatif.session import Future, Futures, Session
from mujepa.visual.whatif.state import WhatIfState

Chart = dict[str, Any]
"""Options of an ECharts chart."""


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
        parts = [] if goal is None else [drawing.goal_svg(goal, size)]
        for future, colour, at in paths:
            if future is not None and future.path is not None:
                parts.append(drawing.path_svg(future.path, colour, size, at))
        return "".join(parts)

    def text(future: Future) -> str:
        return f"{task.text(future.distance[shown])} from the goal · cost {future.cost:.3g}"

    before, imagined = (futures.before, BEFORE, None), (futures.imagined, IMAGINED, shown)
    real = (futures.real, REAL, shown)
    reached = futures.real.distance[shown] <= task.tolerance
    unit, tolerance = task.per_unit, task.per_unit * task.tolerance
    return View(
        goal=drawing.data_url(world.enlarge(state.goal)),
        real=drawing.data_url(world.enlarge(futures.states[shown])),
        imagined=drawing.data_url(decoded),
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
