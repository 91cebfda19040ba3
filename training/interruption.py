"""Ctrl-C between updates instead of within them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Interruption:
    """Whether Ctrl-C or SIGTERM has asked for an end."""

    wanted: bool = False


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Turn the first Ctrl-C (or SIGTERM) into a wish; the second one interrupts at once."""
    asked, before = Interruption(), {}

    def hear(number: int, frame: object) -> None:
        if asked.wanted:
            raise KeyboardInterrupt
        asked.wanted = True

    if threading.current_thread() is threading.main_thread():  # other threads hear no signals
        before = {it: signal.signal(it, hear) for it in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
