"""Judge a checkpoint: success with intervals, beside its bounds, and a report."""

from __future__ import annotations

import functools
import math
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from mujepa.agent.alarm import Alarm, Response
from mujepa.agent.checkpoint import Checkpoint, Mode, load_checkpoint
from mujepa.agent.device import DeviceName
from mujepa.agent.mpc import Agent
from mujepa.cli import run
from mujepa.cluster import Cluster, check_cluster, connect
from mujepa.envs.opengl import gl_context
from mujepa.envs.registry import find_task
from mujepa.envs.task import Task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.errors import UserError
from mujepa.evaluation.decoder import find_decoder
from mujepa.evaluation.loop import Outcome, join, run_episodes, run_part, split
from mujepa.evaluation.manifest import Manifest, make_manifest
from mujepa.evaluation.policies import (
    AgentPolicy,
    OraclePolicy,
    Policy,
    RandomPolicy,
    ZeroPolicy,
)
from mujepa.evaluation.protocol import lewm_manifest, lewm_task, solved_share
from mujepa.evaluation.report import Section, write_png, write_report
from mujepa.evaluation.summaries import by_distance, print_table, time_decisions
from mujepa.evaluation.video import draw_frames, record_episode, write_video
from mujepa.evaluation.violations import violations
from mujepa.evaluation.watching import listen, usual_threshold
from mujepa.files import make_folder, replacing_folder, sha256, write_json
from mujepa.learning.progress import read_metrics
from mujepa.planners import PlannerConfig, make_planner
from mujepa.pool import Pool, tick
from mujepa.provenance import command, machine, versions
from mujepa.screen import progress_bar, say

SHOWN_EPISODES = 4


@dataclass(frozen=True)
class EvaluateConfig:
    """Judge a checkpoint on a frozen set of episodes that training never saw.

    Prints a table and writes result.json, report.html and a video to --out. Every figure has its
    Wilson 95 % interval and stands beside random actions, zero actions, the agent with plain
    latent distance as its cost, its reactive actor alone, and the oracle: the same planner with the
    true simulator.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Folder of a checkpoint or of a training run."""
    episodes: int = 200
    """Episodes to judge on."""
    seed: int = 0
    """Seed of the episodes and of the planner."""
    vary: tuple[str, ...] = ()
    """What differs from episode to episode, NAME=LOW:HIGH or NAME=VALUE, such as `mass=0.5:2
    light=0.3:1`; starts and goals are the same as without."""
    goal_steps: int | None = None
    """For tasks whose goals lie so many steps ahead of the start: another number of steps, with a
    budget that grows with it."""
    protocol: Literal["ours", "lewm"] = "ours"
    """`lewm` draws episodes as LeWorldModel's evaluation does, whose success is what we call
    reached: start and goal 25 steps apart on a held-out trajectory, a budget of 50 steps, starts
    that are already solved kept and counted."""
    full: bool = False
    """Also look into the agent: sweeps over goal distance, replanning and factors of variation,
    what its embeddings hold, how far it imagines rightly, whether it is surprised by the
    impossible, and which part its failures owe to. All of it with figures in the report."""
    sweep_episodes: int = 50
    """With --full: episodes of each condition that is swept over."""
    failures: int = 5
    """With --full: failed episodes that are tried again with true parts, which takes long; 0 leaves
    this out."""
    planner: Literal["cem", "icem", "mppi", "gradient", "hybrid", "random", "oracle"] | None = None
    """Another planner than the checkpoint's; `oracle` judges the true simulator as the model. The
    simulator has no gradient: beside `gradient` and `hybrid` the oracle searches with `icem`."""
    actor: Mode | None = None
    """Who acts, if not as the checkpoint says: the planner alone, `proposing`: the planner to which
    the actor proposes a sequence, or `reactive`: the actor alone, without a search."""
    cost: str | None = None
    """Another cost than the checkpoint's, for example `critic + 0.05*goal` or, with what the body
    must keep out of in the units of its sensors, `critic + 100*avoid(x>0.1)`. Success stays what
    the goal images ask for, whatever the cost."""
    replan_every: int | None = None
    """Model steps through which a plan is followed, if not the checkpoint's; up to the horizon."""
    alarm: Response | None = None
    """What the agent does where it is more surprised than in 99 of 100 looks at the usual world,
    which are taken first, in episodes of their own: `slow`, half the action, or `replan`, plan anew
    where it would follow its plan (with --replan-every)."""
    horizon: int | None = None
    """Model steps to look ahead, if not the checkpoint's."""
    samples: int | None = None
    """Candidates per iteration, if not the checkpoint's."""
    iterations: int | None = None
    """Iterations of the planner, if not the checkpoint's."""
    oracle: bool = True
    """Also run the oracle; it takes most of the time."""
    oracle_episodes: int | None = None
    """Episodes for the oracle, if not all: the first so many."""
    out: Path | None = None
    """Folder of the results; by default `evaluation` in the checkpoint's folder."""
    device: DeviceName = "auto"
    """Where to compute."""
    cluster: str | None = None
    """Spread the episodes over a cluster of Ray: `local`, `auto` or `ray://HOST:PORT`
    (docs/scale.md); the checkpoint has to be on a disk that its machines share. The result is the
    same. What --full adds runs here."""

    def __post_init__(self) -> None:
        for name in ("episodes", "oracle_episodes", "sweep_episodes", "replan_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("seed", "failures"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} must not be negative, got {getattr(self, name)}")
        if self.goal_steps is not None and self.goal_steps < 1:
            raise UserError(f"--goal-steps must be at least 1, got {self.goal_steps}")
        if self.planner == "oracle" and self.actor is not None:
            raise UserError(
                f"--actor {self.actor} is of the agent, --planner oracle judges the simulator; "
                "leave out one of the two"
            )
        if self.planner == "oracle" and self.cost is not None:
            raise UserError(
                f"--cost {self.cost} has no part in what --planner oracle does, which searches by "
                "the task's own distance; leave it out"
            )
        for flag, given in (
            ("--vary", bool(self.vary)),
            ("--planner oracle", self.planner == "oracle"),
            ("--protocol lewm", self.protocol == "lewm"),
            ("--alarm", self.alarm is not None),
        ):
            if self.full and given:
                raise UserError(f"--full does not go with {flag}; run them one after the other")
        if self.planner == "oracle" and self.alarm is not None:
            raise UserError(
                f"--alarm {self.alarm} is of the agent, --planner oracle judges the simulator; "
                "leave out one of the two"
            )
        if self.cluster and self.alarm is not None:
            raise UserError(f"--alarm {self.alarm} is heard here alone; leave --cluster out")
        if self.protocol == "lewm" and self.goal_steps is not None:
            raise UserError(
                f"--protocol lewm has goals 25 steps ahead, not --goal-steps {self.goal_steps}; "
                "leave out one of the two"
            )
        check_cluster(self.cluster)
        read_variation(self.vary)


@dataclass(frozen=True)
class Contest:
    """Who is judged, and where: what a configuration describes, but for the episodes.

    Attributes:
        checkpoint: of the agent.
        planner: its search.
        world: where it acts.
        agent: as it is judged.
        reflex: its reactive actor alone.
        policies: the agent and its bounds, by name; `agent` first.
    """

    checkpoint: Checkpoint
    planner: PlannerConfig
    world: World
    agent: Agent
    reflex: Agent
    policies: dict[str, Policy[Any]]


def evaluate(config: EvaluateConfig) -> None:
    """Run the evaluation that a configuration describes; see `mujepa evaluate --help`.

    Raises:
        UserError: bad input, no OpenGL library, or results that cannot be written.
    """
    began = time.monotonic()
    contest = assemble(config, threads=2)
    checkpoint, planner, world = contest.checkpoint, contest.planner, contest.world
    task = contest.world.task
    if config.oracle and task.looped:
        say(f"{task.name} is stepped by its suite's own code: too slow for the oracle, left out")
    out = config.out or config.checkpoint / "evaluation"
    draw_manifest = lewm_manifest if config.protocol == "lewm" else make_manifest
    surprises: list[Tensor] = []
    with connect(config.cluster) as workers:
        gl_context()  # what cannot be drawn or written is said now, not minutes later
        make_folder(out)
        manifest = draw_manifest(world, config.episodes, config.seed)
        if config.alarm:
            contest, surprises = _alarmed(contest, config)
        agent, reflex = contest.agent, contest.reflex
        todo = _todo(config, contest, manifest)
        here = config.alarm or agent.device.type != "cpu" or len(split(manifest)) == 1
        alone = here and not config.cluster
        outcomes = _run(contest, todo) if alone else _run_on(workers, config, task, todo)
    if "reactive" not in todo and config.planner != "oracle":
        outcomes = {"agent": outcomes["agent"], "reactive": outcomes["agent"], **outcomes}
    result = _result(config, checkpoint, agent, planner, world, manifest, outcomes)
    if agent.alarm is not None:
        rang = float((torch.cat(surprises) > agent.alarm.threshold).float().mean())
        result["alarm"] = asdict(agent.alarm) | {"rang": round(rang, 4)}
    if config.planner != "oracle":
        result["plan_ms"] = time_decisions(agent, world, manifest)
        result["reactive_ms"] = (
            result["plan_ms"] if agent.reactive else time_decisions(reflex, world, manifest)
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
    say("  ".join(str(out / name) for name in names))


def assemble(config: EvaluateConfig, threads: int) -> Contest:
    """Return who is judged and where, with so many threads to step the oracle's simulations.

    Raises:
        UserError: the checkpoint is missing or damaged, or does not fit what is asked.
    """
    checkpoint = load_checkpoint(config.checkpoint, config.device)
    if config.replan_every is not None:
        trained = replace(checkpoint.config, replan_every=config.replan_every)
        checkpoint = replace(checkpoint, config=trained)
    task = _task(checkpoint.config.task, config.goal_steps)
    if config.protocol == "lewm":
        task = lewm_task(task)
    variation = read_variation(config.vary)
    world = World(task, checkpoint.config.image_size, threads=threads, variation=variation)
    planner = _planner(config, checkpoint.config.planner)
    watching = Alarm(math.inf, config.alarm) if config.alarm else None
    agent = checkpoint.agent(planner, config.cost, config.actor, watching)
    reflex = checkpoint.agent(planner, mode="reactive")
    policies = _policies(config, checkpoint, agent, reflex, planner, world)
    return Contest(checkpoint, planner, world, agent, reflex, policies)


def _alarmed(contest: Contest, config: EvaluateConfig) -> tuple[Contest, list[Tensor]]:
    """Set the threshold of the agent's alarm; return who is judged, and a list of its surprises."""
    assert config.alarm is not None
    world, checkpoint = contest.world, contest.checkpoint
    usual = World(world.task, world.image_size)
    alarm = Alarm(usual_threshold(contest.agent, usual, config.seed), config.alarm)
    agent = checkpoint.agent(contest.planner, config.cost, config.actor, alarm)
    policy, surprises = listen(agent)
    return replace(contest, agent=agent, policies=contest.policies | {"agent": policy}), surprises


def _todo(config: EvaluateConfig, contest: Contest, manifest: Manifest) -> dict[str, Manifest]:
    """Return the episodes that each policy has to run."""
    todo = dict.fromkeys(contest.policies, manifest)
    if contest.agent.reactive and not config.alarm and config.planner != "oracle":
        del todo["reactive"]  # the agent is it
    if "oracle" in todo:
        todo["oracle"] = manifest.first(config.oracle_episodes)
    return todo


def _run(contest: Contest, todo: dict[str, Manifest]) -> dict[str, Outcome]:
    """Run the episodes here, one policy after the other."""
    task, size = contest.world.task, contest.world.image_size
    outcomes = {}
    for name, manifest in todo.items():
        steps = task.budget_steps * len(split(manifest))
        with progress_bar(steps, name.replace("_", " "), unit="step") as bar:
            policy = contest.policies[name]
            outcomes[name] = run_episodes(task, size, policy, manifest, bar.update)
    return outcomes


def _run_on(
    workers: Cluster | Pool, config: EvaluateConfig, task: Task, todo: dict[str, Manifest]
) -> dict[str, Outcome]:
    """Share the episodes between workers; the oracle's, which take longer, apart."""
    oracle = {name: manifest for name, manifest in todo.items() if name == "oracle"}
    others = {name: manifest for name, manifest in todo.items() if name != "oracle"}
    outcomes = {
        **_share_out(workers, config, task, oracle, "oracle"),
        **_share_out(workers, config, task, others, "episodes"),
    }
    return {name: outcomes[name] for name in todo}


def _share_out(
    workers: Cluster | Pool,
    config: EvaluateConfig,
    task: Task,
    todo: dict[str, Manifest],
    label: str,
) -> dict[str, Outcome]:
    parts = [(name, part) for name, manifest in todo.items() for part in split(manifest)]
    if not parts:
        return {}
    found: dict[int, Outcome] = {}
    before = workers.ticks

    def show() -> None:
        done = max(workers.ticks - before, task.budget_steps * len(found))
        bar.update(done - bar.n)

    running = workers.map(
        judge_part,
        [(config, *part) for part in parts],
        accelerators=workers.accelerators(config.device),
        meanwhile=show,
    )
    with (
        progress_bar(task.budget_steps * len(parts), label, unit="step") as bar,
        closing(running),
    ):
        for index, outcome in running:
            found[index] = outcome
            show()
    return {
        name: join([found[i] for i, part in enumerate(parts) if part[0] == name]) for name in todo
    }


def judge_part(config: EvaluateConfig, name: str, part: Manifest) -> Outcome:
    """Run one policy through one part of the episodes; what a worker does."""
    contest = _assembled(config)
    task, size = contest.world.task, contest.world.image_size
    return run_part(task, size, contest.policies[name], part, tick)


@functools.lru_cache(maxsize=1)
def _assembled(config: EvaluateConfig) -> Contest:
    return assemble(config, threads=1)


def _look_into(
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    planner: PlannerConfig,
    world: World,
    manifest: Manifest,
    outcomes: dict[str, Outcome],
) -> tuple[dict[str, Any], list[Section]]:
    """Return what the lab finds, and its figures."""
    from mujepa.lab.figures import sections
    from mujepa.lab.lab import Lab
    from mujepa.lab.subject import Subject

    subject = Subject(checkpoint, planner, config.cost, config.actor)
    sweep_episodes = min(config.sweep_episodes, config.episodes)
    lab = Lab(subject, world, manifest, outcomes, config.seed, sweep_episodes, config.failures)
    found = lab.run()
    return found, sections(found, world.task)


def _task(name: str, goal_steps: int | None) -> Task:
    """Return the task, with goals as many steps ahead as asked for.

    Raises:
        UserError: its goals do not lie a number of steps ahead.
    """
    task = find_task(name)
    if goal_steps is None:
        return task
    usual = getattr(task, "goal_steps", None)
    if usual is None:
        raise UserError(
            f"--goal-steps is for tasks whose goals lie a number of steps ahead, {name!r} draws "
            "them freely; leave it out"
        )
    budget = task.budget_steps * goal_steps // usual
    return replace(task, goal_steps=goal_steps, budget_steps=budget)  # pyright: ignore


def _planner(config: EvaluateConfig, trained: PlannerConfig) -> PlannerConfig:
    asked = {
        "kind": None if config.planner == "oracle" else config.planner,
        "horizon": config.horizon,
        "samples": config.samples,
        "iterations": config.iterations,
    }
    try:
        return replace(trained, **{key: value for key, value in asked.items() if value is not None})
    except ValueError as error:
        raise UserError(str(error)) from error


def _policies(
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    agent: Agent,
    reflex: Agent,
    planner: PlannerConfig,
    world: World,
) -> dict[str, Policy[Any]]:
    search = make_planner(planner)
    if search.differentiates:  # the simulator has no gradient
        search = make_planner(replace(planner, kind="icem"))
    oracle = OraclePolicy(world, search)
    policies: dict[str, Policy[Any]] = {
        "agent": oracle if config.planner == "oracle" else AgentPolicy(agent),
        "reactive": AgentPolicy(reflex),
        "latent_l2": AgentPolicy(checkpoint.agent(planner, "goal", "planner")),
        "random": RandomPolicy(world),
        "zero": ZeroPolicy(world),
    }
    if config.oracle and config.planner != "oracle" and not world.task.looped:
        policies["oracle"] = oracle
    return policies


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
    baselines = {name: outcome.summary() for name, outcome in outcomes.items() if name != "agent"}
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
        **outcomes["agent"].summary(),
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
    solved = solved_share(world, manifest)
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
