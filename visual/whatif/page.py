"""The what-if page: controls on which a person changes actions, and what shows what follows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nicegui import background_tasks, ui

from mujepa.runtime.errors import UserError
from mujepa.visual.whatif.state import write_situation
from mujepa.visual.whatif.view import View, view

if TYPE_CHECKING:
    from collections.abc import Callable

    from nicegui.events import GenericEventArguments, UploadEventArguments

    from mujepa.visual.decoder import Decoder
    from mujepa.visual.whatif.executor import Store, Workshop
    from mujepa.visual.whatif.session import Session
    from mujepa.visual.whatif.state import Situation

LARGEST = 1_000_000
"""Most bytes of a situation as JSON."""
STYLE = Path(__file__).with_name("page.css")


class Curves(ui.element, component="curves.js"):
    """Curves of a sequence of actions, whose points are dragged; emits `change`."""

    def __init__(self, names: list[str], horizon: int) -> None:
        super().__init__()
        self._props.update(
            names=names, sequence=np.zeros((horizon, len(names))).tolist(), before=None, shown=0,
            height=max(40, min(110, 232 // len(names))),
        )  # fmt: skip

    def show(self, situation: Situation, shown: int) -> None:
        """Show the sequence, the one before it, and which step is looked at."""
        before = situation.before
        self._props.update(
            sequence=situation.sequence.tolist(),
            before=None if before is None else before.tolist(),
            shown=shown,
        )
        self.update()


class Page:
    """One open page: its situation, and what shows it."""

    def __init__(
        self, session: Session, decoder: Decoder, workshop: Workshop, store: Store
    ) -> None:
        self.session, self.decoder = session, decoder
        self.workshop, self.store = workshop, store
        self.situation = store.latest
        self.client = ui.context.client
        self.shown = session.horizon
        self.running, self._looping = False, False
        self._stale, self._refreshing = False, False
        self._build()
        self._settle()

    # ---------------------------------------------------------------- what happens

    def change(self, change: Callable[[], Situation]) -> None:
        """Take a quick change at once; only the newest is drawn.

        What is refused changes nothing.
        """
        try:
            self.situation = change()
        except UserError as error:
            self._show_error(error)
        self._refresh()

    async def ask(self, function: Callable[..., Situation], *arguments: Any) -> None:  # noqa: ANN401
        """Take a change that the workshop computes from the situation, unless it went on since."""
        before = self.situation
        try:
            after = await self.workshop(function, before, *arguments)
        except UserError as error:
            self._show_error(error)
            return
        if self.situation is before and not self.client.is_deleted:
            self.situation = after
            self._settle()

    async def run(self) -> None:
        """Plan and step, no faster than the world, until stopped or the page is gone."""
        self.running = not self.running
        self._name_run()
        if self._looping:
            return
        self._looping = True
        while self.running and self.client.has_socket_connection:
            done = asyncio.create_task(asyncio.sleep(max(self.session.seconds, 0.15)))
            await self.ask(self.session.plan)
            await self._drawn()
            await done
            if self.running:
                await self.ask(self.session.step)
        self._looping = self.running = False
        if self.client.has_socket_connection:
            self._name_run()

    async def _drawn(self) -> None:
        while self._refreshing:
            await asyncio.sleep(0.01)

    def _settle(self) -> None:
        """Show a situation that came from elsewhere than the controls that show it."""
        self.curves.show(self.situation, self.shown)
        for slider, label, index in self.poses:
            position = float(self.situation.start[1 + index])
            slider.set_value(position)
            label.set_text(f"{position:.2f}")
        self._refresh()

    def _refresh(self) -> None:
        self._stale = True
        if not self._refreshing:
            self._refreshing = True
            background_tasks.create(self._draw())

    async def _draw(self) -> None:
        try:
            while self._stale:
                self._stale = False
                drawn = await self.workshop(
                    view, self.session, self.decoder, self.situation, self.shown
                )
                if self.client.is_deleted:
                    return
                self._show(drawn)
        finally:
            self._refreshing = False
        try:
            await self.workshop(self.store.save, self.situation)
        except UserError as error:
            self._show_error(error)

    def _show(self, view: View) -> None:
        self.goal.set_source(view.goal).set_content(view.over_goal)
        self.real.set_source(view.real).set_content(view.over_real)
        self.imagined.set_source(view.imagined).set_content(view.over_imagined)
        self.costs.set_content(view.costs)
        self.distances.set_content(view.distances)
        self.real_text.set_text(view.real_text + (" · reached" if view.reached else ""))
        self.imagined_text.set_text(view.imagined_text)
        step = self.situation.step
        self.clock.set_text(f"step {step}, {step * self.session.seconds:.2f} s after the start")
        ahead = f"step +{self.shown}, in {self.shown * self.session.seconds:.2f} s"
        self.ahead.set_text(ahead if self.shown else "now")

    def _show_error(self, error: UserError) -> None:
        if not self.client.is_deleted:
            with self.client:
                ui.notify(str(error), type="negative", multi_line=True, close_button="close")

    # ---------------------------------------------------------------- what a person does

    def _dragged(self, event: GenericEventArguments) -> None:
        at = event.args
        self.change(
            lambda: self.session.drag(self.situation, at["step"], at["action"], at["value"])
        )
        self.curves._props["sequence"] = self.situation.sequence.tolist()

    def _posed(self, index: int, event: GenericEventArguments, label: ui.label) -> None:
        label.set_text(f"{event.args:.2f}")
        self.change(lambda: self.session.pose(self.situation, index, float(event.args)))

    def _timed(self, event: GenericEventArguments) -> None:
        self.shown = min(max(int(event.args), 0), self.session.horizon)
        self.curves.show(self.situation, self.shown)
        self._refresh()

    async def _weighed(self) -> None:
        try:
            self.situation = self.session.weigh(self.situation, self.cost.value or "")
            self.cost_error.set_text("")
        except UserError as error:
            self.cost_error.set_text(str(error))
        self._refresh()

    async def _open(self, event: UploadEventArguments) -> None:
        self.upload.reset()
        try:
            self.situation = self.session.read(json.loads(await event.file.read()))
        except UserError as error:
            self._show_error(error)
        except (ValueError, RecursionError):
            self._show_error(UserError(f"{event.file.name} is not JSON; choose a saved situation"))
        self.cost.set_value(self.situation.cost)
        self._settle()

    def _save(self) -> None:
        task = self.session.checkpoint.config.task
        content = json.dumps(write_situation(self.situation, task), indent=2)
        ui.download.content(content, f"what-if-{task}.json", "application/json")

    async def _episode(self) -> None:
        number = int(self.number.value or 0)
        await self.ask(lambda one: self.session.episode(number, one.cost))

    async def _draw_episode(self) -> None:
        self.number.set_value(None)
        await self.ask(lambda one: self.session.draw(np.random.default_rng(), one.cost))

    def _name_run(self) -> None:
        self.run_button.set_text("Stop" if self.running else "Run")
        self.run_button.set_icon("stop" if self.running else "play_arrow")

    # ---------------------------------------------------------------- how it looks

    def _build(self) -> None:
        ui.add_css(STYLE)
        with ui.row().classes("w-full items-center justify-between").style("height: 30px"):
            with ui.row().classes("items-baseline gap-3"):
                ui.label("What happens if I do this?").classes("text-lg font-semibold")
                name = f"{self.session.checkpoint.config.task} · {self.session.checkpoint.folder}"
                ui.label(name).classes("hint")
            with ui.row().classes("items-center gap-2"):
                self.clock = ui.label().classes("hint figure")
                self.upload = ui.upload(
                    on_upload=self._open, auto_upload=True, max_file_size=LARGEST
                )
                self.upload.classes("hidden").props("accept=.json")
                _button("Open", "folder_open", lambda: self.upload.run_method("pickFiles"))
                _button("Save as", "download", self._save)
        with ui.element("div").classes("page"):
            with ui.element("div").classes("column"):
                self._build_start()
                self._build_cost()
                self._build_push()
            with ui.element("div").classes("column"):
                self._build_pictures()
                self._build_actions()
            with ui.element("div").classes("column"):
                self._build_goal()

    def _build_start(self) -> None:
        with ui.column().classes("panel"):
            ui.label("Start and goal").classes("heading")
            with ui.row().classes("items-center gap-2 no-wrap w-full"):
                self.number = ui.number("Episode", min=0, precision=0).props("dense")
                self.number.classes("w-20").on("keydown.enter", self._episode)
                _button("Go", "login", self._episode)
                _button("Random", "casino", self._draw_episode)
            self.poses: list[tuple[ui.slider, ui.label, int]] = []
            for pose in self.session.sliders():
                with ui.element("div").classes("joint"):
                    ui.label(pose.name)
                    slider = ui.slider(min=pose.low, max=pose.high, step=0.01, value=pose.low)
                    slider.props(f"dense aria-label='start of {pose.name}'")
                    label = ui.label().classes("figure text-right")
                slider.on(
                    "update:model-value",
                    lambda event, index=pose.index, label=label: self._posed(index, event, label),
                    throttle=0.03,
                )
                self.poses.append((slider, label, pose.index))
            _button(
                "Make the present the goal", "flag",
                lambda: self.ask(self.session.want_present),
            )  # fmt: skip

    def _build_cost(self) -> None:
        with ui.column().classes("panel"):
            ui.label("Cost that the planner minimises").classes("heading")
            self.cost = ui.textarea(value=self.situation.cost).props("dense outlined autogrow")
            self.cost.classes("w-full font-mono").props("input-class='text-xs' rows=1")
            self.cost.on("keydown.enter.prevent", self._weighed).on("blur", self._weighed)
            self.cost_error = ui.label().classes("error")
            names = ", ".join(self.session.checkpoint.config.names)
            ui.label(f"Such as 0.5*critic + 100*avoid(x>0.1). It can read {names}.").classes("hint")

    def _build_push(self) -> None:
        pushes = self.session.pushes()

        def strength() -> float:
            return (self.push.value or 0.0) * pushes[self.pushed.value or 0].strongest

        def describe() -> None:
            text.set_text(f"{strength():+.2f} {pushes[self.pushed.value or 0].unit}")

        async def push() -> None:
            await self.ask(self.session.kick, self.pushed.value, strength())

        with ui.column().classes("panel"):
            ui.label("Disturbance").classes("heading")
            with ui.row().classes("items-center gap-2 no-wrap w-full"):
                names = {index: push.name for index, push in enumerate(pushes)}
                self.pushed = ui.select(names, value=0, on_change=describe)
                self.pushed.props("dense options-dense").classes("grow")
                _button("Push", "air", push)
            with ui.element("div").classes("joint"):
                text = ui.label().classes("figure whitespace-nowrap")
                self.push = ui.slider(min=-1, max=1, step=0.05, value=0.5, on_change=describe)
                self.push.props("dense aria-label='strength of the push'")
            ui.label("The camera sees it with the next image: step, then plan.").classes("hint")
        describe()

    def _build_pictures(self) -> None:
        with ui.column().classes("panel"):
            with ui.element("div").classes("pictures"):
                with ui.column().classes("gap-1"):
                    ui.label("The world").classes("heading real")
                    self.real = ui.interactive_image(sanitize=False, size=(360, 360))
                    self.real.classes("picture world-picture")
                    self.real_text = ui.label().classes("figure real")
                with ui.column().classes("gap-1"):
                    ui.label("What the model imagines").classes("heading imagined")
                    self.imagined = ui.interactive_image(sanitize=False, size=(360, 360))
                    self.imagined.classes("picture model-picture")
                    self.imagined_text = ui.label().classes("figure imagined")
            with ui.row().classes("items-center no-wrap w-full gap-4"):
                horizon = self.session.horizon
                time = ui.slider(min=0, max=horizon, step=1, value=horizon)
                time.props("dense markers aria-label='steps ahead'")
                time.on("update:model-value", self._timed, throttle=0.03)
                self.ahead = ui.label().classes("figure whitespace-nowrap w-32")

    def _build_actions(self) -> None:
        with ui.column().classes("panel"):
            with ui.row().classes("items-center gap-2 no-wrap w-full"):
                ui.label("Actions to come").classes("heading grow")
                _button("Plan", "auto_fix_high", lambda: self.ask(self.session.plan))
                _button("Step", "skip_next", lambda: self.ask(self.session.step))
                self.run_button = _button("Run", "play_arrow", self.run)
                _button("Rest", "horizontal_rule", lambda: self.ask(self.session.rest))
                _button("Back to start", "replay", lambda: self.ask(self.session.restart))
            self.curves = Curves(list(self.session.action_names), self.session.horizon)
            self.curves.on("change", self._dragged, throttle=0.02)

    def _build_goal(self) -> None:
        with ui.column().classes("panel"):
            ui.label("The goal").classes("heading goal")
            self.goal = ui.interactive_image(sanitize=False, size=(360, 360)).classes("picture")
            self.goal.style("width: 200px; margin: 0 auto")
        with ui.column().classes("panel"):
            ui.label("Cost by step").classes("heading")
            self.costs = ui.html(sanitize=False).classes("w-full")
            ui.label("Distance to the goal by step").classes("heading")
            self.distances = ui.html(sanitize=False).classes("w-full")
            with ui.row().classes("gap-3 hint"):
                ui.label("● world").classes("real")
                ui.label("● model").classes("imagined")
                ui.label("╌ plan before").classes("former")


def _button(text: str, icon: str, act: Callable[..., Any]) -> ui.button:
    return ui.button(text, icon=icon, on_click=act).props("dense flat no-caps size=12px")
