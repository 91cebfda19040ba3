"""report.html: a self-contained page about one evaluation."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mujepa.envs.task import Task
from mujepa.evaluation.loop import Outcome
from mujepa.evaluation.result import Result
from mujepa.runtime.files import replacing_file, write_text

COLOURS = {
    "agent": "#3b6fe0", "oracle": "#2f9e6e", "reactive": "#8a5cd6", "latent_l2": "#e0913b",
    "random": "#98a2b3", "zero": "#c4c9d4",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A part of a report: file name of its figure, title, text and figure."""

    name: str
    title: str
    text: str
    figure: Figure


@dataclass(frozen=True)
class Film:
    """The video of an episode, with its index, final distance and success."""

    index: int
    path: Path
    distance: float
    held: bool


def write_png(path: Path, figure: Figure) -> None:
    """Write a figure as .png, whole or not at all; the same figure gives the same bytes."""
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def svg(figure: Figure) -> str:
    """Return a figure as an element of a page; the same figure gives the same text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "mujepa"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_page(path: Path, template: str, **values: object) -> None:
    """Write a self-contained page from a template of this folder."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(Path(__file__).with_name(template).read_text(encoding="utf-8"))
    write_text(path, page.render(values))


def plot(height: float = 3.2) -> tuple[Figure, Axes]:
    """Return a figure as wide as a page, and its axes."""
    figure = Figure(figsize=(9.6, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a chart, the first one on top."""
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)


def write_report(
    path: Path,
    task: Task,
    result: Result,
    outcomes: Mapping[str, Outcome],
    films: Sequence[Film],
    provenance: dict[str, Any],
    metrics: list[dict[str, Any]],
    lab: Sequence[Section] = (),
) -> None:
    """Write the page.

    `provenance` is that of the checkpoint, `metrics` are the records of its training, if any.
    """
    videos = [base64.b64encode(film.path.read_bytes()).decode() for film in films]
    write_page(
        path,
        "report.html",
        result=result,
        text=task.text,
        bars=_bars(result),
        distances=_distances(task, outcomes),
        training=_training(metrics) if metrics else "",
        lab=[(section.title, section.text, svg(section.figure)) for section in lab],
        films=list(zip(films, videos, strict=True)),
        provenance={"command": "unknown"} | provenance,
    )


def _bars(result: Result) -> str:
    policies = result.policies
    figure, axes = plot(0.45 * len(policies) + 0.7)
    for row, (name, summary) in enumerate(policies.items()):
        rate = summary.success_at_end
        axes.barh(row, rate.rate, xerr=rate.errors, height=0.6, color=COLOURS[name], capsize=3)
    axes.set(xlim=(0, 1.02), xlabel="success held at the end", yticks=range(len(policies)))
    axes.set_yticklabels([name.replace("_", " ") for name in policies])
    axes.invert_yaxis()
    return svg(figure)


def _distances(task: Task, outcomes: Mapping[str, Outcome]) -> str:
    figure, axes = plot()
    for name, outcome in outcomes.items():
        steps = np.arange(1, outcome.distance.shape[1] + 1)
        quantiles = np.quantile(outcome.distance, [0.1, 0.5, 0.9], axis=0)
        low, middle, high = task.per_unit * quantiles
        axes.plot(steps, middle, color=COLOURS[name], label=name.replace("_", " "))
        if name == "agent":
            axes.fill_between(steps, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
    axes.axhline(task.per_unit * task.tolerance, color="#1d2330", ls="--", lw=0.8)
    axes.set(xlabel="environment step", ylabel=f"distance [{task.unit}]", xlim=(1, None))
    axes.set(ylim=(0, None))
    axes.legend(frameon=False, ncols=3, loc="upper right")
    return svg(figure)


def _training(metrics: list[dict[str, Any]]) -> str:
    open_loop = [key for key in metrics[0] if key.startswith("open_loop_")]
    panels = [
        ("world model", ["prediction", "inverse_dynamics"], "losses"),
        ("world model", open_loop, "open-loop error / frozen world"),
        (None, ["distance_correlation", "candidate_ranking"], "rank correlation with simulator"),
    ]
    if metrics[0]["stage"] != "world model":  # the run began with another's world model
        panels = panels[2:]
    figure = Figure(figsize=(3.2 * len(panels), 3), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (stage, names, title) in zip(all_axes, panels, strict=True):
        for name in names:
            records = [r for r in metrics if name in r and stage in (None, r["stage"])]
            minutes = [record["seconds"] / 60 for record in records]
            axes.plot(minutes, [r[name] for r in records], label=name.replace("_", " "))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("minutes", fontsize=9)
        axes.legend(frameon=False, fontsize=7)
        if stage is not None:
            axes.set_yscale("log")
    return svg(figure)
