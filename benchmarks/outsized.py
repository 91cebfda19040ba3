"""Train from a dataset ten times as large as the memory there is.

    sudo python benchmarks/outsized.py [--gib N] [--data FOLDER] [--out FILE]

Linux's control groups give the training so much memory and no more, page cache included (that takes
root, and a machine that lets it make groups); its dataset is collected first, ten times as large.
The training is then run again without a limit, for comparison.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mujepa.envs.registry import find_task
from mujepa.rollouts.collection import make_spec
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import write_json
from mujepa.runtime.provenance import machine, versions

TIMES = 10
UPDATES = {"updates": 300, "critic-updates": 200, "ensemble-updates": 200, "actor-updates": 100}
FIRST, SECOND = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
"""Where the two versions of control groups are found."""


@dataclass(frozen=True)
class OutsizedConfig:
    """Train within a limit of memory on ten times as much data, and write what it took as JSON."""

    gib: float = 1.0
    """Memory that the training is given [GiB]."""
    data: Path = Path("data/outsized")
    """Where the data are, or will be; they stay there."""
    out: Path = Path("benchmarks/results/outsized.json")
    """The result."""


def outsized(config: OutsizedConfig) -> None:
    """Collect, train twice, write.

    Raises:
        UserError: groups cannot be made here, or the training needs more memory.
    """
    limit = int(config.gib * 2**30)
    recipe = make_spec("reacher", 0)
    pixels = 3 * recipe.image_size**2 * (recipe.steps + 1)
    episodes = str(-(-TIMES * limit // pixels))
    with memory_group(limit) as group:
        mujepa = [sys.executable, "-m", "mujepa.cli"]
        subprocess.run(
            [*mujepa, "collect", find_task("reacher").name, "--out", config.data,
             "--episodes", episodes], check=True,
        )  # fmt: skip
        size = sum(path.stat().st_size for path in config.data.rglob("*.npy"))
        flags = [word for name, count in UPDATES.items() for word in (f"--{name}", str(count))]
        seconds = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, join in (("limited", f"echo $$ > {group}/cgroup.procs; "), ("free", "")):
                train = [*mujepa, "train", "reacher", "--data", config.data, "--episodes", episodes]
                began = time.perf_counter()
                ended = subprocess.run(
                    ["sh", "-c", f'{join}exec "$@"', "-", *train, *flags,
                     "--out", Path(folder) / name],
                )  # fmt: skip
                if ended.returncode:
                    raise UserError(
                        f"the training with {name} memory ended with {ended.returncode} (-9: it "
                        f"needs more than {config.gib:g} GiB)"
                    )
                seconds[name] = round(time.perf_counter() - began, 1)
        peak = _read(group, "memory.max_usage_in_bytes", "memory.peak")
    result = {
        "limit_bytes": limit,
        "peak_bytes": peak,
        "data_bytes": size,
        "seconds": seconds,
        "updates": UPDATES,
        "ratios": {
            "data over memory": size / limit,
            "speed within the limit over without": seconds["free"] / seconds["limited"],
        },
    }
    write_json(config.out, result | {"versions": versions(), "machine": machine()})
    console.print(
        f"trained from {size / 2**30:.1f} GiB within {config.gib:g} GiB in {seconds['limited']} s; "
        f"without a limit in {seconds['free']} s"
    )


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Yield a control group with a limit of memory [bytes], page cache included."""
    version = FIRST if FIRST.is_dir() else SECOND
    group = version / f"mujepa-{os.getpid()}"
    try:
        group.mkdir()
        name = "memory.limit_in_bytes" if version is FIRST else "memory.max"
        (group / name).write_text(str(limit))
    except OSError as error:
        raise UserError(
            f"cannot make a control group in {version} ({error.strerror}); run it as root, outside "
            "of a container"
        ) from error
    try:
        yield group
    finally:
        group.rmdir()


def _read(group: Path, *names: str) -> int:
    found = [group / name for name in names if (group / name).exists()]
    return int(found[0].read_text()) if found else 0


if __name__ == "__main__":
    raise SystemExit(run(outsized, OutsizedConfig))
