"""Judge a checkpoint: success with intervals, beside its bounds, and a report."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mujepa.agent.checkpoint import Checkpoint
from mujepa.agent.mpc import Agent
from mujepa.envs.rendering import gl_context
from mujepa.envs.world import World
from mujepa.evaluation.config import EvaluateConfig
from mujepa.evaluation.loop import Outcome, split
from mujepa.evaluation.manifest import Manifest, make_manifest
from mujepa.evaluation.protocol import lewm_manifest, solved_share
from mujepa.evaluation.report import Section, write_png, write_report
from mujepa.evaluation.runner import (
    build,
    episodes_of_each,
    run_here,
    run_on,
)
from mujepa.evaluation.summaries import by_distance, print_table, time_decisions
from mujepa.evaluation.violations import violations
from mujepa.planners import PlannerConfig
from mujepa.runtime import console
from mujepa.runtime.cluster import connect
from mujepa.runtime.command import run
from mujepa.runtime.files import make_folder, replacing_folder, sha256, write_json
from mujepa.runtime.provenance import command, machine, versions
from mujepa.training.state import read_metrics
from mujepa.visual.decoder import find_decoder
from mujepa.visual.video import draw_frames, record_episode, write_video

SHOWN_EPISODES = 4


def evaluate(config: EvaluateConfig) -> None:
    """Run the evaluation that a configuration describes; see `mujepa evaluate --help`.

    Raises:
        UserError: bad input, no OpenGL library, or results that cannot be written.
    """
    began = time.monotonic()
    setup = build(config, threads=2)
    checkpoint, planner, world = setup.checkpoint, setup.planner, setup.world
    task = setup.world.task
    if config.oracle and task.python_stepped:
        console.print(
            f"{task.name} is stepped by its suite's own code: too slow for the oracle, left out"
        )
    out = config.out or config.checkpoint / "evaluation"
    draw_manifest = lewm_manifest if config.protocol == "lewm" else make_manifest
    with connect(config.cluster) as workers:
        gl_context()  # what cannot be drawn or written is said now, not minutes later
        make_folder(out)
        manifest = draw_manifest(world, config.episodes, config.seed)
        agent, reactive_agent = setup.agent, setup.reactive_agent
        todo = episodes_of_each(config, setup, manifest)
        here = agent.device.type != "cpu" or len(split(manifest)) == 1
        alone = here and not config.cluster
        outcomes = run_here(setup, todo) if alone else run_on(workers, config, task, todo)
    if "reactive" not in todo and config.planner != "oracle":
        outcomes = {"agent": outcomes["agent"], "reactive": outcomes["agent"], **outcomes}
    result = _result(config, checkpoint, agent, planner, world, manifest, outcomes)
    if config.planner != "oracle":
        result["plan_ms"] = time_decisions(agent, world, manifest)
        result["reactive_ms"] = (
            result["plan_ms"] if agent.reactive else time_decisions(reactive_agent, world, manifest)
        )
    shown = []
    if config.planner != "oracle":
        shown = _record(out, agent, checkpoint, world, manifest, outcomes["agent"])
    metrics = read_metrics(checkpoint.folder.parent / "metrics.jsonl")

    def write(lab: list[Section]) -> None:
        result["wall_s"] = round(time.monotonic() - began, 1)
        provenance = checkpoint.provenance
        path = out / "report.html"
        write_report(path, task, result, outcomes, shown, provenance, metrics, lab)
        write_json(out / "result.json", result)

    write([])
    if config.full:
        result["lab"], figures = _look_into(config, checkpoint, planner, world, manifest, outcomes)
        with replacing_folder(out / "figures") as folder:  # none of an earlier run stays
            for section in figures:
                write_png(folder / f"{section.name}.png", section.figure)
        write(figures)
    print_table(result, task, outcomes)
    names = ("report.html", "result.json", *(("episode.mp4",) if shown else ()))
    console.print("  ".join(str(out / name) for name in names))


def _look_into(
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    planner: PlannerConfig,
    world: World,
    manifest: Manifest,
    outcomes: dict[str, Outcome],
) -> tuple[dict[str, Any], list[Section]]:
    """Return what the lab finds, and its figures."""
    from mujepa.evaluation.lab.figures import sections
    from mujepa.evaluation.lab.study import Lab
    from mujepa.evaluation.lab.subject import Subject

    subject = Subject(checkpoint, planner, config.cost, config.actor)
    sweep_episodes = min(config.sweep_episodes, config.episodes)
    lab = Lab(subject, world, manifest, outcomes, config.seed, sweep_episodes, config.failures)
    found = lab.run()
    return found, sections(found, world.task)


def _result(
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    agent: Agent,
    planner: PlannerConfig,
    world: World,
    manifest: Manifest,
    outcomes: dict[str, Outcome],
) -> dict[str, Any]:
    task = world.task
    baselines = {
        name: asdict(outcome.summary()) for name, outcome in outcomes.items() if name != "agent"
    }
    kind = "oracle" if config.planner == "oracle" else planner.kind
    regions = agent.configurator.cost.regions
    found = {region.text: violations(region, world, manifest, outcomes) for region in regions}
    return {
        "env": task.name,
        "checkpoint": str(config.checkpoint),
        "weights": sha256(checkpoint.folder / "model.safetensors"),
        "seed": config.seed,
        "manifest": manifest.digest,
        **({"variation": world.variation.plain()} if world.variation else {}),
        **({"goal_steps": config.goal_steps} if config.goal_steps else {}),
        **_protocol(config, world, manifest),
        "budget_steps": task.budget_steps,
        "tolerance": task.tolerance,
        "hold_steps": task.hold_steps,
        **asdict(outcomes["agent"].summary()),
        "by_distance": by_distance(world, manifest, outcomes["agent"]),
        "plan_ms": {},
        "reactive_ms": {},
        "wall_s": 0.0,
        "actor": "planner" if kind == "oracle" else config.actor or checkpoint.config.mode,
        "planner": asdict(planner) | {"kind": kind, "replan_every": agent.replan_every},
        "cost": agent.configurator.cost.expression,
        **({"violations": found} if found else {}),
        "baselines": baselines,
        "by_episode": {
            "held": outcomes["agent"].held.tolist(),
            "final_distance": outcomes["agent"].distance[:, -1].round(5).tolist(),
        },
        "command": command(),
        "versions": versions(),
        "machine": machine(),
    }


def _protocol(config: EvaluateConfig, world: World, manifest: Manifest) -> dict[str, Any]:
    if config.protocol == "ours":
        return {}
    solved = asdict(solved_share(world, manifest))
    return {"protocol": {"name": config.protocol, "already_solved": solved}}


def _record(
    out: Path,
    agent: Agent,
    checkpoint: Checkpoint,
    world: World,
    manifest: Manifest,
    outcome: Outcome,
) -> list[dict[str, Any]]:
    """Film the worst episodes and the first one; return what the report says of them."""
    worst = np.argsort(-outcome.distance[:, -1], kind="stable")[: SHOWN_EPISODES - 1]
    decoder, shown = find_decoder(checkpoint), []
    for index in dict.fromkeys([*worst.tolist(), 0]):
        episode, seed = manifest.episodes[index], manifest.seeds[index]
        recording = record_episode(agent, checkpoint.networks.probe, world, episode, seed, decoder)
        film = out / "episodes" / f"episode-{index}.mp4"
        write_video(film, draw_frames(recording, world.task, every=2), fps=12.5)
        distance = float(recording.distance[-1])
        held = bool((recording.distance[-world.task.hold_steps :] <= world.task.tolerance).all())
        shown.append({"index": index, "film": film, "distance": distance, "held": held})
        if index == 0:
            frames = draw_frames(recording, world.task)
            write_video(out / "episode.mp4", frames, fps=25)
    return shown


if __name__ == "__main__":
    sys.exit(run(evaluate, EvaluateConfig))
