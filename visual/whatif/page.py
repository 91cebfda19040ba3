"""The what-if page: controls that change the state, and what they lead to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nicegui import background_tasks, ui
from nicegui.events import GenericEventArguments, UploadEventArguments

from mujepa.runtime.errors import UserError
from mujepa.visual.decoder import Decoder
from mujepa.visual.whatif.joints import action_names, joint_pushes, joint_sliders
from mujepa.visual.whatif.session import Session, Store
from mujepa.visual.whatif.view import View, view
from mujepa.visual.whatif.whatif_state import WhatIfState, write_state
from mujepa.visual.whatif.widgets import Curves, button, panel, picture, row

Value = TypeVar("Value")
LARGEST = 1_000_000  # maximum size of a state as JSON [bytes]
STYLE = Path(__file__).with_name("page.css")


class Page:
    """One open page and its state."""

    def __init__(
        self, session: Session, decoder: Decoder, store: Store, executor: Executor
    ) -> None:
        self.session, self.decoder = session, decoder
        self.store, self.executor = store, executor
        self.state = store.latest
        self.client = ui.context.client
        self.shown = session.horizon
        self._stale, self._drawing = False, False
        interval = max(session.seconds, 0.15)
        self.timer = ui.timer(interval, self._plan_and_step, active=False, immediate=False)
        self._build()
        self._show_state()

    async def compute(self, function: Callable[..., WhatIfState], *arguments: Any) -> None:  # noqa: ANN401
        """Replace the state by `function(state, *arguments)`, unless it changes in the meantime."""
        before = self.state
        try:
            after = await self._submit(function, before, *arguments)
        except UserError as error:
            self._notify(error)
            return
        if self.state is before and not self.client.is_deleted:
            self.state = after
            self._show_state()

    async def _plan_and_step(self) -> None:
        if not self.client.has_socket_connection:
            self.timer.deactivate()
            return
        await self.compute(self.session.plan)
        while self._drawing:
            await asyncio.sleep(0.01)
        if self.timer.active:
            await self.compute(self.session.step)

    async def _submit(self, function: Callable[..., Value], *arguments: Any) -> Value:  # noqa: ANN401
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, function, *arguments)

    def _show_state(self) -> None:
        self.curves.show(self.state, self.shown)
        for slider, index in self.positions:
            slider.set_value(float(self.state.start[1 + index]))
        self._redraw()

    def _redraw(self) -> None:
        """Draw the latest state; states that are replaced meanwhile are skipped."""
        self._stale = True
        if not self._drawing:
            self._drawing = True
            background_tasks.create(self._draw())

    async def _draw(self) -> None:
        try:
            while self._stale:
                self._stale = False
                drawn = await self._submit(view, self.session, self.decoder, self.state, self.shown)
                if self.client.is_deleted:
                    return
                self._show(drawn)
        finally:
            self._drawing = False
        try:
            await self._submit(self.store.save, self.state)
        except UserError as error:
            self._notify(error)

    def _show(self, view: View) -> None:
        self.goal.set_source(view.goal).set_content(view.over_goal)
        self.real.set_source(view.real).set_content(view.over_real)
        self.imagined.set_source(view.imagined).set_content(view.over_imagined)
        self.costs.options.update(view.costs)
        self.distances.options.update(view.distances)
        self.real_text.set_text(view.real_text)
        self.imagined_text.set_text(view.imagined_text)
        step, seconds = self.state.step, self.session.seconds
        self.clock.set_text(f"step {step}, {step * seconds:.2f} s after the start")
        ahead = f"step +{self.shown}, in {self.shown * seconds:.2f} s"
        self.ahead.set_text(ahead if self.shown else "now")

    def _notify(self, error: UserError) -> None:
        if not self.client.is_deleted:
            with self.client:
                ui.notify(str(error), type="negative", multi_line=True, close_button="close")

    def _run_or_stop(self) -> None:
        self.timer.active = not self.timer.active

    def _set_action(self, event: GenericEventArguments) -> None:
        self.state = self.session.set_action(self.state, **event.args)
        self.curves._props["sequence"] = self.state.sequence.tolist()
        self._redraw()

    def _set_start_position(self, index: int, event: GenericEventArguments) -> None:
        self.state = self.session.set_start_position(self.state, index, float(event.args))
        self._redraw()

    def _set_shown(self, event: GenericEventArguments) -> None:
        self.shown = min(max(int(event.args), 0), self.session.horizon)
        self.curves.show(self.state, self.shown)
        self._redraw()

    def _set_cost(self) -> None:
        try:
            self.state = self.session.set_cost(self.state, self.cost.value or "")
            self.cost_error.set_text("")
        except UserError as error:
            self.cost_error.set_text(str(error))
        self._redraw()

    async def _open(self, event: UploadEventArguments) -> None:
        self.upload.reset()
        try:
            self.state = self.session.read(json.loads(await event.file.read()))
        except UserError as error:
            self._notify(error)
        except (ValueError, RecursionError):
            self._notify(UserError(f"{event.file.name} is not JSON; choose a saved state"))
        self.cost.set_value(self.state.cost)
        self._show_state()

    def _save(self) -> None:
        task = self.session.checkpoint.task_name
        content = json.dumps(write_state(self.state, task), indent=2)
        ui.download.content(content, f"what-if-{task}.json", "application/json")

    async def _load_episode(self) -> None:
        number = int(self.number.value or 0)
        await self.compute(lambda state: self.session.episode(number, state.cost))

    async def _random_episode(self) -> None:
        self.number.set_value(None)
        await self.compute(lambda state: self.session.episode(None, state.cost))

    def _build(self) -> None:
        ui.add_css(STYLE)
        self._build_header()
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

    def _build_header(self) -> None:
        with ui.row().classes("w-full items-center justify-between").style("height: 30px"):
            with ui.row().classes("items-baseline gap-3"):
                ui.label("What happens if I do this?").classes("text-lg font-semibold")
                checkpoint = self.session.checkpoint
                ui.label(f"{checkpoint.task_name} · {checkpoint.folder}").classes("hint")
            with row().style("width: auto"):
                self.clock = ui.label().classes("hint figure")
                upload = ui.upload(on_upload=self._open, auto_upload=True, max_file_size=LARGEST)
                self.upload = upload.classes("hidden").props("accept=.json")
                button("Open", "folder_open", lambda: self.upload.run_method("pickFiles"))
                button("Save as", "download", self._save)

    def _build_start(self) -> None:
        with panel("Start and goal"):
            with row():
                self.number = ui.number("Episode", min=0, precision=0).props("dense")
                self.number.classes("w-16").on("keydown.enter", self._load_episode)
                button("Load", "login", self._load_episode)
                button("Random", "casino", self._random_episode)
            self.positions: list[tuple[ui.slider, int]] = []
            for joint in joint_sliders(self.session.world):
                with ui.element("div").classes("joint"):
                    ui.label(joint.name)
                    slider = ui.slider(min=joint.low, max=joint.high, step=0.01, value=joint.low)
                    slider.props(f"dense aria-label='start of {joint.name}'")
                    label = ui.label().classes("figure text-right")
                    label.bind_text_from(slider, "value", lambda value: f"{value:.2f}")
                move = partial(self._set_start_position, joint.index)
                slider.on("update:model-value", move, throttle=0.03)
                self.positions.append((slider, joint.index))
            self._compute_button("Set goal to current", "flag", self.session.set_goal_to_current)

    def _build_cost(self) -> None:
        with panel("Cost that the planner minimises"):
            self.cost = ui.textarea(value=self.state.cost).props("dense outlined autogrow")
            self.cost.classes("w-full font-mono").props("input-class='text-xs' rows=1")
            self.cost.on("keydown.enter.prevent", self._set_cost).on("blur", self._set_cost)
            self.cost_error = ui.label().classes("error")
            names = ", ".join(self.session.checkpoint.config.names)
            ui.label(f"Example: 0.5*critic + 100*avoid(x>0.1). Names: {names}.").classes("hint")

    def _build_push(self) -> None:
        pushes = joint_pushes(self.session.world)

        def change() -> float:
            return (self.push.value or 0.0) * pushes[self.pushed.value or 0].strongest

        def describe() -> None:
            text.set_text(f"{change():+.2f} {pushes[self.pushed.value or 0].unit}")

        async def push() -> None:
            await self.compute(self.session.perturb, self.pushed.value, change())

        with panel("Perturbation"):
            with row():
                names = {index: push.name for index, push in enumerate(pushes)}
                self.pushed = ui.select(names, value=0, on_change=describe)
                self.pushed.props("dense options-dense").classes("grow")
                button("Push", "air", push)
            with ui.element("div").classes("joint"):
                text = ui.label().classes("figure whitespace-nowrap")
                self.push = ui.slider(min=-1, max=1, step=0.05, value=0.5, on_change=describe)
                self.push.props("dense aria-label='strength of the push'")
            ui.label("The model sees a push in the next image: Step, then Plan.").classes("hint")
        describe()

    def _build_pictures(self) -> None:
        with ui.column().classes("panel"):
            with ui.element("div").classes("pictures"):
                self.real, self.real_text = picture("Simulator", "real", "world-picture")
                self.imagined, self.imagined_text = picture(
                    "Imagined by the model", "imagined", "model-picture"
                )
            with row():
                horizon = self.session.horizon
                time = ui.slider(min=0, max=horizon, step=1, value=horizon)
                time.props("dense markers aria-label='steps ahead'")
                time.on("update:model-value", self._set_shown, throttle=0.03)
                self.ahead = ui.label().classes("figure whitespace-nowrap w-32 ml-2")

    def _build_actions(self) -> None:
        session = self.session
        with ui.column().classes("panel"):
            with row():
                ui.label("Planned actions").classes("heading grow")
                self._compute_button("Plan", "auto_fix_high", session.plan)
                self._compute_button("Step", "skip_next", session.step)
                run = button("Run", "play_arrow", self._run_or_stop)
                run.bind_text_from(self.timer, "active", lambda on: "Stop" if on else "Run")
                run.bind_icon_from(self.timer, "active", lambda on: "stop" if on else "play_arrow")
                self._compute_button("Zero", "horizontal_rule", session.zero_actions)
                self._compute_button("Restart", "replay", session.restart)
            self.curves = Curves(action_names(session.world), session.horizon)
            self.curves.on("change", self._set_action, throttle=0.02)

    def _build_goal(self) -> None:
        with ui.column().classes("panel"):
            self.goal, _ = picture("Goal", "goal", "goal-picture")
        with ui.column().classes("panel"):
            ui.label("Cost by step").classes("heading")
            self.costs = ui.echart({}).classes("chart")
            ui.label("Distance to the goal by step").classes("heading")
            self.distances = ui.echart({}).classes("chart")
            with ui.row().classes("gap-3 hint"):
                ui.label("● simulator").classes("real")
                ui.label("● model").classes("imagined")
                ui.label("╌ plan before").classes("former")

    def _compute_button(
        self, text: str, icon: str, function: Callable[[WhatIfState], WhatIfState]
    ) -> None:
        button(text, icon, lambda: self.compute(function))
