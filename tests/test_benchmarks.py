"""The comparison with the peer: its protocol, its ratios and its tables, without the peer."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mujepa.runtime.errors import UserError

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


peers, page = load("peers"), load("performance_page")


@pytest.fixture
def work():
    """Return a small piece of our side's work."""
    return peers.Request("collection", {"task": "reacher", "episodes": 1, "folder": "FOLDER"})


def test_our_worker_answers_each_request_with_one_line_of_one_repeat(work, tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "worker_ours.py"],
        input=2 * work.line(tmp_path), capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"mujepa", "torch", "mujoco"} <= first["versions"].keys()
    assert len(answers) == 2
    for answer in answers:
        assert answer.keys() == {"count", "wall_s", "processor_s", "peak_mb"}
        assert answer["count"] == 51
        assert answer["wall_s"] > 0
        assert answer["peak_mb"] > 10


def test_a_part_is_measured_in_turns_and_says_how_much_better_we_are(work, tmp_path):
    class Ours(peers.Sides):
        def worker(self, side):
            return super().worker("ours")

    part = peers.Part("frames/s", (peers.Comparison("reacher", work, {"again": work}),))
    sides = Ours(Path(sys.executable), 1, tmp_path)
    result = peers.measure(part, sides, repeats=2, clock="wall")
    (row,) = result["rows"]
    assert len(row["theirs"]["repeats"]) == len(row["ours"]["again"]["repeats"]) == 2
    expected = row["ours"]["again"]["median"] / row["theirs"]["median"]
    assert result["ratios"] == {"reacher: again": expected}


@pytest.mark.parametrize(("unit", "better"), [("frames/s", 5), ("s", 0.2), ("MB", 0.2)])
def test_a_ratio_is_ours_over_theirs_and_above_one_where_we_are_better(unit, better):
    rows = [{"name": "x", "theirs": {"median": 2.0}, "ours": {"y": {"median": 10.0}}}]
    assert peers.ratios(unit, rows) == {"x: y": pytest.approx(better)}


def test_a_worker_that_stops_is_told_by_what_it_said_last(tmp_path):
    sides = peers.Sides(Path(sys.executable), 1, tmp_path)
    with sides.worker("ours") as worker, pytest.raises(UserError, match="KeyError: 'nonsense'"):
        worker.ask(peers.Request("nonsense").line(tmp_path))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--peer", "nowhere/python"], "no peer to compare with: nowhere/python is not there"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--parts", "speed"], "no part 'speed'; there are: collection, planning"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(flags, said, tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "peers.py", *flags, "--out", tmp_path / "out"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"mujepa: {said}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def measured(folder: Path) -> Path:
    for name, part in peers.PARTS.items():
        summary = {"median": 10.0, "repeats": [10.0]}
        rows = [
            {"name": c.name, "theirs": {"median": 2000.0, "repeats": [2000.0]},
             "ours": dict.fromkeys(c.ours, summary)}
            for c in part.comparisons
        ]  # fmt: skip
        installed = {"mujepa": "1", "stable-worldmodel": "2", "torch": "3", "mujoco": "4"}
        result = {
            "unit": part.unit, "rows": rows, "ratios": peers.ratios(part.unit, rows),
            "versions": {"ours": installed, "theirs": installed}, "clock": "wall", "threads": 1,
            "machine": {"processor": "abacus"},
        }  # fmt: skip
        if name == "training":
            result["minutes_to_success"] = peers.minutes_to_success(result)
        (folder / f"{name}.json").write_text(json.dumps(result))
    return folder


def test_the_tables_are_made_of_the_results_alone(tmp_path):
    text = "before\n<!-- peers -->\nold\n<!-- /peers -->\nafter\n"
    made = page.filled(text, measured(tmp_path))
    assert made.startswith("before\n<!-- peers -->\n| ")
    assert made.endswith(" |\n<!-- /peers -->\nafter\n")
    assert "old" not in made
    compared = [c for part in peers.PARTS.values() for c in part.comparisons]
    assert made.count("\n| **") == sum(len(c.ours) for c in compared) + 1
    assert "| **memory**, import: import | 10 MB | 2,000 MB | **200 x** |" in made
    assert "| **collection**, cube: our task | 10 frames/s | 2,000 frames/s | **0.005 x** |" in made
    assert "extrapolated" in made
    assert page.filled(made, tmp_path) == made
    assert "abacus" in page.origin(tmp_path)


def test_a_page_without_markers_is_left_alone(tmp_path):
    with pytest.raises(UserError, match="no markers"):
        page.filled("nothing\n", tmp_path)


@pytest.mark.parametrize("name", ["performance", "scale"])
def test_a_page_says_what_was_measured(name):
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert text == page.filled(text, page.RESULTS), "run `make pages`"


def test_any_device_is_measured_beside_one_core(tmp_path):
    out = tmp_path / "accelerator.json"
    sizes = ["--environments", "1", "--batches", "16", "--no-success", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "accelerator.py", *sizes, "--out", out],
        cwd=ROOT, capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["device"] == "cpu"
    (plans,) = found["planning"].values()
    (ratio,) = found["ratios"].values()
    assert ratio == plans["one core"] / plans["device"]
    assert found["training"].keys() == {"batch 16, float32", "batch 16, bfloat16"}
    assert all(0 < row["utilisation"] < 1.5 for row in found["training"].values())
