"""Run jobs in worker processes of this machine; `Cluster.map` has the same interface.

A job must write its files whole or not at all, and draw its random numbers from a seed that
depends on the job alone: a job whose worker was lost runs again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from mujepa.runtime.errors import UserError

CONTEXT = multiprocessing.get_context("spawn")  # a fork would share the OpenGL context


@dataclass(frozen=True)
class Pool:
    """Worker processes of this machine, each with one thread and an OpenGL context of its own.

    There are `workers` of them; 0 for one per core.
    """

    workers: int = 0
    _ticks: Synchronized[int] = field(default_factory=lambda: CONTEXT.Value("q", 0), compare=False)
    _cancelled: Synchronized[int] = field(
        default_factory=lambda: CONTEXT.Value("b", 0), compare=False
    )

    @property
    def ticks(self) -> int:
        """How often the jobs have called `tick` so far."""
        return self._ticks.value

    def accelerators(self, device: str) -> int:
        """Return 0: these processes compute on the CPU."""
        return 0

    def map(
        self,
        function: Callable[..., Any],
        jobs: Sequence[tuple[Any, ...]],
        *,
        accelerators: int = 0,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Generator[tuple[int, Any]]:
        """Call a function with the arguments of each job; yield (index, result) as they finish.

        The workers import the function's module; arguments and results are pickled. `meanwhile` is
        called about every second while no job finishes. Close the iterator (`contextlib.closing`)
        if it may be left before its end.

        Raises:
            UserError: the function raised it, or a worker was lost.
        """
        count = min(self.workers or len(os.sched_getaffinity(0)), len(jobs))
        shared = self._ticks, self._cancelled
        with ProcessPoolExecutor(count, CONTEXT, _start_worker, shared) as pool:
            with _main_hidden(unless=function.__module__ == "__main__"):
                running = {pool.submit(function, *job): index for index, job in enumerate(jobs)}
            try:
                while running:
                    done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield running.pop(future), future.result()
                    if not done:
                        meanwhile()
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process died; run the same command again to continue where it stopped"
                ) from error
            finally:
                self._cancelled.value = 1
                pool.shutdown(wait=True, cancel_futures=True)
                self._cancelled.value = 0


@contextmanager
def _main_hidden(*, unless: bool) -> Iterator[None]:
    """Start workers that do not run the caller's script again, so it needs no main guard."""
    main = sys.modules["__main__"]
    if not unless:
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_shared: tuple[Synchronized[int], Synchronized[int]] | None = None


def tick() -> None:
    """Report one step of progress from a job; raise InterruptedError if it was cancelled."""
    if _shared is None:
        return
    ticks, cancelled = _shared
    if cancelled.value:
        raise InterruptedError("this job was cancelled")
    with ticks.get_lock():
        ticks.value += 1


def _start_worker(ticks: Synchronized[int], cancelled: Synchronized[int]) -> None:
    global _shared
    _shared = ticks, cancelled
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and sets `cancelled`
    os.environ["OMP_NUM_THREADS"] = "1"
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the parent was killed; otherwise workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
