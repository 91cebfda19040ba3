"""Evaluate a checkpoint: success rates with intervals, baselines, and a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

import mujepa
from mujepa.envs.rendering import gl_context
from mujepa.evaluation.config import ORACLE, EvaluateConfig
from mujepa.evaluation.lab.figures import sections
from mujepa.evaluation.lab.study import Study
from mujepa.evaluation.loop import Outcome
from mujepa.evaluation.manifest import Manifest
from mujepa.evaluation.protocol import solved_share
from mujepa.evaluation.report import Film, Section, write_png, write_report
from mujepa.evaluation.result import ByEpisode, Protocol, Result
from mujepa.evaluation.runner import Setup, build, run_policies
from mujepa.evaluation.summaries import by_distance, print_table, time_decisions, violations
from mujepa.runtime import console
from mujepa.runtime.cluster import connect
from mujepa.runtime.command import make_callable, run
from mujepa.runtime.files import make_folder, replacing_folder, sha256, write_json
from mujepa.runtime.provenance import command, machine, versions
from mujepa.training.progress import read_metrics
from mujepa.visual.decoder import find_decoder
from mujepa.visual.video import draw_frames, record_episode, write_video

FILMS = 4


def evaluate(config: EvaluateConfig) -> Result:
    """Run an evaluation, write result.json, report.html and videos, and return the result.

    Raises:
        UserError: bad input, no OpenGL library, or results that cannot be written.
    """
    began = time.monotonic()
    setup = build(config, threads=2)
    task, checkpoint = setup.world.task, setup.checkpoint
    if config.oracle and task.python_stepped:
        console.print(f"{task.name} is stepped in Python, too slow for the oracle: it is left out")
    out = config.out or config.checkpoint / "evaluation"
    with connect(config.cluster) as workers:
        gl_context()  # a missing OpenGL library or an unwritable folder is an error now, not later
        make_folder(out)
        manifest = setup.make_manifest()
        outcomes = run_policies(setup, manifest, workers)
    result = make_result(setup, manifest, outcomes)
    films = [] if setup.evaluates_oracle else record_films(out, setup, manifest, outcomes["agent"])
    metrics = read_metrics(checkpoint.folder.parent / "metrics.jsonl")

    def write(result: Result, lab: list[Section]) -> Result:
        result = replace(result, wall_s=round(time.monotonic() - began, 1))
        page, provenance = out / "report.html", checkpoint.provenance
        write_report(page, task, result, outcomes, films, provenance, metrics, lab)
        write_json(out / "result.json", result.to_json())
        return result

    result = write(result, [])
    if config.full:
        found = Study(setup, manifest, outcomes).run()
        figures = sections(found)
        with replacing_folder(out / "figures") as folder:  # without those of an earlier run
            for section in figures:
                write_png(folder / f"{section.name}.png", section.figure)
        result = write(replace(result, lab=found), figures)
    print_table(result, task)
    names = ("report.html", "result.json", *(("episode.mp4",) if films else ()))
    console.print("  ".join(str(out / name) for name in names))
    return result


def make_result(setup: Setup, manifest: Manifest, outcomes: Mapping[str, Outcome]) -> Result:
    """Return the result of what was run, after timing decisions."""
    config, world, agent, outcome = setup.config, setup.world, setup.agent, outcomes["agent"]
    oracle = setup.evaluates_oracle
    kind = ORACLE if oracle else setup.planner.kind
    plan_ms = None if oracle else time_decisions(agent, world, manifest)
    reactive_ms = plan_ms
    if not oracle and not agent.reactive:
        reactive_ms = time_decisions(setup.reactive_agent, world, manifest)
    cost, lewm = agent.configurator.cost, config.protocol == "lewm"
    visits = {one.text: violations(one, world, manifest, outcomes) for one in cost.regions}
    baselines = {name: one.summary() for name, one in outcomes.items() if name != "agent"}
    final = outcome.distance[:, -1].round(5).tolist()
    return Result(
        env=world.task.name,
        checkpoint=str(config.checkpoint),
        weights=sha256(setup.checkpoint.folder / "model.safetensors"),
        seed=config.seed,
        manifest=manifest.digest,
        budget_steps=world.task.budget_steps,
        tolerance=world.task.tolerance,
        hold_steps=world.task.hold_steps,
        **vars(outcome.summary()),
        by_distance=by_distance(world, manifest, outcome),
        actor="planner" if oracle else config.actor or setup.checkpoint.config.actor_mode,
        planner=asdict(setup.planner) | {"kind": kind, "replan_every": agent.replan_every},
        cost=cost.expression,
        baselines=baselines,
        by_episode=ByEpisode(outcome.held.tolist(), final, manifest.digests),
        command=command(),
        versions=versions(),
        machine=machine(),
        plan_ms=plan_ms,
        reactive_ms=reactive_ms,
        variation=world.variation.plain() if world.variation else None,
        goal_steps=config.goal_steps,
        protocol=Protocol("lewm", solved_share(world, manifest)) if lewm else None,
        violations=visits or None,
    )


def record_films(out: Path, setup: Setup, manifest: Manifest, outcome: Outcome) -> list[Film]:
    """Record the worst episodes and the first one, and write their videos."""
    task, probe = setup.world.task, setup.checkpoint.networks.probe
    worst = np.argsort(-outcome.distance[:, -1], kind="stable")[: FILMS - 1]
    decoder, films = find_decoder(setup.checkpoint), []
    for index in dict.fromkeys([*worst.tolist(), 0]):
        episode, seed = manifest.episodes[index], manifest.seeds[index]
        recording = record_episode(setup.agent, probe, setup.world, episode, seed, decoder)
        path = out / "episodes" / f"episode-{index}.mp4"
        write_video(path, draw_frames(recording, task, every=2), fps=12.5)
        if index == 0:
            write_video(out / "episode.mp4", draw_frames(recording, task), fps=25)
        held = bool((recording.distance[-task.hold_steps :] <= task.tolerance).all())
        films.append(Film(index, path, float(recording.distance[-1]), held))
    return films


make_callable(__name__, mujepa.evaluate)

if __name__ == "__main__":
    sys.exit(run(evaluate, EvaluateConfig))
