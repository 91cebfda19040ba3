"""Keep the ratios of all benchmarks, and say which of them fell.

    python benchmarks/history.py [--history FILE]

`make bench` ends with it. Each run adds a line to benchmarks/history.jsonl: when, at which commit,
on which machine, and the `ratios` of every file in benchmarks/results. They are compared with the
latest line of the same processor; ratios are of figures from one run, so that a slow day of the
machine cancels out, and yet a fifth is noise.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.files import read_json, write_text
from mujepa.runtime.provenance import machine

ROOT = Path(__file__).parents[1]
NOISE = 0.2


@dataclass(frozen=True)
class HistoryConfig:
    """Add the ratios of all results to the history, and say which fell by more than a fifth."""

    results: Path = ROOT / "benchmarks" / "results"
    """Where the benchmarks wrote."""
    history: Path = ROOT / "benchmarks" / "history.jsonl"
    """One line for each run."""


def history(config: HistoryConfig) -> None:
    """Compare, print and add."""
    found = {
        path.stem: result["ratios"]
        for path in sorted(config.results.glob("*.json"))
        if "ratios" in (result := read_json(path, "remove it"))
        and result.get("machine") == machine()
    }
    text = config.history.read_text(encoding="utf-8") if config.history.exists() else ""
    before = [json.loads(line) for line in text.splitlines()]
    there = [line for line in before if line["machine"] == machine()]
    for name, old, new in fallen(there[-1]["ratios"] if there else {}, found):
        console.print(f"fell: {name} from {old:.3g} to {new:.3g}")
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    line = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "machine": machine(),
        "ratios": found,
    }
    write_text(config.history, text + json.dumps(line) + "\n")
    console.print(f"{sum(map(len, found.values()))} ratios added to {config.history}")


def fallen(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return the ratios that fell by more than noise: name, before, now."""
    return [
        (f"{file}: {name}", old, now[file][name])
        for file, ratios in before.items()
        for name, old in ratios.items()
        if file in now and name in now[file] and now[file][name] < (1 - NOISE) * old
    ]


if __name__ == "__main__":
    raise SystemExit(run(history, HistoryConfig))
