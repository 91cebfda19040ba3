"""What the page's two threads share: work to be done, and what a person made last."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future as Promise
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json
from mujepa.visual.whatif.state import write_situation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mujepa.visual.whatif.session import Session
    from mujepa.visual.whatif.state import Situation

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
            self.latest = session.episode(0) if raw is None else session.read(raw)
        except UserError as error:
            raise UserError(f"{path}: {error}; {remedy}") from error

    def save(self, situation: Situation) -> None:
        """Replace the file at once.

        Raises:
            UserError: it cannot be written.
        """
        self.latest = situation
        write_json(self.path, write_situation(situation, self._task))
