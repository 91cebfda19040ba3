"""mujepa and its peer stable-worldmodel side by side on this machine: speed and memory.

    make .venv-peer/.installed && python benchmarks/peers.py

Each side is a process of its own (`worker_ours.py`, `worker_theirs.py`), on one and the same core
with as many threads as `--threads` says, and they take turns repeat by repeat, so that a
disturbance hits both alike. Figures are medians. `ratios` says how many times better we are, above
1 where we are faster or need less. docs/performance.md says what was done on both sides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json
from mujepa.runtime.provenance import command, machine

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
PEER = ROOT / ".venv-peer" / "bin" / "python"
Clock = Literal["wall", "processor"]
Unit = Literal["frames/s", "windows/s", "s", "MB"]
EPISODES = 200
"""Episodes, of 51 frames each, that are collected to train on and to read from."""
FRESH_REPEATS = 3
"""Most repeats where each takes a process of its own, whose memory hardly differs."""
LOWER_IS_BETTER = ("s", "MB")


@dataclass(frozen=True)
class Request:
    """What a worker is asked to repeat; FOLDER in its settings stands for a temporary folder."""

    case: str
    settings: dict[str, Any] = field(default_factory=dict)

    def line(self, folder: Path) -> str:
        """Return the request as a line of the protocol."""
        settings = {k: str(folder) if v == "FOLDER" else v for k, v in self.settings.items()}
        return json.dumps({"case": self.case, "settings": settings}) + "\n"


@dataclass(frozen=True)
class Comparison:
    """One thing that the peer does, and the ways in which we do it, by what distinguishes them."""

    name: str
    theirs: Request
    ours: dict[str, Request]


@dataclass(frozen=True)
class Part:
    """Comparisons in one unit, that are written to one file.

    Attributes:
        unit: of the figures.
        comparisons: what is compared.
        fresh: a new process for each repeat, without which memory says nothing.
    """

    unit: Unit
    comparisons: tuple[Comparison, ...]
    fresh: bool = False


def _collection() -> Part:
    cube = {
        "width": 64, "height": 64, "env_type": "single", "ob_type": "states", "multiview": False,
        "visualize_info": False, "terminate_at_goal": False, "mode": "data_collection",
    }  # fmt: skip

    def ours(task: str, episodes: int) -> Request:
        return Request("collection", {"task": task, "episodes": episodes, "folder": "FOLDER"})

    def theirs(env: str, steps: int, options: dict[str, Any]) -> Request:
        settings = {"env": env, "steps": steps, "folder": "FOLDER", "options": options}
        return Request("collection", settings)

    reacher = {"our task": ours("reacher", 20), "their world": ours("dm_control:reacher-easy", 10)}
    cubes = {"our task": ours("cube", 10), "their world": ours("ogbench:cube-single-v0", 1)}
    return Part(
        "frames/s",
        (
            Comparison("reacher", theirs("swm/ReacherDMControl-v0", 50, {}), reacher),
            Comparison("cube", theirs("swm/OGBCube-v0", 10, cube), cubes),
        ),
    )


def _cem(iterations: int) -> dict[str, Any]:
    return {"kind": "cem", "horizon": 5, "samples": 300, "elites": 30, "iterations": iterations}


def _planning() -> Part:
    def comparison(environments: int, iterations: int) -> Comparison:
        images = {"environments": environments, "pixels": 224}
        same = {"environments": environments, "plans": 3, "planner": _cem(iterations)}
        ours = {
            "the same search": Request("planning", same),
            "our planner": Request("planning", {"environments": environments, "plans": 10}),
        }
        return Comparison(
            f"{environments} environment{'s' * (environments > 1)}, {iterations} iterations",
            Request("planning", images | {"iterations": iterations}),
            ours,
        )

    return Part("s", (comparison(1, 10), comparison(1, 30), comparison(4, 10)))


TRAIN = Request("training", {"folder": "FOLDER", "batch": 128, "updates": 3})


def _training() -> Part:
    def comparison(pixels: int, batch: int) -> Comparison:
        theirs = Request("training", {"pixels": pixels, "batch": batch})
        return Comparison(
            f"{pixels} pixels, batch {batch}", theirs, {"64 pixels, batch 128": TRAIN}
        )

    return Part("frames/s", (comparison(224, 8), comparison(64, 128)))


def _reading() -> Part:
    def comparison(frames: int, store: str) -> Comparison:
        ours = Request("reading", {"folder": "FOLDER", "frames": frames})
        theirs = Request("reading", ours.settings | {"store": store})
        return Comparison(f"{frames} frames, their {store}", theirs, {"our store": ours})

    stores = ("lance", "hdf5")
    return Part("windows/s", tuple(comparison(f, store) for f in (4, 16) for store in stores))


def _memory() -> Part:
    plan = {"environments": 1, "plans": 1, "planner": _cem(2)}
    theirs = {"environments": 1, "pixels": 224, "iterations": 2}
    search = {"the same search": Request("planning", plan)}
    return Part(
        "MB",
        (
            Comparison("import", Request("import"), {"import": Request("import")}),
            Comparison("planning", Request("planning", theirs), search),
            *(
                Comparison(f"training, {row.name}", row.theirs, row.ours)
                for row in _training().comparisons
            ),
        ),
        fresh=True,
    )


PARTS: dict[str, Part] = {
    "collection": _collection(),
    "planning": _planning(),
    "training": _training(),
    "reading": _reading(),
    "memory": _memory(),
}


@dataclass(frozen=True)
class PeersConfig:
    """Measure both sides in turns, and write a file for each part."""

    parts: tuple[str, ...] = tuple(PARTS)
    """Which; all by default."""
    repeats: int = 5
    """Turns of each side, after warming up."""
    threads: int = 1
    """Threads of each side, and cores that they may use."""
    clock: Clock = "wall"
    """Which seconds: `wall` for a quiet machine, `processor` where others compute beside."""
    peer: Path = PEER
    """Python of the environment that the peer is installed in."""
    out: Path = BENCHMARKS / "results"
    """Folder of the results."""

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            raise UserError(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
        for name in ("repeats", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")


def main(config: PeersConfig) -> None:
    """Measure one part after the other; each is written as soon as it is known.

    Raises:
        UserError: the peer is not installed, or a side stopped.
    """
    if not config.peer.exists():
        raise UserError(
            f"no peer to compare with: {config.peer} is not there; "
            "install it with: make .venv-peer/.installed"
        )
    where = machine()  # before this process keeps to its share of the cores
    _keep_to(config.threads)
    with tempfile.TemporaryDirectory() as name:
        sides = Sides(config.peer, config.threads, Path(name))
        if {"training", "reading", "memory"} & set(config.parts):
            sides.collect()
        for part in config.parts:
            result = measure(PARTS[part], sides, config.repeats, config.clock)
            if part == "training":
                result["minutes_to_success"] = minutes_to_success(result)
            write_json(
                config.out / f"{part}.json",
                result
                | {"versions": sides.versions, "machine": where, "command": command()}
                | {"threads": config.threads, "clock": config.clock},
            )
            for what, ratio in result["ratios"].items():
                console.print(f"{part:<12}{what:<62}{ratio:>9,.1f} x")


class Worker:
    """A process of one side, which answers requests."""

    def __init__(self, python: Path, script: Path, threads: int, messages: Path) -> None:
        self._messages = messages
        environment = os.environ | {
            **{"MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"), "LP_NUM_THREADS": "0"},
            **{"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"},
            **{"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"},
            "STABLEWM_HOME": str(messages.parent),
        }
        with messages.open("ab") as errors:
            self.process = subprocess.Popen(
                [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=environment, encoding="utf-8", cwd=ROOT,
            )  # fmt: skip
        self.versions: dict[str, str] = self._answer()["versions"]

    def ask(self, line: str) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            UserError: the process stopped instead.
        """
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the missing answer will say so
            self.process.stdin.write(line)
            self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Let the process end."""
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()  # it closes its answers before it says why
            said = self._messages.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((text for text in reversed(said) if text.strip()), "nothing")
            raise UserError(f"{self.process.args[1]} stopped; it said last: {last}")
        return json.loads(line)


class Sides:
    """Starts workers of either side.

    Attributes:
        folder: for whatever they write.
        versions: what is installed on each side, once each has been started.
    """

    def __init__(self, peer: Path, threads: int, folder: Path) -> None:
        self._pythons = {"ours": Path(sys.executable), "theirs": peer}
        self._threads = threads
        self.folder = folder
        self.versions: dict[str, dict[str, str]] = {}

    @contextmanager
    def worker(self, side: str) -> Iterator[Worker]:
        """Yield a new worker of `ours` or `theirs`, and end it afterwards."""
        script = BENCHMARKS / f"worker_{side}.py"
        messages = self.folder / f"{side}.log"
        worker = Worker(self._pythons[side], script, self._threads, messages)
        self.versions[side] = worker.versions
        try:
            yield worker
        finally:
            worker.close()

    def collect(self) -> None:
        """Collect what is trained on and read from."""
        with self.worker("ours") as worker:
            request = Request("data", {"folder": "FOLDER", "episodes": EPISODES})
            worker.ask(request.line(self.folder))


def measure(part: Part, sides: Sides, repeats: int, clock: Clock) -> dict[str, Any]:
    """Return figures, their repeats and the ratios of one part."""
    rows = []
    with ExitStack() as stack:
        workers = {}
        if not part.fresh:
            workers = {s: stack.enter_context(sides.worker(s)) for s in ("theirs", "ours")}
        for comparison in part.comparisons:
            asked = {None: ("theirs", comparison.theirs)}
            asked |= {label: ("ours", request) for label, request in comparison.ours.items()}
            found: dict[str | None, list[float]] = {label: [] for label in asked}
            for _ in range(min(repeats, FRESH_REPEATS) if part.fresh else repeats):
                for label, (side, request) in asked.items():
                    line = request.line(sides.folder)
                    if part.fresh:
                        with sides.worker(side) as worker:
                            answer = worker.ask(line)
                    else:
                        answer = workers[side].ask(line)
                    found[label].append(figure(answer, part.unit, clock))
            rows.append(
                {
                    "name": comparison.name,
                    "theirs": _summary(comparison.theirs, found[None]),
                    "ours": {k: _summary(v, found[k]) for k, v in comparison.ours.items()},
                }
            )
    return {"unit": part.unit, "rows": rows, "ratios": ratios(part.unit, rows)}


def figure(answer: Mapping[str, float], unit: Unit, clock: Clock) -> float:
    """Return what one repeat says, in the unit of its part."""
    if unit == "MB":
        return answer["peak_mb"]
    seconds = answer[f"{clock}_s"]
    return seconds / answer["count"] if unit == "s" else answer["count"] / seconds


def ratios(unit: Unit, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return how many times better our medians are than theirs, by what was compared."""
    found = {}
    for row in rows:
        theirs = row["theirs"]["median"]
        for label, ours in row["ours"].items():
            better = theirs / ours["median"] if unit in LOWER_IS_BETTER else ours["median"] / theirs
            found[f"{row['name']}: {label}"] = better
    return found


def minutes_to_success(training: dict[str, Any]) -> dict[str, Any]:
    """Return what the shipped reacher took, and what the peer's rate would make of its frames.

    Its success was not measured; the hours are those of one pass over all windows of four frames.
    """
    folder, remedy = ROOT / "pretrained" / "reacher", "run `make pretrained-reacher`"
    made = read_json(folder / "provenance.json", remedy)
    result = read_json(folder / "result.json", remedy)
    frames, rate = made["data"]["frames"], training["rows"][0]["theirs"]["median"]
    ours = {
        "minutes": made["minutes"],
        "held": result["success_at_end"],
        "machine": made["machine"],
    }
    hours = 4 * frames / rate / 3600
    return {
        "frames": frames,
        "ours": ours,
        "theirs": {"minutes": None, "extrapolated_hours_of_one_pass": hours},
    }


def _summary(request: Request, repeats: list[float]) -> dict[str, Any]:
    return {"median": median(repeats), "repeats": repeats, "settings": request.settings}


def _keep_to(cores: int) -> None:
    """Keep this process, and those that it starts, to the last so many of its cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


if __name__ == "__main__":
    raise SystemExit(run(main, PeersConfig))
