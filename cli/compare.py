"""Compare evaluations: episode by episode where they share them, and over training seeds."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mujepa.evaluation.comparison import Judged, compare_all, read_judged, write_comparison
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import make_folder, write_json
from mujepa.runtime.provenance import command, versions


@dataclass(frozen=True)
class CompareConfig:
    """Compare results of `mujepa evaluate`: checkpoints, planners, costs, training seeds.

    All on the same episodes of a task are paired with the first of them: how many episodes only one
    of the two held, and McNemar's exact test. Over all of them stands the interquartile mean of the
    success, with a bootstrap interval. Writes comparison.json and comparison.html.
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
    """Make the comparison that a configuration describes; see `mujepa compare --help`.

    Raises:
        UserError: a result is missing, damaged or made twice, or the results cannot be written.
    """
    judged = [read_judged(path) for path in config.results]
    found = compare_all(judged) | {"command": command(), "versions": versions()}
    make_folder(config.out)
    write_comparison(config.out / "comparison.html", judged, found)
    write_json(config.out / "comparison.json", found)
    _print(judged, found)
    console.print(f"{config.out / 'comparison.html'}  {config.out / 'comparison.json'}")


def _print(judged: list[Judged], found: dict[str, Any]) -> None:
    width = max(len(one.name) for one in judged) + 2
    for one, row in zip(judged, found["results"], strict=True):
        rate, test = row["success_at_end"], row["paired"]
        said = f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"
        against = ""
        if test:
            against = (
                f"{test['difference']:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}], "
                f"+{test['gained']} -{test['lost']}, p {test['p_value']:.2g}"
            )
        console.print(f"{one.name:<{width}}{row['env']:<16}{said:<24}{against}")
    mean = found["interquartile_mean"]
    console.print(
        f"interquartile mean over {len(judged)} results of {found['tasks']} tasks: "
        f"{mean['rate']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]"
    )


if __name__ == "__main__":
    sys.exit(run(compare, CompareConfig))
