"""One side of a comparison: a process that repeats a piece of work whenever it is asked to.

It reads requests from standard input, one JSON object a line,

    {"case": "reading", "settings": {"frames": 4}}

and answers each with one JSON line, of one repeat:

    {"count": 256, "wall_s": 0.31, "processor_s": 0.31, "peak_mb": 412.5}

`count` says how many of what is counted were done, `peak_mb` is the process's greatest resident
memory so far. The first request of its kind is prepared and warmed up before the clock starts. The
first line of all says what is installed. Only Python's own library is imported here, so that either
side can use it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Work = Callable[[], int]
"""Does the work once, and returns how many of what is counted were done."""
Prepare = Callable[..., Work]
"""Gets ready for a case of some settings, warms up, and returns its work."""


def serve(cases: Mapping[str, Prepare], versions: Mapping[str, str]) -> None:
    """Answer requests until standard input ends; what the work itself prints goes to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        _answer(answers, {"versions": dict(versions)})
        works: dict[str, Work] = {}
        for line in sys.stdin:
            request = json.loads(line)
            if line not in works:
                works[line] = cases[request["case"]](**request["settings"])
            _answer(answers, _repeat(works[line]))


def _repeat(work: Work) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    count = work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"count": count, "wall_s": wall, "processor_s": processor, "peak_mb": peak}


def _answer(answers: Any, value: Mapping[str, Any]) -> None:  # noqa: ANN401 - a text file
    answers.write(json.dumps(value) + "\n")
    answers.flush()
