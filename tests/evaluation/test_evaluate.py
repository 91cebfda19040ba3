"""`mujepa evaluate`: the contract of result.json, the baselines, the report, and its settings."""

import json
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

import mujepa.evaluate
from mujepa.cli.main import main
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluate import evaluate
from mujepa.evaluation.config import EvaluateConfig, read_planner
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import OraclePolicy, ZeroPolicy
from mujepa.evaluation.result import read_result
from mujepa.evaluation.runner import build, find_far_task, run_policies
from mujepa.planners import ICEM, PLANNERS
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import sha256
from mujepa.runtime.parallel import Pool

PRETRAINED = Path(mujepa.__file__).parent / "pretrained"

REACHER = PRETRAINED / "reacher"
TOY = EvaluateConfig(
    REACHER, episodes=3, oracle_episodes=2, planner="samples=16,iterations=2", device="cpu"
)
VARIES = {"plan_ms", "reactive_ms", "wall_s", "command"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """An evaluation of the shipped reacher, and its folder."""
    out = tmp_path_factory.mktemp("evaluation")
    return evaluate(replace(TOY, out=out)), out


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Evaluate with other settings, without an oracle and with a single film."""
    monkeypatch.setattr(mujepa.evaluate, "FILMS", 1)
    monkeypatch.setattr("mujepa.evaluation.summaries.TIMED_DECISIONS", 5)
    return lambda **changes: evaluate(replace(TOY, oracle=False, out=tmp_path, **changes))


def test_result_json_keeps_its_contract(evaluated):
    result = json.loads((evaluated[1] / "result.json").read_text())
    assert result.keys() == {
        "env", "checkpoint", "weights", "seed", "manifest", "budget_steps", "tolerance",
        "hold_steps", "episodes", "success_at_end", "success_any", "median_final_distance",
        "by_distance", "plan_ms", "reactive_ms", "wall_s", "actor", "planner", "cost", "baselines",
        "by_episode", "command", "versions", "machine",
    }  # fmt: skip
    assert (result["env"], result["checkpoint"]) == ("reacher", str(REACHER))
    assert result["weights"] == sha256(REACHER / "model.safetensors")
    assert (result["seed"], result["episodes"], result["budget_steps"]) == (0, 3, 100)
    assert (result["tolerance"], result["hold_steps"]) == (0.05, 5)
    assert 0 < result["plan_ms"]["median"] <= result["plan_ms"]["p95"]
    assert {"kind": "icem", "samples": 16, "iterations": 2}.items() <= result["planner"].items()
    assert {"horizon", "elites", "replan_every"} <= result["planner"].keys()
    assert {"python", "mujepa", "torch", "mujoco", "numpy"} <= result["versions"].keys()
    assert result["machine"].keys() == {"processor", "cores", "system"}
    assert {name: len(values) for name, values in result["by_episode"].items()} == {
        "held": 3, "final_distance": 3, "digest": 3
    }  # fmt: skip
    assert list(result["baselines"]) == ["reactive", "latent_l2", "random", "zero", "oracle"]
    for name, figures in {"agent": result, **result["baselines"]}.items():
        episodes = figures["episodes"]
        assert episodes == (2 if name == "oracle" else 3)
        for key in ("success_at_end", "success_any"):
            rate = figures[key]
            assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] <= 1
            assert rate["rate"] * episodes == pytest.approx(round(rate["rate"] * episodes))
        assert figures["success_any"]["rate"] >= figures["success_at_end"]["rate"]
        assert 0 <= figures["median_final_distance"] < 1


def test_the_result_is_read_as_it_was_returned(evaluated):
    result, out = evaluated
    assert read_result(out) == read_result(out / "result.json") == result
    assert read_result(REACHER).by_episode.digest is None  # it is of an earlier version


def test_the_report_is_one_page_that_needs_nothing_else(evaluated):
    page = (evaluated[1] / "report.html").read_text()
    assert 1 < page.count("data:video/mp4;base64,") <= 4
    assert "<svg" in page
    assert 'src="http' not in page
    assert "<script src" not in page
    assert len(iio.imread(evaluated[1] / "episode.mp4")) == 101


def test_a_reactive_agent_is_run_once_and_as_the_reactive_baseline(evaluated, quick, capfd):
    result = quick(actor="reactive")
    assert result.actor == "reactive"
    assert result.reactive_ms == result.plan_ms
    baseline = evaluated[0].baselines["reactive"]
    assert result.policies["agent"] == result.baselines["reactive"] == baseline
    assert "reactive:" not in capfd.readouterr().err  # it has no progress bar of its own


def test_the_oracle_can_be_evaluated_instead_of_the_agent(evaluated, quick, tmp_path):
    result = quick(planner="oracle,samples=16,iterations=2", episodes=2)
    assert (result.planner["kind"], result.actor) == ("oracle", "planner")
    assert result.policies["agent"] == evaluated[0].baselines["oracle"]
    assert "oracle" not in result.baselines
    page = (tmp_path / "report.html").read_text()
    assert "not measured" in page
    assert "worst first" not in page  # no films: the learned agent's are not the oracle's
    assert not (tmp_path / "episode.mp4").exists()


def test_visits_of_an_avoided_region_are_counted_by_the_true_state(quick, capsys):
    result = quick(cost="goal + 9*avoid(fingertip.x>0.05)", episodes=4)
    assert result.violations is not None
    found = result.violations["fingertip.x>0.05"]
    world = World(find_task("reacher"))
    manifest = make_manifest(world, 4, 0)
    ends = [world.achieved(states)[:, 0] for states in manifest.ends]
    counts = (ends[0] <= 0.05) & (ends[1] <= 0.05)
    assert found["episodes"] == counts.sum() > 0
    outcome = run_episodes(world, ZeroPolicy(world), manifest)
    places = np.stack([world.achieved(states[1:])[:, 0] for states in outcome.states])
    assert found["zero"]["steps"] == (places[counts] > 0.05).mean()
    assert found["agent"]["success_at_end"].keys() == {"rate", "low", "high"}
    assert "of steps inside" in capsys.readouterr().out


def test_worker_processes_give_the_outcomes_of_this_process(monkeypatch):
    setup = build(replace(TOY, planner="samples=4,iterations=1", oracle=False), threads=1)
    policies = {name: setup.policies[name] for name in ("agent", "random")}
    setup, manifest = replace(setup, policies=policies), setup.make_manifest()
    monkeypatch.setattr(type(setup), "manifests", lambda _, all_: dict.fromkeys(policies, all_))
    here = run_policies(setup, manifest, Pool(1))
    there = run_policies(
        replace(setup, config=replace(setup.config, cluster="local")), manifest, Pool(1)
    )
    for name in policies:
        np.testing.assert_array_equal(here[name].states, there[name].states)


@pytest.mark.parametrize("kind", PLANNERS)
def test_the_planner_and_its_settings_can_be_exchanged(kind):
    setup = build(replace(TOY, planner=f"{kind},horizon=3,replan-every=2", cost="goal"), threads=1)
    assert isinstance(setup.agent.planner, PLANNERS[kind])
    assert (setup.agent.planner.horizon, setup.agent.replan_every) == (3, 2)
    assert setup.agent.configurator.cost.expression == "goal"
    oracle = setup.policies["oracle"]
    assert isinstance(oracle, OraclePolicy)
    assert isinstance(oracle.planner, ICEM if kind == "gradient" else PLANNERS[kind])


def test_settings_of_a_planner_are_read_with_or_without_its_kind():
    assert read_planner(None) == (None, {})
    assert read_planner("mppi") == ("mppi", {})
    assert read_planner("samples=8, min-std=0.1") == (None, {"samples": 8, "min_std": 0.1})
    with pytest.raises(UserError, match="'best' is neither a planner"):
        read_planner("best")


def test_goals_lie_farther_ahead_where_they_lie_a_number_of_steps_ahead(tmp_path, capfd):
    usual, far = (find_far_task("push_t", steps) for steps in (None, 50))
    assert (usual.goal_steps, usual.budget_steps) == (25, 50)
    assert (far.goal_steps, far.budget_steps) == (50, 100)
    out = tmp_path / "out"
    assert main(["evaluate", str(REACHER), "--protocol", "ahead=50", "--out", str(out)]) == 2
    assert "'reacher' draws them freely" in capfd.readouterr().err.splitlines()[-1]
    assert not out.exists()
