"""A local web server for the what-if page, and its JSON endpoints.

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
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request, Response
from nicegui import ui

from mujepa.errors import UserError
from mujepa.files import read_json, write_json
from mujepa.screen import say
from mujepa.whatif.page import LARGEST, Page
from mujepa.whatif.situation import Situation, read_situation, write_situation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mujepa.evaluation.decoder import Decoder
    from mujepa.whatif.session import Future, Session

Result = TypeVar("Result")
FILE = "what-if.json"
"""Beside the checkpoint: what a person made last."""


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


class Store:
    """Keeps what a person made last, in a file; at first it is the first episode.

    Raises:
        UserError: the file is damaged, or of another task or model.
    """

    def __init__(self, path: Path, session: Session) -> None:
        self.path = path
        self._task = session.checkpoint.config.task
        remedy = "remove it to begin anew"
        raw = read_json(path, remedy) if path.exists() else None
        try:
            self.latest = session.episode(0) if raw is None else read_situation(raw, session)
        except UserError as error:
            raise UserError(f"{path}: {error}; {remedy}") from error

    def save(self, situation: Situation) -> None:
        """Replace the file at once.

        Raises:
            UserError: it cannot be written.
        """
        self.latest = situation
        write_json(self.path, write_situation(situation, self._task))


def make_app(session: Session, decoder: Decoder, workshop: Workshop, store: Store) -> FastAPI:
    """Return the page and its JSON endpoints, which take a situation and keep none."""
    app = FastAPI(openapi_url=None)
    written = partial(write_situation, task=session.checkpoint.config.task)

    def answer(value: object, status: int = 200) -> Response:
        content = json.dumps(value, allow_nan=False)
        return Response(content, status, media_type="application/json")

    async def respond(request: Request, function: Callable[[Situation], object]) -> Response:
        if int(request.headers.get("content-length") or LARGEST + 1) > LARGEST:
            return answer({"error": f"send at most {LARGEST} bytes, and say how many"}, 413)
        try:
            raw = json.loads(await request.body())
            return answer(await workshop(lambda: function(read_situation(raw, session))))
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
        return await respond(request, lambda one: written(session.plan(one)))

    @app.post("/step")
    async def post_step(request: Request) -> Response:
        return await respond(request, lambda one: written(session.step(one)))

    @app.get("/situation")
    async def get_situation() -> Response:
        return answer(written(store.latest))

    @ui.page("/")
    def page() -> None:
        Page(session, decoder, workshop, store)

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
            f"cannot listen on port {port} of {host} ({reason}); "
            "choose another with --port or --host"
        ) from error


def serve(session: Session, decoder: Decoder, store: Store, listener: socket.socket) -> None:
    """Serve the page until interrupted.

    Args:
        session: the checkpoint and its world.
        decoder: draws what the model imagines.
        store: keeps the latest situation.
        listener: where browsers knock.
    """
    host, port = listener.getsockname()[:2]
    workshop = Workshop()
    app = make_app(session, decoder, workshop, store)
    settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(settings)

    def talk() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            workshop.close()

    thread = threading.Thread(target=talk, name="page", daemon=True)
    if not ipaddress.ip_address(host).is_loopback:
        say(f"warning: everyone who reaches {host} can use the page; 127.0.0.1 keeps it here")
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{port}/ is open; what you make is kept in {store.path}; Ctrl-C ends it")
    thread.start()
    try:
        workshop.work()
    finally:
        server.should_exit = True
        thread.join(timeout=5)
