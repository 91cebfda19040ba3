"""Write docs/tasks.md and its pictures from what was measured.

    python benchmarks/tasks_page.py

Figures come from the result.json and provenance.json of each folder in pretrained/, and from
benchmarks/results/tasks.json; a picture shows a task as people see it, as the agent sees it, and
the goal image. A task without a checkpoint is named as such.
"""

from __future__ import annotations

import inspect
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from PIL import Image

from mujepa.envs.registry import TASKS
from mujepa.envs.task import Task
from mujepa.envs.world import World
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.files import read_json, replacing_file, write_text

ROOT = Path(__file__).parents[1]
PANEL = 240
RATES = ("collect_frames_per_s", "plain_frames_per_s")
INTRODUCTION = """# Tasks

*Held*: the goal is within the tolerance for all of the last steps of the episode, on episodes not
used in training (Wilson 95 % interval). *Near* and *far* are the halves of the goals by distance.
*Reactive*: the actor alone, without planning. *Latent L2*: the planner with squared distance
between embeddings as its cost. *Oracle*: the same planner with the simulator as its model.
*Random*: random actions. *Minutes*: training time without collection, on the machine named in each
provenance.json. *Frames/s*: `mujepa collect` on one core; *plain*: `mj_step` in Python with
`mujoco.Renderer` and its defaults. The machines were shared, so all times are upper bounds.

`python benchmarks/tasks_page.py` made this page from [pretrained/](../pretrained) and
[benchmarks/results/tasks.json](../benchmarks/results/tasks.json).
"""
SEEDS = """
Other training seeds, each with its own data (`make seed-TASK SEED=1`), on the same episodes:
"""

FAR = """
Goals farther ahead than in training, with a proportionally larger budget
(`make far-TASK STEPS=50 SEED=0`):
"""

FAILURES = """
Causes of failures: the first failures of 200 episodes, run again by the planner without the actor,
with one part replaced (`python benchmarks/attribution.py --failures N`). Shares that are then held:
*luck*, other noise; *search*, four times the candidates; *cost*, the goal distance read by a linear
probe; *dynamics*, camera images of the true future instead of predictions; both; *everything*, the
oracle, which fails where the task, the budget or the search does.
"""


@dataclass(frozen=True)
class PageConfig:
    """Write the page of the tasks."""

    out: Path = ROOT / "docs" / "tasks.md"
    """The page; its pictures lie in the folder of the same name beside it."""


def main(config: PageConfig) -> None:
    """Draw the pictures and write the page."""
    for task in TASKS.values():
        draw(task, config.out.with_suffix("") / f"{task.name}.png")
    write_text(config.out, page(ROOT))
    console.print(str(config.out))


def page(root: Path) -> str:
    """Return the text of the page, from the files below the root of the repository."""
    rates = read_json(root / "benchmarks" / "results" / "tasks.json", "run benchmarks/tasks.py")
    heads = [
        "task", "held [95 %]", "near", "far", "reactive", "latent L2", "oracle", "random", "n",
        "minutes", "a decision", "reactive", "frames/s", "plain",
    ]  # fmt: skip
    lines = [INTRODUCTION, _line(heads), _line(["---"] * len(heads))]
    lines += [_row(root, task, rates["tasks"].get(task.name, {})) for task in TASKS.values()]
    lines += [*_seeds(root), *_far(root), *_failures(root)]
    return "\n".join(lines) + "\n\n" + "\n".join(_section(root, t) for t in TASKS.values())


def draw(task: Task, path: Path) -> None:
    """Write a picture of an episode: for people, as the agent sees it, and its goal."""
    world = World(task)
    episode = world.sample_episode(np.random.default_rng(0))
    seen = world.render(np.stack([episode.start, episode.goal]))
    panels = [
        np.asarray(Image.fromarray(image).resize((PANEL, PANEL), kind))
        for image, kind in zip(
            [world.render_pretty(episode.start), *seen],
            [Image.Resampling.LANCZOS, Image.Resampling.NEAREST, Image.Resampling.NEAREST],
            strict=True,
        )
    ]
    gap = np.full((PANEL, 8, 3), 255, np.uint8)
    picture = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)
    buffer = io.BytesIO()
    iio.imwrite(buffer, picture, extension=".png", optimize=True)
    with replacing_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _row(root: Path, task: Task, rates: dict[str, Any]) -> str:
    speed = [f"{rates[key]:,.0f}" if rates else "-" for key in RATES]
    folder = root / "pretrained" / task.name
    if not (folder / "result.json").exists():
        return _line([f"[{task.name}](#{task.name})", *["-"] * 11, *speed])
    result = read_json(folder / "result.json", "evaluate the checkpoint")
    made = read_json(folder / "provenance.json", "train the checkpoint")
    minutes = made["minutes"] + made.get("world_model", {}).get("minutes", 0)
    return _line(
        [
            f"[{task.name}](#{task.name})",
            "**{}** {}".format(*_held(result, "agent").split(" ", 1)),
            *[_half(result, half) for half in ("near", "far")],
            *[_baseline(result, name) for name in ("reactive", "latent_l2", "oracle", "random")],
            str(result["episodes"]),
            f"{minutes:.1f}",
            f"{result['plan_ms']['median']:.0f} ms",
            f"{result['reactive_ms']['median']:.1f} ms",
            *speed,
        ]
    )


def _seeds(root: Path) -> list[str]:
    """Return the table of the training seeds: the shipped one, and those of `make seed-TASK`."""
    lines = [SEEDS, _line(["task", "actor", *(f"seed {seed}" for seed in range(3))])]
    lines.append(_line(["---"] * 5))
    for task in TASKS:
        paths = [root / "pretrained" / task / "result.json"]
        paths += [root / "benchmarks" / "results" / f"{task}-seed{seed}.json" for seed in (1, 2)]
        results = [read_json(path, "delete it") if path.exists() else None for path in paths]
        for actor in ("agent", "reactive") if any(results) else ():
            rates = [_held(result, actor) if result else "-" for result in results]
            lines.append(_line([f"[{task}](#{task})", actor, *rates]))
    return lines


def _far(root: Path) -> list[str]:
    """Return the table of goals further ahead: what `make far-TASK` measured."""
    heads = ["task", "steps ahead", "training seed", "held [95 %]", "oracle", "random", "n"]
    lines = [FAR, _line(heads), _line(["---"] * len(heads))]
    for path in sorted((root / "benchmarks" / "results").glob("*-seed*-*steps.json")):
        result, (task, seed, _) = read_json(path, "delete it"), path.stem.rsplit("-", 2)
        bounds = [_baseline(result, name) for name in ("oracle", "random")]
        ahead, seed = str(result["goal_steps"]), seed.removeprefix("seed")
        held, episodes = _held(result, "agent"), str(result["episodes"])
        lines.append(_line([f"[{task}](#{task})", ahead, seed, held, *bounds, episodes]))
    return lines if len(lines) > 3 else []


def _failures(root: Path) -> list[str]:
    """Return the table of what true parts rescue, if it was measured."""
    path = root / "benchmarks" / "results" / "attribution.json"
    if not path.exists():
        return []
    tasks = read_json(path, "delete it")["tasks"]
    swaps = list(dict.fromkeys(swap for found in tasks.values() for swap in found["rescued"]))
    lines = [FAILURES, _line(["task", "failures", *swaps])]
    lines.append(_line(["---"] * (2 + len(swaps))))
    for task, found in tasks.items():
        shares = [f"{found['rescued'][swap]['rate']:.2f}" for swap in swaps]
        lines.append(_line([f"[{task}](#{task})", str(found["failures"]), *shares]))
    return lines


def _held(result: dict[str, Any], actor: str) -> str:
    """Return the success at the end of the agent or of a baseline, with its interval."""
    summary = result if actor == "agent" else result["baselines"][actor]
    rate = summary["success_at_end"]
    return f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"


def _half(result: dict[str, Any], half: str) -> str:
    """Return the success on the nearer or the farther half of the goals; older results lack it."""
    rate = result.get("by_distance", {}).get(half)
    return f"{rate['rate']:.3f}" if rate else "-"


def _baseline(result: dict[str, Any], name: str) -> str:
    """Return a bound's success, with its number of episodes where that differs."""
    bound = result["baselines"].get(name)
    if bound is None:
        return "-"
    other = "" if bound["episodes"] == result["episodes"] else f" (n={bound['episodes']})"
    return f"{bound['success_at_end']['rate']:.3f}{other}"


def _section(root: Path, task: Task) -> str:
    text = (inspect.getdoc(type(task)) or "").partition("\n\nAttributes:")[0]
    lines = [f"## {task.name}", "", text, ""]
    lines += [f"![Start, start as the agent sees it, goal image](tasks/{task.name}.png)", ""]
    folder = root / "pretrained" / task.name
    if (folder / "result.json").exists():
        made = read_json(folder / "provenance.json", "train the checkpoint")
        judged = read_json(folder / "result.json", "evaluate the checkpoint")
        steps = [made["world_model"], made, judged] if "world_model" in made else [made, judged]
        lines += [*(f"    {step['command']}" for step in steps), ""]
    else:
        lines += ["No checkpoint is shipped.", ""]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(run(main, PageConfig))
