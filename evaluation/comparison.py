"""Comparison of results: pairs on common episodes, and one figure over training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mujepa.evaluation.report import name_rows, plot, svg, write_page
from mujepa.evaluation.result import Result
from mujepa.evaluation.statistics import Paired, Rate, interquartile_mean, paired, rate_of


@dataclass(frozen=True)
class Row:
    """One result: its name, what describes it, and the comparison on common episodes.

    `against` names the first result that has episodes in common, `common` is their number.
    """

    name: str
    env: str
    checkpoint: str
    weights: str
    seed: int
    manifest: str
    episodes: int
    actor: str
    planner: str
    cost: str
    success_at_end: Rate
    success_any: Rate
    against: str | None = None
    common: int = 0
    paired: Paired | None = None


@dataclass(frozen=True)
class Comparison:
    """A row for each result, the interquartile mean of all, and the number of tasks."""

    results: list[Row]
    interquartile_mean: Rate
    tasks: int

    @property
    def pairing(self) -> str:
        """A sentence on how many of the results are paired."""
        count = sum(row.paired is not None for row in self.results)
        if not count:
            return "No two results have episodes in common, so none are paired."
        verb = "is" if count == 1 else "are"
        return (
            f"{count} of {len(self.results)} results {verb} paired with the first one that has "
            "episodes in common."
        )


def compare_all(named: Sequence[tuple[str, Result]]) -> Comparison:
    """Pair each result with the first one that has episodes in common, and aggregate all."""
    rows, runs = [], {}
    for index, (name, result) in enumerate(named):
        row = Row(
            name, result.env, result.checkpoint, result.weights, result.seed, result.manifest,
            result.episodes, result.actor, str(result.planner["kind"]), result.cost,
            rate_of(result.held), result.success_any, *_pair(result, named[:index]),
        )  # fmt: skip
        rows.append(row)
        runs.setdefault(result.env, []).append(result.held)
    return Comparison(rows, interquartile_mean(list(runs.values())), len(runs))


def common_episodes(one: Result, other: Result) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices in each of two results of the episodes that both ran."""
    none = np.zeros(0, np.int64)
    for name in ("env", "budget_steps", "tolerance", "hold_steps", "variation"):
        if getattr(one, name) != getattr(other, name):
            return none, none
    if one.manifest == other.manifest:
        return np.arange(one.episodes), np.arange(other.episodes)
    mine, theirs = one.by_episode.digest, other.by_episode.digest
    if mine is None or theirs is None:
        return none, none
    _, first, second = np.intersect1d(mine, theirs, return_indices=True)
    return first, second


def _pair(
    result: Result, before: Sequence[tuple[str, Result]]
) -> tuple[str | None, int, Paired | None]:
    for name, reference in before:
        mine, theirs = common_episodes(result, reference)
        if len(mine):
            return name, len(mine), paired(result.held[mine], reference.held[theirs])
    return None, 0, None


def write_comparison(path: Path, found: Comparison, command: str, headline: str = "") -> None:
    """Write a self-contained page, with the command that made it."""
    values = {"found": found, "bars": svg(_bars(found)), "command": command}
    write_page(path, "comparison.html", **values, headline=headline)


def _bars(found: Comparison) -> Figure:
    rows, mean = found.results, found.interquartile_mean
    figure, axes = plot(0.45 * len(rows) + 0.9)
    for index, row in enumerate(rows):
        rate = row.success_at_end
        axes.errorbar(rate.rate, index, xerr=rate.errors, fmt="o", color="#3b6fe0", capsize=3)
    axes.axvspan(mean.low, mean.high, color="#98a2b3", alpha=0.25, linewidth=0)
    axes.axvline(mean.rate, color="#98a2b3", lw=1)
    axes.set(xlim=(-0.02, 1.02), xlabel="success held at the end")
    name_rows(axes, [row.name for row in rows])
    return figure
