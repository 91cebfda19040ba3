"""report.html: one self-contained page about one evaluation."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mujepa.runtime.files import replacing_file, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mujepa.envs.task import Task
    from mujepa.evaluation.loop import Outcome

TEMPLATE = Path(__file__).with_name("report.html")
COLOURS = {
    "agent": "#3b6fe0", "oracle": "#2f9e6e", "reactive": "#8a5cd6", "latent_l2": "#e0913b",
    "random": "#98a2b3",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A part of a report: `name` of its picture's file, title, text and figure."""

    name: str
    title: str
    text: str
    figure: Figure


def write_png(path: Path, figure: Figure) -> None:
    """Write a figure as a picture, whole or not at all; the same figure gives the same bytes."""
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def svg(figure: Figure) -> str:
    """Return a figure as an element of a page; the same figure gives the same text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "mujepa"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]


def write_report(
    path: Path,
    task: Task,
    result: dict[str, Any],
    outcomes: dict[str, Outcome],
    episodes: list[dict[str, Any]],
    provenance: dict[str, Any],
    metrics: list[dict[str, Any]],
    lab: Sequence[Section] = (),
) -> None:
    """Write the page.

    Args:
        path: of the page.
        task: that was judged.
        result: what result.json holds.
        outcomes: what happened, by who acted; `agent` first.
        episodes: to show: `index`, `distance`, `held`, and the path of a `film` of each.
        provenance: of the checkpoint.
        metrics: records of its training; none if they are not at hand.
        lab: what the lab found.
    """
    shown = [
        episode
        | {
            "film": base64.b64encode(episode["film"].read_bytes()).decode(),
            "distance": task.text(episode["distance"]),
        }
        for episode in episodes
    ]
    plan = result["plan_ms"]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        result=result,
        tolerance=task.text(task.tolerance),
        rows=_rows(task, outcomes),
        bars=_bars(outcomes),
        distances=_distances(task, outcomes),
        training=_training(metrics) if metrics else "",
        lab=[
            {"title": section.title, "text": section.text, "figure": svg(section.figure)}
            for section in lab
        ],
        episodes=shown,
        command=result["command"],
        provenance={"command": "unknown"} | provenance,
        planner=_pairs(result["planner"]),
        plan_ms=f"{plan['median']:.1f} ms median, {plan['p95']:.1f} ms at the 95th percentile "
        "(one environment, one thread)"
        if plan
        else "not measured",
        versions=_pairs(result["versions"]),
        machine=_pairs(result["machine"]),
    )
    write_text(path, page)


def _rows(task: Task, outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    def rate(value: dict[str, float]) -> str:
        return f"{value['rate']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"

    rows = []
    for name, outcome in outcomes.items():
        summary = asdict(outcome.summary())
        rows.append(
            {
                "name": name.replace("_", " "),
                "main": name == "agent",
                "episodes": summary["episodes"],
                "end": rate(summary["success_at_end"]),
                "any": rate(summary["success_any"]),
                "distance": task.text(summary["median_final_distance"]),
            }
        )
    return rows


def _bars(outcomes: dict[str, Outcome]) -> str:
    figure = Figure(figsize=(9.6, 0.45 * len(outcomes) + 0.7), layout="constrained")
    axes = figure.subplots()
    for row, (name, outcome) in enumerate(outcomes.items()):
        rate = asdict(outcome.summary())["success_at_end"]
        errors = [[rate["rate"] - rate["low"]], [rate["high"] - rate["rate"]]]
        axes.barh(row, rate["rate"], xerr=errors, height=0.6, color=_colour(name), capsize=3)
    axes.set(xlim=(0, 1.02), xlabel="success held at the end", yticks=range(len(outcomes)))
    axes.set_yticklabels([name.replace("_", " ") for name in outcomes])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _distances(task: Task, outcomes: dict[str, Outcome]) -> str:
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, outcome in outcomes.items():
        steps = np.arange(1, outcome.distance.shape[1] + 1)
        quantiles = np.quantile(outcome.distance, [0.1, 0.5, 0.9], axis=0)
        low, middle, high = task.per_unit * quantiles
        axes.plot(steps, middle, color=_colour(name), label=name.replace("_", " "))
        if name == "agent":
            axes.fill_between(steps, low, high, color=_colour(name), alpha=0.15, linewidth=0)
    axes.axhline(task.per_unit * task.tolerance, color="#1d2330", ls="--", lw=0.8)
    axes.set(xlabel="environment step", ylabel=f"distance [{task.unit}]", xlim=(1, None))
    axes.set(ylim=(0, None))
    axes.legend(frameon=False, ncols=3, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _training(metrics: list[dict[str, Any]]) -> str:
    open_loop = [key for key in metrics[0] if key.startswith("open_loop_")]
    panels = [
        ("world model", ["prediction", "inverse_dynamics"], "losses"),
        ("world model", open_loop, "open-loop error / frozen world"),
        (None, ["distance_correlation", "candidate_ranking"], "rank correlation with simulator"),
    ]
    if metrics[0]["stage"] != "world model":  # it was taken from elsewhere
        panels = panels[2:]
    figure = Figure(figsize=(3.2 * len(panels), 3), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (stage, names, title) in zip(all_axes, panels, strict=True):
        for name in names:
            records = [r for r in metrics if name in r and stage in (None, r["stage"])]
            values: NDArray[np.float64] = np.array([r[name] for r in records])
            axes.plot([r["seconds"] / 60 for r in records], values, label=name.replace("_", " "))
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("minutes", fontsize=9)
        axes.legend(frameon=False, fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if stage is not None:
            axes.set_yscale("log")
    return svg(figure)


def _colour(name: str) -> str:
    return COLOURS.get(name, "#c4c9d4")


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
