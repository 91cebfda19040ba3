"""The elements that the what-if page is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from nicegui import ui

from mujepa.visual.whatif.whatif_state import WhatIfState


class Curves(ui.element, component="curves.js"):
    """One curve for each action, whose points can be dragged; emits `change`."""

    def __init__(self, names: list[str], horizon: int) -> None:
        super().__init__()
        self._props.update(
            names=names, sequence=np.zeros((horizon, len(names))).tolist(), before=None, shown=0,
            height=max(40, min(110, 232 // len(names))),
        )  # fmt: skip

    def show(self, state: WhatIfState, shown: int) -> None:
        """Show the sequence and the one before it, and mark step `shown`."""
        before = None if state.before is None else state.before.tolist()
        self._props.update(sequence=state.sequence.tolist(), before=before, shown=shown)
        self.update()


def row() -> ui.row:
    """Return a row of controls."""
    return ui.row().classes("items-center gap-2 no-wrap w-full")


def button(text: str, icon: str, act: Callable[..., Any]) -> ui.button:
    """Return a small button with an icon."""
    return ui.button(text, icon=icon, on_click=act).props("dense flat no-caps size=12px")


def panel(heading: str) -> ui.column:
    """Return a white panel with a heading."""
    with ui.column().classes("panel") as panel:
        ui.label(heading).classes("heading")
    return panel


def picture(heading: str, colour: str, name: str) -> tuple[ui.interactive_image, ui.label]:
    """Return a picture under a heading, and the caption below it."""
    with ui.column().classes("gap-1 items-stretch w-full"):
        ui.label(heading).classes(f"heading {colour}")
        image = ui.interactive_image(sanitize=False, size=(360, 360)).classes(f"picture {name}")
        return image, ui.label().classes(f"figure {colour}")
