"""The what-if page: a local web server on which a person changes actions and sees what follows.

The main thread computes and draws, one thing after the other, because MuJoCo's world and OpenGL's
context belong to the thread that made them; a second thread talks to the browsers. Each open page
has a situation of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import threading
from concurrent.futures import Future as Promise
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from nicegui import background_tasks, ui

from mujepa.errors import UserError
from mujepa.files import read_json, write_json
from mujepa.screen import say
from mujepa.whatif import drawing
from mujepa.whatif.drawing import Line

if TYPE_CHECKING:
    from collections.abc import Callable

    from nicegui.events import GenericEventArguments, UploadEventArguments

    from mujepa.whatif.session import Future, Session, Situation

Result = TypeVar("Result")
FILE = "what-if.json"
"""Beside the checkpoint: what a person made last."""
LARGEST = 1_000_000
"""Most bytes of a request's content."""
STYLE = """
body { background: #f1f5f9; color: #0f172a; }
.nicegui-content { padding: 10px 14px; gap: 10px; }
.panel { background: white; border: 1px solid #e2e8f0; border-radius: 8px; padding: 8px 12px; gap: 4px; }
.heading { font-size: 13px; font-weight: 600; color: #334155; }
.hint { font-size: 12px; color: #64748b; line-height: 1.35; }
.page { display: grid; grid-template-columns: 250px minmax(0, 1fr) 300px; gap: 10px; width: 100%; }
.column { display: flex; flex-direction: column; gap: 10px; min-width: 0; }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; width: 100%; }
.picture { width: 100%; border-radius: 4px; overflow: hidden; background: #e2e8f0; }
.figure { font-size: 13px; font-variant-numeric: tabular-nums; }
.real { color: #2563eb; } .imagined { color: #c2410c; } .goal { color: #15803d; } .former { color: #6b7280; }
.error { color: #b91c1c; font-size: 12px; line-height: 1.3; overflow-wrap: anywhere; }
.chart { width: 100%; } .chart text { font-size: 11px; fill: #64748b; }
.joint { display: grid; grid-template-columns: 84px 1fr 44px; gap: 8px; align-items: center; width: 100%;
  font-size: 12px; height: 24px; }
.curves { width: 100%; } .curve { display: grid; grid-template-columns: 90px 1fr; align-items: center; }
.curve-name { font-size: 12px; color: #334155; } .curve-name b { display: block; font-weight: 500;
  font-variant-numeric: tabular-nums; color: #64748b; }
.curve svg { touch-action: none; user-select: none; display: block; }
.curve-shown { fill: #f1f5f9; } .curve-zero { stroke: #cbd5e1; } .curve-bound { stroke: #e2e8f0; }
.curve-line { fill: none; stroke: #0f172a; stroke-width: 1.5; }
.curve-before { fill: none; stroke: #9ca3af; stroke-width: 1.5; stroke-dasharray: 4 3; }
.curve-point { fill: #0f172a; cursor: ns-resize; } .curve-point:hover, .curve-point:focus, .curve-point.held {
  fill: #2563eb; outline: none; }
"""


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


class Workshop:
    """Does what another thread's tasks ask for, in the thread that calls `work`."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Promise, Callable[..., Any], tuple[Any, ...]] | None]
        self._jobs = SimpleQueue()

    async def __call__(self, function: Callable[..., Result], *arguments: Any) -> Result:  # noqa: ANN401
        """Return what the function returns, called when its turn has come."""
        promise: Promise[Result] = Promise()
        self._jobs.put((promise, function, arguments))
        return await asyncio.wrap_future(promise)

    def work(self) -> None:
        """Do what is asked for until `close`."""
        while (job := self._jobs.get()) is not None:
            promise, function, arguments = job
            if not promise.set_running_or_notify_cancel():
                continue
            try:
                promise.set_result(function(*arguments))
            except Exception as error:  # it is raised where the result is awaited
                promise.set_exception(error)

    def close(self) -> None:
        """Let `work` return."""
        self._jobs.put(None)


@dataclass(frozen=True)
class View:
    """What the page shows of a situation at one of the steps ahead.

    Pictures are data URLs, overlays and charts are SVG.
    """

    goal: str
    real: str
    imagined: str | None
    over_goal: str
    over_real: str
    over_imagined: str
    costs: str
    distances: str
    real_text: str
    imagined_text: str
    reached: bool


def view(session: Session, situation: Situation, shown: int) -> View:
    """Compute and draw what the page shows."""
    futures, world = session.futures(situation), session.world
    real, imagined, before = futures.real, futures.imagined, futures.before
    decoded = session.decode(imagined.embeddings[shown : shown + 1])
    goal = session.goal_point(situation)
    task, unit = world.task, world.task.per_unit

    def overlay(size: float, *futures: tuple[Future | None, str, int | None]) -> str:
        parts = [] if goal is None else [drawing.goal_svg(goal, size)]
        for future, colour, at in futures:
            if future is not None and future.path is not None:
                parts.append(drawing.path_svg(future.path, colour, size, at))
        return "".join(parts)

    old, dream = (before, drawing.BEFORE, None), (imagined, drawing.IMAGINED, shown)
    small = drawing.PICTURE if decoded is None else decoded.shape[1]

    def lines(pick: Callable[[Future], np.ndarray], first: int) -> list[Line]:
        former = [] if before is None else [Line(pick(before), drawing.BEFORE, first, "4 3")]
        both = (real, drawing.REAL), (imagined, drawing.IMAGINED)
        return former + [Line(pick(future), colour, first) for future, colour in both]

    def text(future: Future) -> str:
        return f"{task.text(future.distance[shown])} from the goal · cost {future.cost:.3g}"

    return View(
        goal=drawing.data_url(world.enlarge(situation.goal)),
        real=drawing.data_url(world.enlarge(futures.states[shown])),
        imagined=None if decoded is None else drawing.data_url(decoded[0]),
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


class Store:
    """Keeps what a person made last, in a file; at first it is the first episode.

    Raises:
        UserError: the file is damaged, or of another task or model.
    """

    def __init__(self, path: Path, session: Session) -> None:
        self.path = path
        self._session = session
        remedy = "remove it to begin anew"
        raw = read_json(path, remedy) if path.exists() else None
        try:
            self.latest = session.episode(0) if raw is None else session.read(raw)
        except UserError as error:
            raise UserError(f"{path}: {error}; {remedy}") from error

    def save(self, situation: Situation) -> None:
        """Replace the file at once.

        Raises:
            UserError: it cannot be written.
        """
        self.latest = situation
        write_json(self.path, self._session.write(situation))


class Page:
    """One open page: its situation, and what shows it."""

    def __init__(self, session: Session, workshop: Workshop, store: Store) -> None:
        self.session, self.workshop, self.store = session, workshop, store
        self.situation = store.latest
        self.client = ui.context.client
        self.shown = session.horizon
        self.running = False
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
            self._complain(error)
        self._refresh()

    async def ask(self, function: Callable[..., Situation], *arguments: Any) -> None:  # noqa: ANN401
        """Take a change that the workshop computes from the situation, unless it went on since."""
        before = self.situation
        try:
            after = await self.workshop(function, before, *arguments)
        except UserError as error:
            self._complain(error)
            return
        if self.situation is before:
            self.situation = after
            self._settle()

    async def run(self) -> None:
        """Plan and step, no faster than the world, until stopped or the page is gone."""
        self.running = not self.running
        self._name_run()
        while self.running and self.client.has_socket_connection:
            done = asyncio.create_task(asyncio.sleep(max(self.session.seconds, 0.15)))
            await self.ask(self.session.plan)
            await self._drawn()
            await done
            if self.running:
                await self.ask(self.session.step)
        self.running = False
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
                shown = await self.workshop(view, self.session, self.situation, self.shown)
                if self.client.is_deleted:
                    return
                self._show(shown)
        finally:
            self._refreshing = False
        try:
            await self.workshop(self.store.save, self.situation)
        except UserError as error:
            self._complain(error)

    def _show(self, view: View) -> None:
        self.goal.set_source(view.goal).set_content(view.over_goal)
        self.real.set_source(view.real).set_content(view.over_real)
        if view.imagined is not None:
            self.imagined.set_source(view.imagined)
        self.imagined.set_content(view.over_imagined)
        self.costs.set_content(view.costs)
        self.distances.set_content(view.distances)
        self.real_text.set_text(view.real_text + (" · reached" if view.reached else ""))
        self.imagined_text.set_text(view.imagined_text)
        step = self.situation.step
        self.clock.set_text(f"{step} steps, {step * self.session.seconds:.2f} s since the start")
        ahead = f"{self.shown} steps ahead ({self.shown * self.session.seconds:.2f} s)"
        self.ahead.set_text(ahead if self.shown else "now")

    def _complain(self, error: UserError) -> None:
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
            self._complain(error)
        except (ValueError, RecursionError):
            self._complain(UserError(f"{event.file.name} is not JSON; choose a saved situation"))
        self.cost.set_value(self.situation.cost)
        self._settle()

    def _save(self) -> None:
        content = json.dumps(self.session.write(self.situation), indent=2)
        ui.download.content(content, FILE, "application/json")

    async def _episode(self) -> None:
        number = int(self.number.value or 0)
        await self.ask(lambda one: self.session.episode(number, one.cost))

    async def _draw_episode(self) -> None:
        await self.ask(lambda one: self.session.draw(np.random.default_rng(), one.cost))

    async def _pushed(self) -> None:
        await self.ask(self.session.kick, self.pushed.value, float(self.push.value))

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
                self.number = ui.number("Episode", value=0, min=0, precision=0).props("dense")
                self.number.classes("w-20").on("keydown.enter", self._episode)
                _button("Go", "login", self._episode)
                _button("Random", "casino", self._draw_episode)
            self.poses: list[tuple[ui.slider, ui.label, int]] = []
            for pose in self.session.sliders():
                with ui.element("div").classes("joint"):
                    ui.label(pose.name)
                    slider = ui.slider(min=pose.low, max=pose.high, step=0.01, value=pose.low)
                    slider.props("dense").mark(f"pose {pose.name}")
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
        with ui.column().classes("panel"):
            ui.label("Disturbance").classes("heading")
            names = dict(enumerate(self.session.velocities))
            with ui.row().classes("items-center gap-2 no-wrap w-full"):
                self.pushed = ui.select(names, value=0).props("dense options-dense").classes("grow")
                _button("Push", "sports_martial_arts", self._pushed)
            with ui.element("div").classes("joint"):
                ui.label("velocity +")
                most = self.session.strongest_push
                self.push = ui.slider(min=-most, max=most, step=most / 20, value=most / 2)
                self.push.props("dense")
                ui.label().bind_text_from(self.push, "value", "{:+.2f}".format).classes("figure")
            ui.label("The camera sees it with the next image: step, and plan again.").classes("hint")

    def _build_pictures(self) -> None:
        with ui.column().classes("panel"):
            with ui.element("div").classes("pictures"):
                with ui.column().classes("gap-1"):
                    ui.label("The world").classes("heading real")
                    self.real = ui.interactive_image(sanitize=False, size=(360, 360))
                    self.real.classes("picture").mark("real")
                    self.real_text = ui.label().classes("figure real")
                with ui.column().classes("gap-1"):
                    ui.label("What the model imagines").classes("heading imagined")
                    self.imagined = ui.interactive_image(sanitize=False, size=(360, 360))
                    self.imagined.classes("picture").mark("imagined")
                    self.imagined_text = ui.label().classes("figure imagined")
            with ui.row().classes("items-center no-wrap w-full gap-4"):
                horizon = self.session.horizon
                time = ui.slider(min=0, max=horizon, step=1, value=horizon).props("dense markers")
                time.on("update:model-value", self._timed, throttle=0.03).mark("time")
                self.ahead = ui.label().classes("figure whitespace-nowrap w-44")

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


def make_app(session: Session, workshop: Workshop, store: Store) -> FastAPI:
    """Return the page and its JSON endpoints, which take a situation and keep none."""
    app = FastAPI(openapi_url=None)

    def answer(value: object, status: int = 200) -> Response:
        content = json.dumps(value, allow_nan=False)
        return Response(content, status, media_type="application/json")

    async def respond(request: Request, function: Callable[[Situation], object]) -> Response:
        if int(request.headers.get("content-length") or LARGEST + 1) > LARGEST:
            return answer({"error": f"send at most {LARGEST} bytes, and say how many"}, 413)
        try:
            raw = json.loads(await request.body())
            return answer(await workshop(lambda: function(session.read(raw))))
        except UserError as error:
            return answer({"error": str(error)}, 422)
        except (ValueError, RecursionError) as error:
            return answer({"error": f"this is no JSON, or its future no number: {error}"}, 400)

    def figures(future: Future | None) -> dict[str, Any] | None:
        if future is None:
            return None
        path = None if future.path is None else future.path.tolist()
        distance, costs = future.distance.tolist(), future.costs.tolist()
        return {"distance": distance, "cost": future.cost, "costs": costs, "path": path}

    def futures(situation: Situation) -> dict[str, Any]:
        found = session.futures(situation)
        names = ("real", "imagined", "before")
        return {name: figures(getattr(found, name)) for name in names}

    @app.post("/futures")
    async def post_futures(request: Request) -> Response:
        return await respond(request, futures)

    @app.post("/plan")
    async def post_plan(request: Request) -> Response:
        return await respond(request, lambda one: session.write(session.plan(one)))

    @app.post("/step")
    async def post_step(request: Request) -> Response:
        return await respond(request, lambda one: session.write(session.step(one)))

    @app.get("/situation")
    async def get_situation() -> Response:
        return answer(session.write(store.latest))

    @ui.page("/")
    def page() -> None:
        Page(session, workshop, store)

    ui.run_with(app, title="mujepa: what if", favicon="🦾", message_history_length=50)
    return app


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UserError: the port is taken, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on port {port} of {host} ({reason}); choose another with --port or --host"
        ) from error


def serve(session: Session, store: Store, listener: socket.socket) -> None:
    """Serve the page until interrupted.

    Args:
        session: the checkpoint and its world.
        store: keeps the latest situation.
        listener: where browsers knock.
    """
    host, port = listener.getsockname()[:2]
    workshop = Workshop()
    app = make_app(session, workshop, store)
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(settings)

    def talk() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            workshop.close()

    thread = threading.Thread(target=talk, name="page", daemon=True)
    if not ipaddress.ip_address(host).is_loopback:
        say(f"warning: everyone who reaches {host} can use this page; --host 127.0.0.1 keeps it here")
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{port}/ is open; what you make is kept in {store.path}; Ctrl-C ends it")
    thread.start()
    try:
        workshop.work()
    finally:
        server.should_exit = True
        thread.join(timeout=5)
