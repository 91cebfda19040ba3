"""Processes of this machine that work on pieces, where no cluster is asked for.

Whoever has work in pieces gives them to `map`, here or of a cluster (`cluster.py`). What is
written must be written whole or not at all, and what is random must depend on the piece alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from mujepa.runtime.errors import UserError

CONTEXT = multiprocessing.get_context("spawn")
"""A forked process would share the OpenGL context."""


@dataclass(frozen=True)
class Pool:
    """Processes of this machine, each with one thread and an OpenGL context of its own.

    Attributes:
        workers: processes; 0 for one per core.
    """

    workers: int = 0
    _ticks: Synchronized[int] = field(default_factory=lambda: CONTEXT.Value("q", 0), compare=False)
    _left: Synchronized[int] = field(default_factory=lambda: CONTEXT.Value("b", 0), compare=False)

    @property
    def ticks(self) -> int:
        """How often the pieces have called `tick` so far."""
        return self._ticks.value

    def accelerators(self, device: str) -> int:
        """Return 0: these processes compute on the CPU."""
        return 0

    def map(
        self,
        function: Callable[..., Any],
        pieces: Sequence[tuple[Any, ...]],
        *,
        accelerators: int = 0,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Generator[tuple[int, Any]]:
        """Call a function with each of the pieces, and yield index and result as they come.

        Close the iterator (`contextlib.closing`) if it may be left before its end.

        Args:
            function: of a module that the workers can import.
            pieces: the arguments of each call; they and the results are pickled.
            accelerators: accelerators that a call needs; here there are none.
            meanwhile: called about every second while nothing comes.

        Raises:
            UserError: as the function raised it, or a worker was lost.
        """
        count = min(self.workers or len(os.sched_getaffinity(0)), len(pieces))
        shared = self._ticks, self._left
        with ProcessPoolExecutor(count, CONTEXT, _begin, shared) as pool:
            running = {pool.submit(function, *piece): i for i, piece in enumerate(pieces)}
            try:
                while running:
                    done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield running.pop(future), future.result()
                    if not done:
                        meanwhile()
            except BrokenProcessPool as error:
                raise UserError(
                    "a working process died; run the same command again to continue where it "
                    "stopped"
                ) from error
            finally:
                self._left.value = 1
                pool.shutdown(wait=True, cancel_futures=True)
                self._left.value = 0


_shared: tuple[Synchronized[int], Synchronized[int]] | None = None


def tick() -> None:
    """Say that a piece has gone on; where nobody waits for it any more, end it.

    Raises:
        InterruptedError: nobody waits for the result.
    """
    if _shared is None:
        return
    ticks, left = _shared
    if left.value:
        raise InterruptedError("nobody waits for this")
    with ticks.get_lock():
        ticks.value += 1


def _begin(ticks: Synchronized[int], left: Synchronized[int]) -> None:
    global _shared
    _shared = ticks, left
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the parent, which sets `left`
    os.environ["OMP_NUM_THREADS"] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit when the parent was killed; otherwise workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
