"""Two workers of Ray over one, in collection and in evaluation, on this machine.

    python benchmarks/cluster.py [--out FILE]

Ray is started once, and the workers have imported what they need before anything is timed; one and
two of them take turns. Needs two idle cores. The goal is 1.6 times as fast.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

from timing import alternate, medians

from mujepa.evaluation.config import EvaluateConfig
from mujepa.evaluation.loop import split
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.runner import build, run_shard
from mujepa.rollouts.collection import collect_shards, make_spec
from mujepa.runtime import console
from mujepa.runtime.cluster import Cluster, connect
from mujepa.runtime.command import run
from mujepa.runtime.files import write_json
from mujepa.runtime.provenance import machine, versions

ROOT = Path(__file__).parents[1]
EPISODES, JUDGED, REPEATS = 2000, 400, 3
"""Episodes that are collected, episodes that the shipped agent runs, and how often."""


@dataclass(frozen=True)
class ClusterConfig:
    """Measure what a second worker brings, and write it as JSON."""

    out: Path = ROOT / "benchmarks" / "results" / "cluster.json"
    """The result."""


def cluster(config: ClusterConfig) -> None:
    """Measure, print and write."""
    with ExitStack() as stack:
        began = time.perf_counter()
        stack.enter_context(connect("local", 2))
        start = time.perf_counter() - began
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {count: Cluster(count) for count in (2, 1)}  # two first: both warm up
        collecting = {f"{n} workers": _collect(one, folder) for n, one in workers.items()}
        judging = {f"{n} workers": _judge(one) for n, one in workers.items()}
        seconds = {
            "collection": medians(alternate(collecting, REPEATS)),
            "evaluation": medians(alternate(judging, REPEATS)),
        }
    ratios = {
        f"{what}, two workers over one": spent["1 workers"] / spent["2 workers"]
        for what, spent in seconds.items()
    }
    for name, ratio in ratios.items():
        console.print(f"{name:<40}{ratio:.2f}")
    result = {"seconds": seconds, "start_of_ray_s": start, "ratios": ratios}
    write_json(config.out, result | {"versions": versions(), "machine": machine()})


def _collect(workers: Cluster, folder: Path) -> Callable[[], None]:
    def once() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            recipe = make_spec("reacher", 0)
            for _ in collect_shards(Path(fresh) / "data", recipe, EPISODES, workers):
                pass

    return once


def _judge(workers: Cluster) -> Callable[[], None]:
    config = EvaluateConfig(ROOT / "pretrained" / "reacher", device="cpu")
    manifest = make_manifest(build(config, threads=1).world, JUDGED, 0)
    pieces = [(config, "agent", part) for part in split(manifest)]

    def once() -> None:
        for _ in workers.map(run_shard, pieces):
            pass

    return once


if __name__ == "__main__":
    raise SystemExit(run(cluster, ClusterConfig))
