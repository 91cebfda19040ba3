"""Write what was measured into docs/performance.md, as tables between markers.

    python benchmarks/performance_page.py

Any page with the markers can be asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mujepa.benchmarks.markers import fill_markers
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("collection", "planning", "training", "reading", "memory")


@dataclass(frozen=True)
class PerformanceConfig:
    """Bring the tables of pages up to date."""

    pages: tuple[Path, ...] = (ROOT / "docs" / "performance.md", ROOT / "docs" / "scale.md")
    """Pages with markers, such as `<!-- peers -->` and `<!-- /peers -->`."""
    results: Path = RESULTS
    """Folder of what was measured."""


def main(config: PerformanceConfig) -> None:
    """Rewrite the pages."""
    for page in config.pages:
        write_text(page, filled(page.read_text(encoding="utf-8"), config.results))
        console.print(str(page))


def filled(text: str, results: Path) -> str:
    """Return a page with the content between its markers made anew.

    Raises:
        UserError: it has no markers, or something was not measured.
    """
    named = {name: make for name, make in MADE.items() if f"<!-- {name} -->" in text}
    if not named:
        raise UserError(
            f"the page has no markers; put <!-- {next(iter(MADE))} --> where it belongs"
        )
    return fill_markers(text, {name: make(results) for name, make in named.items()})


def table(results: Path) -> str:
    """Return the comparison with the peer as a Markdown table."""
    heads = ["", "ours", "stable-worldmodel", "ratio"]
    lines = [_line(heads), _line(["---", *["---:"] * 3])]
    for part in PARTS:
        result = _read(results, part)
        for row in result["rows"]:
            for label, ours in row["ours"].items():
                medians = (ours["median"], row["theirs"]["median"])
                figures = [_figure(median, result["unit"]) for median in medians]
                ratio = result["ratios"][f"{row['name']}: {label}"]
                name = f"**{part}**, {row['name']}: {label}"
                lines.append(_line([name, *figures, f"**{_number(ratio)} x**"]))
    lines.append(_success(_read(results, "training")))
    return "\n".join(lines)


def origin(results: Path) -> str:
    """Return a line for each part: versions, machine and clock; on a busy one it is preliminary."""
    lines = []
    for part in PARTS:
        result = _read(results, part)
        ours, theirs = result["versions"]["ours"], result["versions"]["theirs"]
        repeats = len(result["rows"][0]["theirs"]["repeats"])
        kind = "preliminary, medians" if result["clock"] != "wall" else "medians"
        lines.append(
            f"- {part}: {kind} of {repeats}, {result['clock']} time, {result['threads']} thread, "
            f"{result['machine']['processor']}; mujepa {ours['mujepa']} with torch {ours['torch']} "
            f"and MuJoCo {ours['mujoco']} beside stable-worldmodel {theirs['stable-worldmodel']} "
            f"with torch {theirs['torch']} and MuJoCo {theirs['mujoco']}"
        )
    return "\n".join(lines)


def limits(results: Path) -> str:
    """Return the roofs, and each stage's share of its own, as Markdown tables."""
    result = _read(results, "limits")
    roofs = [_line(["roof", "a second"]), _line(["---", "---:"])]
    for name, rate in result["roofs_per_second"].items():
        roofs.append(_line([name, f"{rate:.3g}"]))
    stages = [_line(["stage", "ms", "share", "of the roof"]), _line(["---", "---:", "---:", "---"])]
    for name, stage in result["stages"].items():
        share = f"**{stage['share']:.0%}**"
        stages.append(_line([name, f"{1000 * stage['seconds']:.1f}", share, stage["roof"]]))
    return "\n".join([*roofs, "", *stages, "", _where(result)])


def growth(results: Path) -> str:
    """Return how cost grows as a Markdown table."""
    result = _read(results, "growth")
    lines = [_line(["", "sizes", "ms", "exponent"]), _line(["---", "---", "---", "---:"])]
    for name, found in result["growth"].items():
        sizes = ", ".join(map(str, found["sizes"]))
        times = ", ".join(f"{1000 * seconds:.1f}" for seconds in found["seconds"])
        lines.append(_line([name, sizes, times, f"{found['exponent']:.2f}"]))
    return "\n".join([*lines, "", _where(result)])


def evaluation(results: Path) -> str:
    """Return how long evaluations take as a Markdown table."""
    result = _read(results, "evaluation")
    lines = [_line(["task", "seconds"]), _line(["---", "---:"])]
    lines += [_line([name, f"{row['seconds']:.0f}"]) for name, row in result["tasks"].items()]
    return "\n".join([*lines, "", _where(result)])


def workers(results: Path) -> str:
    """Return one sentence about what a second worker of a cluster brings."""
    result = _read(results, "cluster", "python benchmarks/cluster.py")
    collecting, judging = (
        result["ratios"][f"{what}, two workers over one"] for what in ("collection", "evaluation")
    )
    return (
        f"Two workers of Ray on two cores are {collecting:.2f} times as fast as one in collection "
        f"and {judging:.2f} times in evaluation. {_where(result)}"
    )


def outsized(results: Path) -> str:
    """Return one sentence about training from more data than memory."""
    result = _read(results, "outsized", "sudo python benchmarks/outsized.py")
    data, peak, limit = (result[f"{name}_bytes"] / 2**30 for name in ("data", "peak", "limit"))
    return (
        f"{data:.1f} GiB of data, {limit:.1f} GiB of memory, page cache included, of which at most "
        f"{peak:.2f} were used: {result['seconds']['limited']:.0f} s in place of "
        f"{result['seconds']['free']:.0f} without the limit. {_where(result)}"
    )


def _where(result: dict[str, Any]) -> str:
    return f"Measured on {result['machine']['processor']}, torch {result['versions']['torch']}."


def _success(training: dict[str, Any]) -> str:
    found = training["minutes_to_success"]
    hours = found["theirs"]["extrapolated_hours_of_one_pass"]
    ours = f"{found['ours']['minutes']:.1f} min, {found['ours']['held']['rate']:.3f} held"
    theirs = (
        f"not measured; one pass over the windows of the same {found['frames']:,} frames: "
        f"{hours:,.1f} h, extrapolated from the rate at 224 pixels"
    )
    return _line(["**training to success**, reacher", ours, theirs, ""])


def _read(results: Path, part: str, how: str = "make bench") -> dict[str, Any]:
    return read_json(results / f"{part}.json", f"measure it with: {how}")


def _figure(value: float, unit: str) -> str:
    if unit == "s":
        return f"{1000 * value:,.1f} ms" if value < 1 else f"{_number(value)} s"
    return f"{_number(value)} {unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


MADE: dict[str, Callable[[Path], str]] = {
    **{"peers": table, "peers-origin": origin},
    **{"limits": limits, "growth": growth, "outsized": outsized},
    **{"evaluation": evaluation, "workers": workers},
}
"""What is made for which markers."""

if __name__ == "__main__":
    raise SystemExit(run(main, PerformanceConfig))
