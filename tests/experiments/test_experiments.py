"""The experiments: each runs from its command and says what it found; what they share."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp

from mujepa.benchmarks.markers import fill_markers
from mujepa.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
SCRIPTS = sorted(path for path in EXPERIMENTS.glob("*.py") if "EXPERIMENT.run" in path.read_text())
PUBLISHED = (ROOT / "Makefile").read_text().partition("EXPERIMENTS :=")[2].split("\n")[0].split()


@pytest.fixture(scope="module")
def experiment():
    spec = importlib.util.spec_from_file_location("experiment", EXPERIMENTS / "experiment.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_experiment_runs_and_says_what_it_found(script, tmp_path, monkeypatch, capfd):
    command = [str(script), "--smoke", "--work", str(tmp_path), "--out", str(tmp_path / "out")]
    pages = {path: path.read_bytes() for path in (ROOT / "docs").rglob("*.md")}
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    name = script.stem.replace("_", "-")
    record = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert record["experiment"] == name
    assert record["smoke"]
    assert record["verdict"] in {"holds", "holds in part", "fails", "undecided"}
    assert record["because"] in out
    assert record["figures"]
    assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert pages == {path: path.read_bytes() for path in pages}  # smoke publishes nothing


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_experiment_has_a_record_at_full_size_and_a_page_that_says_it(name):
    assert EXPERIMENTS / f"{name.replace('-', '_')}.py" in SCRIPTS
    record = json.loads((EXPERIMENTS / "results" / f"{name}.json").read_text())
    assert not record["smoke"]
    assert len(record["seeds"]) == 3
    assert record["minutes"] <= 60
    page = (ROOT / "docs" / "experiments" / f"{name}.md").read_text()
    assert record["claim"] in page
    assert f"**Verdict: {record['verdict']}.** {record['because']}" in page
    assert f"({name}.png)" in page
    assert f"experiments/{name}.md" in (ROOT / "docs" / "does-it-hold.md").read_text()


def test_the_interval_over_seeds_is_students(experiment):
    values = [0.5, 0.7, 0.9]
    found = experiment.over_seeds(values)
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.seeds == tuple(values)


def test_one_seed_has_no_interval_and_what_is_not_finite_is_refused(experiment):
    assert experiment.over_seeds([0.4]).low == experiment.over_seeds([0.4]).high == 0.4
    with pytest.raises(ValueError, match="finite"):
        experiment.over_seeds([0.4, float("nan")])


@pytest.mark.parametrize("seeds", [(), (0, 0), (-1,)])
def test_seeds_that_are_none_are_refused(experiment, seeds):
    with pytest.raises(UserError, match="--seeds"):
        experiment.ExperimentConfig(seeds=seeds)


def test_smoke_does_not_touch_what_is_published(experiment, tmp_path):
    config = experiment.ExperimentConfig(smoke=True, work=tmp_path)
    assert config.folder == tmp_path / "smoke"
    assert experiment.ExperimentConfig().folder is None


def test_the_minutes_are_those_of_all_calls_that_an_experiment_took(
    experiment, tmp_path, monkeypatch
):
    calls = []

    def find(config):
        calls.append(config.seeds)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return experiment.Finding("holds", "It did.", {"n": 1}, [["n"], [1]], Figure())

    flags = ["", "--smoke", "--work", str(tmp_path), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", flags)
    clock = iter([0.0, 120.0, 500.0, 560.0])
    monkeypatch.setattr(experiment.time, "monotonic", lambda: next(clock))
    claim = experiment.Experiment("claim", "It does.")
    assert claim.run(find, experiment.ExperimentConfig) == 130
    assert not (tmp_path / "claim.json").exists()
    assert claim.run(find, experiment.ExperimentConfig) == 0
    assert json.loads((tmp_path / "claim.json").read_text())["minutes"] == 3


def test_trainings_at_once_are_one_or_more(experiment):
    for jobs in (0, -1):
        with pytest.raises(UserError, match=f"--jobs must be at least 1, got {jobs}"):
            experiment.ExperimentConfig(jobs=jobs)


def test_a_table_escapes_what_would_end_a_cell(experiment):
    assert experiment.markdown([["a", "b|c"], [1, 2]]) == "| a | b\\|c |\n| --- | --- |\n| 1 | 2 |"


def test_what_stands_between_markers_is_replaced_and_nothing_else():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    made = fill_markers(text, {"x": r"new \1"})
    assert made == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    with pytest.raises(UserError, match="<!-- z -->"):
        fill_markers(text, {"z": ""})
