"""What a person sees while a command runs: progress with time left, and plain sentences."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress_bar(total: int, label: str, done: int = 0, unit: str = "update") -> tqdm:
    """Return a progress bar on stderr, with rate and time left.

    In a log file it prints a line every ten seconds. It appears after half a second, so that
    bad input is answered by one line.
    """
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, initial=done, desc=label, unit=unit, unit_scale=unit == "frame",
        mininterval=interval, dynamic_ncols=True, smoothing=0.05, leave=True, delay=0.5,
    )  # fmt: skip


def say(text: str) -> None:
    """Print a line on stdout, at once."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
