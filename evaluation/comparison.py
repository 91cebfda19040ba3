"""Results beside each other: pairs on the same episodes, and one figure over training seeds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from mujepa.evaluation.report import svg
from mujepa.evaluation.statistics import interquartile_mean, paired, success_rate
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEMPLATE = Path(__file__).with_name("comparison.html")
REMEDY = "make it with: mujepa evaluate CHECKPOINT"


@dataclass(frozen=True)
class Judged:
    """One evaluation.

    Attributes:
        name: the path that was given.
        result: its result.json.
    """

    name: str
    result: dict[str, Any]

    @property
    def held(self) -> NDArray[np.bool_]:
        """Which episodes were held, (E,)."""
        return np.array(self.result["by_episode"]["held"], bool)

    @property
    def episodes(self) -> tuple[str, Any]:
        """What makes two evaluations comparable: the task and its episodes."""
        kept = ("manifest", "budget_steps", "tolerance", "hold_steps")
        varied = str(self.result.get("variation"))
        return self.result["env"], (*(self.result[key] for key in kept), varied)

    @property
    def about(self) -> dict[str, Any]:
        """What was judged, and how."""
        kept = ("env", "checkpoint", "weights", "seed", "manifest", "episodes", "actor", "cost")
        return {key: self.result[key] for key in kept} | {"planner": self.result["planner"]["kind"]}


def read_judged(path: Path) -> Judged:
    """Read the result that a path means: itself, or that of a folder's evaluation.

    Raises:
        UserError: there is none, or it is not one of `mujepa evaluate`.
    """
    places = (path, path / "result.json", path / "evaluation" / "result.json")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(f"no result.json in {path}; {REMEDY}")
    result = read_json(file, REMEDY)
    try:
        judged = Judged(str(path), result)
        complete = len(judged.held) == result["episodes"] and judged.episodes
        complete = complete and result["success_at_end"]["rate"] == judged.held.mean()
        complete = complete and 0 <= result["success_any"]["rate"] <= 1 and judged.about
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no result of mujepa evaluate ({error}); {REMEDY}") from error
    if not complete:
        raise UserError(f"{file} is damaged: its episodes do not give its success; {REMEDY}")
    return judged


def compare_all(judged: list[Judged]) -> dict[str, Any]:
    """Compare all with the first on the same episodes, and put all into one figure.

    Returns:
        `results`, a row for each: what was judged, its success, and `paired`, None for those that
        are the first or the only one on their episodes; `interquartile_mean` over all of them,
        `tasks`, how many those are of.
    """
    first: dict[Any, Judged] = {}
    runs: dict[str, list[NDArray[np.bool_]]] = {}
    rows = []
    for one in judged:
        reference = first.setdefault(one.episodes, one)
        test = None if reference is one else asdict(paired(one.held, reference.held))
        row = {"name": one.name} | one.about
        row["success_at_end"] = asdict(success_rate(int(one.held.sum()), len(one.held)))
        row["success_any"] = one.result["success_any"]
        row["against"] = None if reference is one else reference.name
        rows.append(row | {"paired": test})
        runs.setdefault(one.result["env"], []).append(one.held)
    mean = interquartile_mean(list(runs.values()))
    return {"results": rows, "interquartile_mean": asdict(mean), "tasks": len(runs)}


def write_comparison(
    path: Path, judged: list[Judged], found: dict[str, Any], headline: str = ""
) -> None:
    """Write the page of what `compare_all` found, one self-contained file.

    Args:
        path: of the page.
        judged: what was compared.
        found: what came of it.
        headline: a sentence to begin with.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        found=found, bars=svg(_bars(found)), count=len(judged), headline=headline
    )
    write_text(path, page)


def _bars(found: dict[str, Any]) -> Figure:
    rows = found["results"]
    figure = Figure(figsize=(9.6, 0.45 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    for index, row in enumerate(rows):
        rate = row["success_at_end"]
        spread = [[rate["rate"] - rate["low"]], [rate["high"] - rate["rate"]]]
        axes.errorbar(rate["rate"], index, xerr=spread, fmt="o", color="#3b6fe0", capsize=3)
    mean = found["interquartile_mean"]
    axes.axvspan(mean["low"], mean["high"], color="#98a2b3", alpha=0.25, linewidth=0)
    axes.axvline(mean["rate"], color="#98a2b3", lw=1)
    axes.set(xlim=(-0.02, 1.02), xlabel="success held at the end")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
