"""`mujepa compare`: pair results on common episodes, and aggregate over training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from mujepa.evaluation.comparison import Comparison, compare_all, write_comparison
from mujepa.evaluation.result import Result, read_result
from mujepa.runtime import console
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import make_folder, write_json
from mujepa.runtime.provenance import command, versions
from mujepa.runtime.settings import settings


@settings
class CompareConfig:
    """Compare results of `mujepa evaluate`: checkpoints, planners, costs, training seeds.

    Each result is paired with the first one that has episodes in common: how many episodes only one
    of the two held, and McNemar's exact test. The interquartile mean of all success rates has a
    bootstrap interval. Writes comparison.json and comparison.html.
    """

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Each a result.json, or the folder of an evaluation, a training run or a checkpoint."""
    out: Path = Path("comparison")
    """Folder of the comparison."""

    def __post_init__(self) -> None:
        if len(self.results) < 2:
            raise UserError(
                f"a comparison needs at least two results, got {len(self.results)}; "
                "mujepa evaluate makes them"
            )


def compare(config: CompareConfig) -> None:
    """Make the comparison that a configuration describes; see `mujepa compare --help`."""
    found = write_pages(config.out, [(str(path), read_result(path)) for path in config.results])
    _print(found)
    console.print(f"{config.out / 'comparison.html'}  {config.out / 'comparison.json'}")


def write_pages(
    folder: Path, named: Sequence[tuple[str, Result]], headline: str = ""
) -> Comparison:
    """Write comparison.html and comparison.json of some results, and return the comparison."""
    found = compare_all(named)
    make_folder(folder)
    write_comparison(folder / "comparison.html", found, command(), headline)
    provenance = {"command": command(), "versions": versions()}
    write_json(folder / "comparison.json", asdict(found) | provenance)
    return found


def _print(found: Comparison) -> None:
    width = max(len(row.name) for row in found.results) + 2
    for row in found.results:
        line = f"{row.name:<{width}}{row.env:<16}{row.success_at_end!s:<24}"
        if test := row.paired:
            line += (
                f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}] on {row.common} "
                f"episodes, +{test.gained} -{test.lost}, p {test.p_value:.2g}"
            )
        console.print(line.rstrip())
    console.print(found.pairing)
    console.print(
        f"interquartile mean over {len(found.results)} results of {found.tasks} "
        f"task{'s' * (found.tasks > 1)}: {found.interquartile_mean}"
    )
