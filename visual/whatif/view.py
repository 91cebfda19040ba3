"""What the page shows of a situation, drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mujepa.visual.whatif import drawing
from mujepa.visual.whatif.drawing import Line

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from mujepa.visual.decoder import Decoder
    from mujepa.visual.whatif.session import Future, Session
    from mujepa.visual.whatif.state import Situation


@dataclass(frozen=True)
class View:
    """What the page shows of a situation at one of the steps ahead.

    Pictures are data URLs, overlays and charts are SVG.
    """

    goal: str
    real: str
    imagined: str
    over_goal: str
    over_real: str
    over_imagined: str
    costs: str
    distances: str
    real_text: str
    imagined_text: str
    reached: bool


def view(session: Session, decoder: Decoder, situation: Situation, shown: int) -> View:
    """Compute and draw what the page shows."""
    futures, world = session.futures(situation), session.world
    real, imagined, before = futures.real, futures.imagined, futures.before
    decoded = decoder.decode(imagined.embeddings[shown])
    goal = session.goal_point(situation)
    task, unit = world.task, world.task.per_unit

    def overlay(size: float, *futures: tuple[Future | None, str, int | None]) -> str:
        parts = [] if goal is None else [drawing.goal_svg(goal, size)]
        for future, colour, at in futures:
            if future is not None and future.path is not None:
                parts.append(drawing.path_svg(future.path, colour, size, at))
        return "".join(parts)

    old, dream = (before, drawing.BEFORE, None), (imagined, drawing.IMAGINED, shown)
    small = len(decoded)

    def lines(pick: Callable[[Future], np.ndarray], first: int) -> list[Line]:
        former = [] if before is None else [Line(pick(before), drawing.BEFORE, first, "4 3")]
        both = (real, drawing.REAL), (imagined, drawing.IMAGINED)
        return former + [Line(pick(future), colour, first) for future, colour in both]

    def text(future: Future) -> str:
        return f"{task.text(future.distance[shown])} from the goal · cost {future.cost:.3g}"

    return View(
        goal=drawing.data_url(world.enlarge(situation.goal)),
        real=drawing.data_url(world.enlarge(futures.states[shown])),
        imagined=drawing.data_url(decoded),
        over_goal=overlay(drawing.PICTURE),
        over_real=overlay(drawing.PICTURE, old, dream, (real, drawing.REAL, shown)),
        over_imagined=overlay(small, old, (real, drawing.REAL, None), dream),
        costs=drawing.chart_svg(lines(lambda future: future.costs, 1), session.horizon, shown),
        distances=drawing.chart_svg(
            lines(lambda future: future.distance * unit, 0), session.horizon, shown,
            bound=task.tolerance * unit, unit=task.unit,
        ),
        real_text=text(real),
        imagined_text=text(imagined),
        reached=bool(real.distance[shown] <= task.tolerance),
    )  # fmt: skip
