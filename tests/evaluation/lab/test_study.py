"""What `mujepa evaluate --full` adds to an evaluation: sweeps and a figure for every part."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mujepa.cli.main import main
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluation.config import EvaluateConfig
from mujepa.evaluation.lab import study, sweeps
from mujepa.evaluation.lab.sweeps import (
    far_goals,
    quarters,
    replanning_periods,
    run_conditions,
    varied_factors,
)
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.protocol import lewm_manifest, lewm_task, solved_share
from mujepa.evaluation.runner import build

PRETRAINED = Path(__file__).parents[3] / "pretrained"
REACHER = PRETRAINED / "reacher"
SMALL = "horizon=2,samples=12,iterations=1,elites=4"
PARTS = {
    "paired", "open_loop", "representation", "ranking", "expectation", "distance", "replan",
    "factors", "lewm", "attribution",
}  # fmt: skip


def test_the_published_protocol_takes_both_ends_from_one_trajectory():
    world = World(lewm_task(find_task("two_room")))
    manifest = lewm_manifest(world, 20, seed=0)
    assert world.task.budget_steps == 50
    assert manifest.digest == lewm_manifest(world, 20, seed=0).digest
    assert [e.goal[0] - e.start[0] for e in manifest.episodes] == pytest.approx(
        [25 * world.task.substeps * world.model.opt.timestep] * 20
    )  # a state's first number is its time
    ends = (np.stack([getattr(e, end) for e in manifest.episodes]) for end in ("start", "goal"))
    near = world.task.distance(*map(world.achieved, ends)) <= world.task.tolerance
    assert solved_share(world, manifest).rate == near.mean()


def test_quarters_go_from_near_to_far_goals(world):
    manifest, held = make_manifest(world, 9, seed=0), np.arange(9) % 2 == 0
    found = quarters(world, manifest, held)
    assert [row["episodes"] for row in found] == [3, 2, 2, 2]
    assert sorted(row["remaining"] for row in found) == [row["remaining"] for row in found]


def test_sweeps_vary_only_factors_that_change_something():
    conditions = varied_factors(build(EvaluateConfig(REACHER), threads=1), episodes=1)
    names = {condition.about["factor"] for condition in conditions}
    assert {"mass", "light", "gain"} <= names
    assert "gravity" not in names  # the reacher lies flat


def test_sweeps_in_other_processes_give_the_outcomes_of_this_one(world):
    config = EvaluateConfig(REACHER, actor="planner", planner=SMALL, device="cpu")
    setup = build(config, threads=1)
    periods = replanning_periods(setup, make_manifest(world, 2, seed=0))
    assert [condition.about["replan_every"] for condition in periods] == [1, 2]
    conditions = [*periods, varied_factors(setup, episodes=2)[-1]]
    for condition, outcome in zip(conditions, run_conditions(conditions, "cpu"), strict=True):
        policy = build(condition.config, threads=1).policies["agent"]
        alone = run_episodes(world, policy, condition.manifest)
        np.testing.assert_array_equal(outcome.states, alone.states)


def test_goals_farther_ahead_have_a_proportional_budget():
    task = find_task("push_t")
    setup = build(EvaluateConfig(PRETRAINED / "push_t"), threads=1)
    conditions = far_goals(setup, episodes=1)
    assert [condition.about["goal_steps"] for condition in conditions] == [25, 50, 75]
    budgets = [condition.task.budget_steps for condition in conditions]
    assert budgets == [times * task.budget_steps for times in (1, 2, 3)]


def run_here(workers, function, pieces, steps, label):
    return [function(*piece) for piece in pieces]


@pytest.fixture(scope="module")
def evaluate_fully():
    """Return a function that evaluates a small reacher with --full and returns its result."""

    def run(out: Path):
        levels = {name: (2.0,) if name in ("mass", "light") else () for name in sweeps.LEVELS}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweeps, "LEVELS", levels)
            patch.setattr(sweeps, "run_parallel", run_here)
            patch.setattr(study, "HELD_OUT", (24, 20))
            patch.setattr(study, "USUAL_EPISODES", 8)
            patch.setattr(study, "VIDEOS", 8)
            patch.setattr(study, "SWEEP_EPISODES", 1)
            patch.setattr(study, "FAILURES", 1)
            size = f"--episodes 4 --oracle-episodes 1 --planner {SMALL} --device cpu --full"
            command = f"evaluate {REACHER} {size} --actor planner --cost goal --out {out}"
            assert main(command.split()) == 0
        return json.loads((out / "result.json").read_text())

    return run


@pytest.fixture(scope="module")
def full_evaluation(evaluate_fully, tmp_path_factory):
    out = tmp_path_factory.mktemp("full")
    return evaluate_fully(out), out


def test_every_part_has_a_result_and_a_figure(full_evaluation):
    result, out = full_evaluation
    assert result["lab"].keys() == PARTS
    assert result["lab"]["lewm"]["agent"]["episodes"] == 4
    assert result["lab"]["attribution"]["failures"] == 1
    figures = {path.stem for path in (out / "figures").glob("*.png")}
    assert figures == PARTS - {"representation"} | {"probes", "distances"}
    page = (out / "report.html").read_text()
    for title in ("Planning less often", "Other worlds", "Surprise at impossible events"):
        assert page.count(f"<h2>{title}</h2>") == 1


def test_the_same_command_gives_the_same_results(full_evaluation, evaluate_fully, tmp_path):
    assert evaluate_fully(tmp_path)["lab"] == full_evaluation[0]["lab"]


@pytest.mark.parametrize(
    "flags",
    ["--vary mass=2", "--planner oracle", "--protocol lewm"],
)
def test_flags_that_contradict_full_are_refused(flags, tmp_path, capsys):
    command = f"evaluate {REACHER} --full {flags} --out {tmp_path / 'out'}"
    assert main(command.split()) == 2
    assert flags.split()[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_published_protocol_is_named_in_the_result(tmp_path):
    size = f"--episodes 2 --planner {SMALL} --device cpu --no-oracle"
    command = f"evaluate {REACHER} {size} --protocol lewm --out {tmp_path}"
    assert main(command.split()) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["protocol"]["name"] == "lewm"
    assert result["protocol"]["already_solved"].keys() == {"rate", "low", "high"}
    assert result["budget_steps"] == 50


def test_a_browser_shows_the_report_without_a_network_and_plays_its_episodes(
    full_evaluation, open_offline
):
    result, out = full_evaluation
    with open_offline(out / "report.html") as page:
        headline = f"{100 * result['success_at_end']['rate']:.1f} %"
        assert page.locator(".headline").inner_text() == headline
        assert page.locator("svg").count() >= len(result["lab"])
        videos = page.locator("video").all()
        assert len(videos) > 1
        for video in videos:
            video.evaluate("it => it.play()")
            page.wait_for_function("it => it.currentTime > 0.2", arg=video.element_handle())
            pixels = np.asarray(Image.open(io.BytesIO(video.screenshot())), float)
            assert pixels.std() > 5, "the video is blank"
            assert video.evaluate("it => it.videoWidth") > 100
