"""`mujepa compare` sets evaluations side by side."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mujepa.cli.main import main
from mujepa.evaluation.comparison import compare_all
from mujepa.evaluation.result import read_result
from mujepa.evaluation.statistics import paired, rate_of

FOLDER = Path(__file__).parents[2] / "pretrained" / "reacher"
HEADING = "Comparison of 2 evaluations"


@pytest.fixture
def result():
    return json.loads((FOLDER / "result.json").read_text())


def test_evaluations_are_compared_from_their_files(result, tmp_path, capsys):
    worse = result | {"success_at_end": result["success_at_end"] | {"rate": 0.0}}
    worse["by_episode"] = result["by_episode"] | {"held": [False] * result["episodes"]}
    other = result | {"manifest": "0" * 64}
    for name, content in (("worse", worse), ("other", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    places = (
        f"{FOLDER} {FOLDER / 'result.json'} {tmp_path / 'worse.json'} {tmp_path / 'other.json'}"
    )
    assert main(f"compare {places} --out {tmp_path / 'comparison'}".split()) == 0
    found = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    first, same, worse, other = found["results"]
    assert first["paired"] is other["paired"] is None  # the latter has other episodes
    assert same["paired"]["difference"] == same["paired"]["low"] == same["paired"]["high"] == 0
    assert worse["paired"]["lost"] == sum(result["by_episode"]["held"])
    page = (tmp_path / "comparison" / "comparison.html").read_text()
    assert page.count(str(tmp_path / "worse.json")) >= 2
    assert "interquartile mean" in capsys.readouterr().out


def test_results_are_paired_on_common_episodes_and_only_there():
    shipped = read_result(FOLDER)
    digests = [str(index) for index in range(shipped.episodes)]
    whole = replace(shipped, by_episode=replace(shipped.by_episode, digest=digests))

    def cut(first, last, **changes):
        one = whole.by_episode
        kept = replace(
            one,
            held=[not held for held in one.held[first:last]],
            final_distance=one.final_distance[first:last],
            digest=digests[first:last],
        )
        rate, count = rate_of(np.array(kept.held)), last - first
        changes |= {"episodes": count, "success_at_end": rate, "manifest": f"{first}-{last}"}
        return replace(whole, by_episode=kept, **changes)

    part, later = cut(0, 100), cut(400, 450)
    found = compare_all([("a", whole), ("b", part), ("c", later), ("d", cut(0, 9, tolerance=0.1))])
    assert [row.common for row in found.results] == [0, 100, 50, 0]
    assert [row.against for row in found.results] == [None, "a", "a", None]
    assert found.results[1].paired == paired(part.held, whole.held[:100])
    assert found.pairing.startswith("2 of 4 results are paired")
    alone = compare_all([("b", part), ("c", later)])
    assert alone.pairing == "No two results have episodes in common, so none are paired."
    assert compare_all([("old", shipped), ("b", part)]).results[1].paired is None


def test_what_cannot_be_compared_is_refused(result, tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps(result | {"episodes": 5}))
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "c.json").write_text(json.dumps(result | {"planner": None}))
    for others, said in (
        ("", "at least two"),
        (tmp_path / "none", "no result.json"),
        (tmp_path / "a.json", "damaged"),
        (tmp_path / "b.json", "is damaged"),
        (tmp_path / "c.json", "is damaged"),
    ):
        command = f"compare {FOLDER} {others} --out {tmp_path / 'comparison'}"
        assert main(command.split()) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "comparison").exists()


def test_a_browser_shows_a_comparison_without_a_network(tmp_path, open_offline, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    assert main(f"compare reacher reacher/result.json --out {tmp_path}".split()) == 0
    with open_offline(tmp_path / "comparison.html") as page:
        assert page.locator("h1").inner_text() == HEADING
        assert page.locator("table").first.locator("tr").count() == 3
