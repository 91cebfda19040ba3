"""A sweep trains every combination, prunes the worse, continues where it stopped, and compares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.cli.main import main
from mujepa.cli.sweep import SweepConfig, percent, plan_runs, read_choice
from mujepa.runtime import console
from mujepa.runtime.cluster import connect
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import sha256
from mujepa.training.config import TrainConfig

TINY = """--episodes 12 --updates 4 --critic-updates 2 --ensemble-updates 2 --actor-updates 2
--batch 8 --checkpoint-every 1 --threads 1 --device cpu --planner.samples 16"""


@pytest.mark.filterwarnings("ignore:::ray.*", "ignore::ResourceWarning")
def test_a_sweep_that_was_interrupted_continues_and_prunes(tmp_path, capsys, monkeypatch):
    """It is interrupted as soon as one run is done.

    The second run learns nearly nothing and the third equals the first: whichever kind ranks
    worse, one of the two is pruned, as long as the records of the first are reported again.
    """
    pytest.importorskip("ray", reason="pip install 'mujepa[cluster]'")
    out = tmp_path / "sweep"
    command = f"""sweep reacher --out {out} --data {tmp_path / "data"} {TINY} --workers 1
    --try learning-rate=2e-3,1e-9,2e-3 --evaluation-episodes 4 --cluster local""".split()
    with connect("local", 1), monkeypatch.context() as patch:

        def interrupt(text: str) -> None:
            if "done" in text:
                raise KeyboardInterrupt

        patch.setattr(console, "print", interrupt)
        assert main(command) == 130
        patch.undo()
        run = out / "run-000"
        before = {path: sha256(path) for path in run.rglob("*") if path.is_file()}
        assert (run / "evaluation" / "result.json").exists()
        assert main(command) == 2  # without --resume
        assert main([*command, "--resume"]) == 0
    assert {path: sha256(path) for path in run.rglob("*") if path.is_file()} == before
    found = json.loads((out / "sweep.json").read_text())
    assert sorted(run["state"] for run in found["runs"]) == ["done", "done", "pruned"]
    (pruned,) = (out / run["name"] for run in found["runs"] if run["state"] == "pruned")
    assert not (pruned / "evaluation").exists()
    load_checkpoint(pruned)  # each run is one of `mujepa train`
    best = found["best"]
    assert best["new_success_at_end"].keys() == {"rate", "low", "high"}
    assert f"Best of 3: {best['name']}" in (out / "comparison.html").read_text()
    assert len(json.loads((out / "comparison.json").read_text())["results"]) == 2
    said = capsys.readouterr()
    assert "expect the latter" in said.out
    assert "holds a sweep already; continue it with --resume" in said.err
    assert not (out / ".tune").exists()


def sweep(*tried: str, **more) -> list[dict[str, str]]:
    return [
        run.tried for run in plan_runs(SweepConfig("reacher", Path("out"), tried=tried, **more))
    ]


def test_all_combinations_are_tried_or_some_of_them():
    everything = sweep("learning-rate=1e-3,2e-3", "critic.history=1,2")
    assert everything == [
        {"learning-rate": rate, "critic.history": history}
        for rate in ("1e-3", "2e-3")
        for history in ("1", "2")
    ]
    some = sweep("learning-rate=1e-3,2e-3", "critic.history=1,2", runs=3)
    assert len(some) == 3
    assert all(one in everything for one in some)
    assert some == sweep("learning-rate=1e-3,2e-3", "critic.history=1,2", runs=3)


def test_the_runs_are_trainings_with_these_settings_and_all_others_as_given():
    config = SweepConfig(
        "reacher", Path("out"), updates=7, tried=("critic.history=2", "cost=critic + 5*goal")
    )
    (one,) = plan_runs(config)
    assert one.config.critic.history == 2
    assert one.config.cost == "critic + 5*goal"
    assert one.config.updates == 7
    assert one.config.out == Path("out/run-000")
    assert type(one.config) is TrainConfig


@pytest.mark.parametrize(
    ("tried", "answer"),
    [
        ("learning-rate", "is not FLAG=VALUE,VALUE"),
        ("learning-rat=1", "'learning-rat' is no flag of mujepa train that can vary"),
        ("out=a,b", "'out' is no flag of mujepa train that can vary"),
        ("episodes=10,20", "'episodes' is no flag of mujepa train that can vary"),
        ("batch=0,1", "--batch must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_tried_is_refused_by_name(tried, answer):
    with pytest.raises(UserError, match=answer):
        sweep(tried)


def test_progress_grows_to_a_hundred_per_cent():
    config = TrainConfig("reacher", Path("out"))
    moments = [(0, 500), (0, 2000), (1, 2000), (2, 250), (2, 2500), (3, 1000)]
    far = [percent(config, {"stage_index": s, "update": u}) for s, u in moments]
    assert far == sorted(far)
    assert (far[0], far[-1]) == (18, 100)


def test_a_choice_is_read_as_it_was_meant():
    assert read_choice("--learning_rate=1,2") == ("learning-rate", ["1", "2"])
    assert read_choice("vary=mass=0.5:2") == ("vary", ["mass=0.5:2"])
