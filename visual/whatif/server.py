"""A local web server for the what-if page, and its JSON endpoints.

The main thread computes and draws, one thing after the other, because MuJoCo's world and OpenGL's
context belong to the thread that made them; a second thread talks to the browsers. Each open page
has a situation of its own.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Request, Response
from nicegui import ui

from mujepa.runtime import console
from mujepa.runtime.errors import UserError
from mujepa.visual.whatif.executor import Store, Workshop
from mujepa.visual.whatif.page import LARGEST, Page
from mujepa.visual.whatif.state import Situation, write_situation

if TYPE_CHECKING:
    from collections.abc import Callable

    from mujepa.visual.decoder import Decoder
    from mujepa.visual.whatif.session import Future, Session


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
    # It asks every object in memory for its kind, those of torch that are deprecated, too.
    warnings.filterwarnings("ignore", category=FutureWarning, module="nicegui")
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
        console.print(
            f"warning: everyone who reaches {host} can use the page; 127.0.0.1 keeps it here"
        )
    shown = f"[{host}]" if ":" in host else host
    console.print(
        f"http://{shown}:{port}/ is open; what you make is kept in {store.path}; Ctrl-C ends it"
    )
    thread.start()
    try:
        workshop.work()
    finally:
        server.should_exit = True
        thread.join(timeout=5)
