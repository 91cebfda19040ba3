"""Figures of the study's results, with a short text for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mujepa.evaluation.report import Section, name_rows, plot

BLUE, GREEN, ORANGE, RED, GREY = "#3b6fe0", "#2f9e6e", "#e0913b", "#c8453b", "#98a2b3"
CAUSES = {
    "luck": "luck: other random numbers rescue most of them",
    "search": "the search: more candidates help, or not even the oracle succeeds",
    "cost": "the cost: the distance to the goal in the task's own quantities rescues them",
    "dynamics": "the world model's dynamics: true dynamics rescue them",
    "data": "the data: the world model is wrong in states that the data do not contain",
    "representation": "the representation: true dynamics and a true cost do not help if they see "
    "through the encoder, but the true state does",
}
EVENTS = {"teleport": RED, "freeze": BLUE, "ghost": GREEN, "colour": ORANGE, "possible": GREY}


def sections(lab: dict[str, Any]) -> list[Section]:
    """Return the figures of the parts that have results."""
    made = [draw(lab[name]) for name, draw in DRAW if lab.get(name)]
    return [section for section in made if section is not None]


def _paired(found: dict[str, Any]) -> Section:
    figure, axes = _intervals(found, "difference", [BLUE] * len(found))
    for place, test in enumerate(found.values()):
        p = f"{test['p_value']:.2f}" if test["p_value"] >= 0.01 else f"{test['p_value']:.0e}"
        text = f"+{test['gained']} -{test['lost']} of {test['episodes']}, p {p}"
        axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", size=8)
    axes.axvline(0, color=GREY, lw=0.8)
    axes.set(xlim=(-1.05, 1.05), xlabel="difference in success (agent - baseline)")
    text = (
        "The agent and each baseline on the same episodes. +: only the agent succeeds; -: only the "
        "baseline does; p: McNemar's exact test."
    )
    return Section("paired", "Agent and baselines, episode by episode", text, figure)


def _distance(found: list[dict[str, Any]]) -> Section:
    key, label, text = "remaining", "distance to the goal at the start", "Quarters of the episodes"
    if "goal_steps" in found[0]:
        key, label = "goal_steps", "environment steps from start to goal"
        text = "Goals farther ahead, with a proportional budget"
    text = f"{text}; {found[0]['episodes']} episodes each."
    return Section("distance", "Near and far goals", text, _rates(found, key, label))


def _replan(found: list[dict[str, Any]]) -> Section:
    text = f"Longer periods between plans; {found[0]['episodes']} episodes each."
    figure = _rates(found, "replan_every", "model steps between plans")
    return Section("replan", "Planning less often", text, figure)


def _factors(found: list[dict[str, Any]]) -> Section:
    rows = {f"{row['factor']} {row['value']:g}": row for row in found}
    colours = [ORANGE if row["kind"] == "visual" else BLUE for row in found]
    text = (
        "Worlds in which one factor differs from training: appearance in orange, physics in blue. "
        f"The same {found[0]['episodes']} starts and goals each."
    )
    return Section("factors", "Other worlds", text, _intervals(rows, "rate", colours)[0])


def _published_protocol(found: dict[str, Any]) -> Section:
    kinds = {"success_any": "reached", "success_at_end": "held at the end"}
    rows = {f"{n}, {kinds[k]}": found[n][k] for n in ("agent", "random") for k in kinds}
    text = (
        "LeWorldModel's protocol: start and goal 25 steps apart on a held-out trajectory, 50 steps "
        f"to reach the goal at any time; n = {found['agent']['episodes']}. "
        f"{found['already_solved']['rate']:.1%} of the starts are solved before the first step."
    )
    figure, _ = _intervals(rows, "rate", [BLUE, BLUE, GREY, GREY])
    return Section("lewm", "By the protocol of published tables", text, figure)


def _attribution(found: dict[str, Any]) -> Section | None:
    if not found["failures"]:
        return None
    figure, axes = _intervals(found["rescued"], "rate", [BLUE] * len(found["rescued"]))
    axes.set(xlabel=f"share of {found['failures']} failures that succeed")
    text = (
        "Failed episodes again, with one part replaced by a true one. The most frequent cause is "
        f"{CAUSES[found['cause']]}. The error of the world model in these episodes is "
        f"{found['unfamiliar']:.1f} times that in held-out ones."
    )
    return Section("attribution", "Causes of failure", text, figure)


def _ranking(found: dict[str, Any]) -> Section:
    figure, axes = plot()
    example, best = found["example"], int(np.argmin(found["example"]["cost"]))
    axes.scatter(example["nearest"], example["cost"], s=9, color=BLUE, alpha=0.6, linewidths=0)
    axes.scatter(example["nearest"][best], example["cost"][best], s=60, color=RED, marker="*")
    axes.set(xlabel="smallest distance to the goal, in the simulator", ylabel="the planner's cost")
    low, middle, high = found["rank"]
    text = (
        f"{found['bank']} action sequences of {found['horizon']} model steps in each of "
        f"{found['problems']} problems, run in the simulator (shown: the first problem; star: the "
        f"cheapest sequence). Rank correlation {middle:.2f} (quartiles {low:.2f}, {high:.2f}). "
        f"Some sequence succeeds in {found['solved']:.0%} of the problems. The cheapest one is "
        f"among the best tenth in {found['best_tenth']:.0%}; its regret is {found['regret']:.3g}, "
        f"that of a random one {found['regret_random']:.3g}."
    )
    return Section("ranking", "Does the cost rank action sequences?", text, figure)


def _open_loop(found: dict[str, list[float]]) -> Section:
    figure, axes = plot()
    for (name, errors), colour in zip(found.items(), (BLUE, GREY, ORANGE), strict=True):
        steps, label = range(1, len(errors) + 1), name.replace("_", " ")
        axes.plot(steps, errors, "o-", ms=4, color=colour, label=label)
    axes.set(xlabel="model steps ahead", ylabel="squared error of the embedding", ylim=(0, None))
    axes.legend(frameon=False)
    text = (
        "Open-loop prediction error on held-out episodes; embeddings have unit variance. "
        "References: a world in which nothing moves, and the model given the actions of another "
        "episode."
    )
    return Section("open_loop", "How far ahead does the model predict?", text, figure)


def _probes(found: dict[str, Any]) -> Section:
    probes = found["probes"]
    figure, axes = plot(0.34 * len(probes) + 1.1)
    for key, mark, colour in (
        ("linear", "o", BLUE), ("mlp", "o", GREEN),
        ("linear_memory", "x", BLUE), ("mlp_memory", "x", GREEN),
    ):  # fmt: skip
        scores = [max(probe[key], 0.0) for probe in probes.values()]
        label = key.replace("mlp", "perceptron").replace("_", " with ")
        axes.plot(scores, range(len(probes)), mark, color=colour, label=label, ms=6)
    name_rows(axes, [f"{name} ({probe['kind']})" for name, probe in probes.items()])
    axes.set(xlim=(-0.08, 1.05), xlabel="R² on held-out episodes (negative values at 0)")
    _legend_outside(axes)
    text = (
        "What can be read from one embedding, and from the last few. The effective rank of the "
        f"{found['dimensions']} dimensions is {found['effective_rank']:.1f}."
    )
    return Section("probes", "What embeddings contain", text, figure)


def _distances(representation: dict[str, Any]) -> Section:
    found = representation["distances"]
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    text = "Distances between embeddings, and the critic's estimates, by true distance: median and "
    text += "quartiles of five bands."
    for axes, name in zip(figure.subplots(1, 2), ("latent_l2", "critic"), strict=True):
        low, middle, high = np.transpose([band[name] for band in found["bands"]])
        x = [band["true"] for band in found["bands"]]
        axes.fill_between(x, low, high, color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(x, middle, "o-", color=BLUE)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel="true distance", ylabel=name.replace("_", " "), ylim=(0, None))
        axes.set_title(f"rank correlation {found['rank'][name]:.2f}", fontsize=9)
        within = ", ".join(f"{band[f'{name}_rank']:.2f}" for band in found["bands"])
        text += f" Rank correlation within the bands, {name.replace('_', ' ')}: {within}."
    return Section("distances", "Do embedding distances follow true distances?", text, figure)


def _expectation(found: dict[str, Any]) -> Section:
    figure, axes = plot()
    for name, event in found.items():
        auroc = f": AUROC {event['auroc']:.3f}" if "auroc" in event else ""
        steps = range(1, len(event["by_step"]) + 1)
        axes.plot(steps, event["by_step"], color=EVENTS[name], label=f"{name}{auroc}")
    axes.set(yscale="log", xlabel="model step of the video", ylabel="surprise (squared error)")
    _legend_outside(axes)
    text = (
        "Median surprise in videos in which something impossible happens halfway: bodies jump, "
        "freeze or pass through each other. Changed colours are the control, unusual but possible; "
        "the ideal AUROC there is 0.5. AUROC: the probability that a video with the event is more "
        "surprising than one without."
    )
    return Section("expectation", "Surprise at impossible events", text, figure)


DRAW: Sequence[tuple[str, Callable[[Any], Section | None]]] = (
    ("paired", _paired), ("distance", _distance), ("replan", _replan), ("factors", _factors),
    ("lewm", _published_protocol), ("attribution", _attribution), ("ranking", _ranking),
    ("open_loop", _open_loop), ("representation", _probes), ("expectation", _expectation),
    ("representation", _distances),
)  # fmt: skip


def _intervals(
    rows: Mapping[str, Mapping[str, Any]], key: str, colours: Iterable[str]
) -> tuple[Figure, Axes]:
    """Draw a value with its interval in each row."""
    figure, axes = plot(0.3 * len(rows) + 1)
    for place, (row, colour) in enumerate(zip(rows.values(), colours, strict=True)):
        axes.hlines(place, row["low"], row["high"], color=colour)
        axes.plot(row[key], place, "o", color=colour, ms=5)
    name_rows(axes, [name.replace("_", " ") for name in rows])
    axes.set(xlim=(-0.03, 1.05), xlabel="success")
    return figure, axes


def _rates(rows: list[dict[str, Any]], key: str, label: str) -> Figure:
    """Draw success with its interval over a quantity."""
    figure, axes = plot()
    x, rates = [row[key] for row in rows], [row["rate"] for row in rows]
    axes.vlines(x, [row["low"] for row in rows], [row["high"] for row in rows], color=BLUE)
    axes.plot(x, rates, "o-", color=BLUE)
    axes.set(xlabel=label, xticks=x, ylabel="success at the end", ylim=(-0.03, 1.05))
    return figure


def _legend_outside(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
