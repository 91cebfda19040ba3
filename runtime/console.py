"""What a person sees while a command runs: progress with time left, and plain sentences."""

from __future__ import annotations

import builtins
import os
import sys

from tqdm import tqdm


def is_main_process() -> bool:
    """Return whether this process tells of its work: of several together only the first does."""
    return os.environ.get("RANK", "0") == "0"


def progress_bar(total: int, label: str, done: int = 0, unit: str = "update") -> tqdm:
    """Return a progress bar on stderr, with rate and time left.

    In a log file it prints a line every ten seconds. It appears after half a second, so that
    bad input is answered by one line.
    """
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, initial=done, desc=label, unit=unit, unit_scale=unit == "frame",
        mininterval=interval, dynamic_ncols=True, smoothing=0.05, leave=True, delay=0.5,
        disable=not is_main_process(),
    )  # fmt: skip


def print(text: str) -> None:
    """Print a line on stdout, at once."""
    if is_main_process():
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def error(message: str) -> None:
    """Print one line on stderr."""
    builtins.print(f"mujepa: {' '.join(message.split())}", file=sys.stderr, flush=True)  # noqa: T201
