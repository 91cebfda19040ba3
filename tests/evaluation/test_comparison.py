"""`mujepa compare` sets evaluations side by side."""

import json
from pathlib import Path

import pytest

from mujepa.cli.main import main

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
