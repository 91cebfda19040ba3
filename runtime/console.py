"""What a person sees while a command runs: progress bars with time left, and plain sentences."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

_kept: list[list[str]] = []  # the lines of each `quiet` block that this process is in


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Silence `print` and progress bars, but not errors, in this process; yield what was said."""
    _kept.append([])
    try:
        yield _kept[-1]
    finally:
        _kept.pop()


def is_main_process() -> bool:
    """Return True on rank 0, the only process of a distributed training that prints."""
    return os.environ.get("RANK", "0") == "0"


def progress_bar(total: int, label: str, done: int = 0, unit: str = "update") -> tqdm:
    """Return a progress bar on stderr, with rate and time left.

    It appears after half a second, so that an error in the input is the only output. In a log file
    it prints a line every ten seconds.
    """
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, initial=done, desc=label, unit=unit, unit_scale=unit == "frame",
        mininterval=interval, dynamic_ncols=True, smoothing=0.05, leave=True, delay=0.5,
        disable=bool(_kept) or not is_main_process(),
    )  # fmt: skip


def print(text: str) -> None:
    """Print a line on stdout and flush it."""
    if _kept:
        _kept[-1].append(text)
    elif is_main_process():
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def error(message: str) -> None:
    """Print one line on stderr."""
    builtins.print(f"mujepa: {' '.join(message.split())}", file=sys.stderr, flush=True)  # noqa: T201
