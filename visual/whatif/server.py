"""A local web server for the what-if page.

OpenGL's context belongs to the thread that made it, so one worker thread computes and draws for all
open pages, each with its own state. The main thread talks to the browsers.
"""

from __future__ import annotations

import ipaddress
import socket
import warnings
from concurrent.futures import Executor, ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from mujepa.envs.rendering import free_gl_context
from mujepa.runtime import console
from mujepa.runtime.errors import UserError
from mujepa.visual.decoder import Decoder
from mujepa.visual.whatif.page import Page
from mujepa.visual.whatif.session import Session, Store


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; `UserError` if the port or the host is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on port {port} of {host} ({reason}); choose another with --port"
        ) from error


def serve(session: Session, decoder: Decoder, store: Store, listener: socket.socket) -> None:
    """Serve the page until interrupted, to browsers that connect to the listener."""
    # NiceGUI asks every object in memory for its type, among them deprecated ones of torch.
    warnings.filterwarnings("ignore", category=FutureWarning, module="nicegui")
    host, port = listener.getsockname()[:2]
    if not ipaddress.ip_address(host).is_loopback:
        console.print(
            f"warning: everyone who reaches {host} can use the page; 127.0.0.1 keeps it local"
        )
    shown = f"[{host}]" if ":" in host else host
    free_gl_context()  # if a decoder was trained in this thread; the worker makes its own
    with ThreadPoolExecutor(max_workers=1) as executor:
        app = _make_app(session, decoder, store, executor)
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        console.print(
            f"http://{shown}:{port}/ is open; changes are saved in {store.path}; Ctrl-C ends it"
        )
        try:
            uvicorn.Server(settings).run(sockets=[listener])
        finally:
            executor.submit(free_gl_context).result()


def _make_app(session: Session, decoder: Decoder, store: Store, executor: Executor) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @ui.page("/")
    def page() -> None:
        Page(session, decoder, store, executor)

    ui.run_with(app, title="mujepa: what if", favicon="🦾", message_history_length=50)
    return app
