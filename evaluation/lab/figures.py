"""What the lab found, as figures with a sentence each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from mujepa.evaluation.report import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mujepa.envs.task import Task

BLUE, GREEN, ORANGE, RED, GREY = "#3b6fe0", "#2f9e6e", "#e0913b", "#c8453b", "#98a2b3"
VERDICTS = {
    "luck": "luck: other noise of the search holds most of them, whatever the part",
    "search": "the search: more candidates, or everything true, is what helps or fails to",
    "cost": "the cost: with the goal's distance in the task's own quantities they are held",
    "dynamics": "the world model's dynamics: with true ones they are held",
    "data": "the data: the world model is wrong in states that the data did not teach",
    "representation": "the representation: true dynamics and a true cost, seen through the "
    "encoder, do not help; the true state does",
}


def sections(lab: dict[str, Any], task: Task) -> list[Section]:
    """Return the figures of what `Lab.run` found; parts that found nothing have none."""
    makers: dict[str, Callable[[Any, Task], Section | None]] = {
        "paired": _paired,
        "distance": _distance,
        "replan": _replan,
        "factors": _factors,
        "lewm": _published,
        "attribution": _attribution,
        "ranking": _ranking,
        "open_loop": _open_loop,
        "representation": _probes,
        "expectation": _expectation,
    }
    made = [make(lab[name], task) for name, make in makers.items() if lab.get(name)]
    if lab.get("representation"):
        made.append(_bands(lab["representation"]["distances"]))
    return [section for section in made if section is not None]


def _paired(found: dict[str, Any], task: Task) -> Section:
    figure, axes = _plot(0.5 * len(found) + 1)
    for row, test in enumerate(found.values()):
        spread = [[test["difference"] - test["low"]], [test["high"] - test["difference"]]]
        axes.errorbar(test["difference"], row, xerr=spread, fmt="o", color=BLUE, capsize=3)
        said = f"+{test['gained']} -{test['lost']} of {test['episodes']}, p {_p(test['p_value'])}"
        axes.annotate(said, (1.02, row), xycoords=("axes fraction", "data"), va="center", size=8)
    _names(axes, [name.replace("_", " ") for name in found])
    axes.axvline(0, color=GREY, lw=0.8)
    axes.set(xlim=(-1.05, 1.05), xlabel="share held: the agent's less the other's")
    text = (
        "The agent against all others on the same episodes: + held by the agent alone, - by the "
        "other alone; p of McNemar's exact test."
    )
    return Section("paired", "Against the others, episode by episode", text, figure)


def _distance(found: list[dict[str, Any]], task: Task) -> Section:
    figure, axes = _plot()
    ahead = "goal_steps" in found[0]
    x = [row["goal_steps" if ahead else "remaining"] for row in found]
    _rates(axes, x, found, BLUE)
    label = "environment steps from start to goal" if ahead else "what remains at the start"
    axes.set(xlabel=label, ylabel="held at the end", xticks=x, ylim=(-0.03, 1.05))
    episodes = found[0]["episodes"]
    text = (
        f"Goals farther ahead, with a budget that grows with them; {episodes} episodes each."
        if ahead
        else f"The episodes in quarters by how far the goal is, {episodes} each."
    )
    return Section("distance", "Near and far goals", text, figure)


def _replan(found: list[dict[str, Any]], task: Task) -> Section:
    figure, axes = _plot()
    _rates(axes, [row["replan_every"] for row in found], found, BLUE)
    axes.set(
        xlabel="model steps between plans", ylabel="held at the end", ylim=(-0.03, 1.05),
        xticks=[row["replan_every"] for row in found],
    )  # fmt: skip
    text = (
        "Plans that are followed for longer before the next: how long imagination can be trusted. "
        f"{found[0]['episodes']} episodes each."
    )
    return Section("replan", "Looking less often", text, figure)


def _factors(found: list[dict[str, Any]], task: Task) -> Section:
    figure, axes = _plot(0.26 * len(found) + 1)
    for row, one in enumerate(found):
        colour = ORANGE if one["kind"] == "visual" else BLUE
        spread = [[one["rate"] - one["low"]], [one["high"] - one["rate"]]]
        axes.errorbar(one["rate"], row, xerr=spread, fmt="o", color=colour, capsize=2, ms=5)
    _names(axes, [f"{one['factor']} {one['value']:g}" for one in found])
    axes.set(xlim=(-0.03, 1.05), xlabel="held at the end")
    text = (
        "Worlds that differ from that of training in one factor: orange, how they look; blue, how "
        f"they move. The same {found[0]['episodes']} starts and goals each."
    )
    return Section("factors", "Other worlds", text, figure)


def _published(found: dict[str, Any], task: Task) -> Section:
    figure, axes = _plot(2)
    for row, name in enumerate(("agent", "random")):
        for shift, key, colour in (
            (-0.18, "success_any", BLUE),
            (0.18, "success_at_end", GREEN),
        ):
            rate = found[name][key]
            spread = [[rate["rate"] - rate["low"]], [rate["high"] - rate["rate"]]]
            label = {"success_any": "reached", "success_at_end": "held at the end"}[key]
            axes.barh(
                row + shift, rate["rate"], xerr=spread, height=0.32, color=colour, capsize=3,
                label=label if not row else None,
            )  # fmt: skip
    _names(axes, ["agent", "random"])
    axes.set(xlim=(0, 1.05), xlabel="success")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    solved = found["already_solved"]
    text = (
        "LeWorldModel's protocol: start and goal 25 steps apart on a held-out trajectory, 50 steps "
        f"to reach the goal at any time; n = {found['agent']['episodes']}. {solved['rate']:.1%} of "
        "the starts are solved before the first step, and stay in."
    )
    return Section("lewm", "By the protocol of published tables", text, figure)


def _attribution(found: dict[str, Any], task: Task) -> Section | None:
    if not found["failures"]:
        return None
    figure, axes = _plot(2.4)
    for row, rate in enumerate(found["rescued"].values()):
        spread = [[rate["rate"] - rate["low"]], [rate["high"] - rate["rate"]]]
        axes.barh(row, rate["rate"], xerr=spread, height=0.6, color=BLUE, capsize=3)
    _names(axes, list(found["rescued"]))
    axes.set(xlim=(0, 1.05), xlabel=f"share of {found['failures']} failures that are held now")
    text = (
        f"Failed episodes again, with a true part in place of the learned one. Most owe to "
        f"{VERDICTS[found['cause']]}. The world model errs there {found['unfamiliar']:.1f} times "
        "as much as on held-out experience."
    )
    return Section("attribution", "Where failures come from", text, figure)


def _ranking(found: dict[str, Any], task: Task) -> Section:
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    axes = figure.subplots()
    example = found["example"]
    axes.scatter(example["nearest"], example["cost"], s=9, color=BLUE, alpha=0.6, linewidths=0)
    best = int(np.argmin(example["cost"]))
    axes.scatter(example["nearest"][best], example["cost"][best], s=60, color=RED, marker="*")
    _plain(axes)
    axes.set(xlabel="how near the sequence comes to the goal, in the simulator")
    axes.set(ylabel="the planner's cost")
    low, middle, high = found["rank"]
    text = (
        f"{found['bank']} action sequences of {found['horizon']} model steps in each of "
        f"{found['problems']} problems, tried in the simulator (shown: the first; the star is what "
        f"the planner would choose). Rank correlation {middle:.2f} (quartiles {low:.2f}, "
        f"{high:.2f}); {found['solved']:.0%} of the banks hold a success; the chosen one is among "
        f"the best tenth in {found['best_tenth']:.0%}, and {found['regret']:.3g} farther from the "
        f"goal than the best (one at random: {found['regret_random']:.3g})."
    )
    return Section("ranking", "Does the cost know what is better?", text, figure)


def _open_loop(found: dict[str, list[float]], task: Task) -> Section:
    figure, axes = _plot()
    colours = {"model": BLUE, "frozen_world": GREY, "wrong_actions": ORANGE}
    for name, errors in found.items():
        steps = np.arange(1, len(errors) + 1)
        axes.plot(steps, errors, "o-", ms=4, color=colours[name], label=name.replace("_", " "))
    axes.set(xlabel="model steps ahead", ylabel="squared error of the embedding", ylim=(0, None))
    axes.legend(frameon=False)
    text = (
        "Imagined embeddings against those of what happens, on episodes that training never saw; "
        "embeddings have unit variance. Beside it a world in which nothing moves, and the same "
        "model told the actions of another episode."
    )
    return Section("open_loop", "How far ahead is imagination right?", text, figure)


def _probes(found: dict[str, Any], task: Task) -> Section:
    probes = found["probes"]
    figure, axes = _plot(0.34 * len(probes) + 1.1)
    marks = {
        "linear": ("o", BLUE, "linear"), "mlp": ("o", GREEN, "perceptron"),
        "linear_memory": ("x", BLUE, "linear, with memory"),
        "mlp_memory": ("x", GREEN, "perceptron, with memory"),
    }  # fmt: skip
    for key, (mark, colour, label) in marks.items():
        scores = [max(probe[key], 0.0) for probe in probes.values()]
        axes.plot(scores, range(len(probes)), mark, color=colour, label=label, ms=6)
    _names(axes, [f"{name} ({probe['kind']})" for name, probe in probes.items()])
    axes.axvline(0, color=GREY, lw=0.8)
    axes.set(xlim=(-0.08, 1.05), xlabel="R² on episodes that no probe saw (below 0: at the line)")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    text = (
        f"What can be read from one embedding, and from the last few. The {found['dimensions']} "
        f"dimensions have an effective rank of {found['effective_rank']:.1f}."
    )
    return Section("probes", "What embeddings hold", text, figure)


def _bands(found: dict[str, Any]) -> Section:
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("latent_l2", "critic"), strict=True):
        low, middle, high = np.array([band[name] for band in found["bands"]]).T
        x = [band["true"] for band in found["bands"]]
        axes.fill_between(x, low, high, color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(x, middle, "o-", color=BLUE)
        _plain(axes)
        axes.set(xlabel="true distance", ylabel=name.replace("_", " "), ylim=(0, None))
        axes.set_title(f"rank correlation {found['rank'][name]:.2f}", fontsize=9)
    within = {
        name: ", ".join(f"{band[f'{name}_rank']:.2f}" for band in found["bands"])
        for name in ("latent_l2", "critic")
    }
    text = (
        "Distances between embeddings, plain and as the critic says, against true ones: median "
        "and quartiles of five bands from near to far. Rank correlation within the bands: latent "
        f"{within['latent_l2']}; critic {within['critic']}."
    )
    return Section("distances", "Is near in embeddings near in the world?", text, figure)


def _expectation(found: dict[str, Any], task: Task) -> Section:
    colours = {"teleport": RED, "freeze": BLUE, "ghost": GREEN, "colour": ORANGE, "possible": GREY}
    figure, axes = _plot()
    for name, one in found.items():
        label = name if name == "possible" else f"{name}: AUROC {one['auroc']:.3f}"
        steps = np.arange(1, len(one["by_step"]) + 1)
        axes.plot(steps, one["by_step"], color=colours[name], label=label)
    axes.set(yscale="log", xlabel="model step of the video", ylabel="surprise (squared error)")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    text = (
        "Median surprise over videos in which something impossible happens halfway: everything is "
        "elsewhere, nothing moves any more, bodies pass through each other. Other colours are "
        "the control: unusual, but possible; a model that knows physics and not looks would be at "
        "0.5. AUROC: how often an impossible video is more surprising than a possible one."
    )
    return Section("expectation", "Surprised by the impossible", text, figure)


def _rates(axes: Axes, x: list[float], rows: list[dict[str, Any]], colour: str) -> None:
    rates = np.array([[row["rate"], row["low"], row["high"]] for row in rows])
    spread = np.abs(rates[:, 1:].T - rates[:, 0])
    axes.errorbar(x, rates[:, 0], yerr=spread, fmt="o-", color=colour, capsize=3)


def _plot(height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.6, height), layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _names(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _p(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"{value:.0e}"
