"""Figures of an agent, and the commands that draw them."""

from __future__ import annotations

import numpy as np
import pytest

from mujepa.cli.main import main
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.trace import trace_episode
from mujepa.visual.decoder import find_decoder
from mujepa.visual.pictures import draw_plan, measure_surprise


@pytest.fixture
def folder(checkpoint, decoder, monkeypatch):
    """A checkpoint with a decoder; figures show fewer frames."""
    monkeypatch.setattr("mujepa.visual.pictures.FRAMES", 200)
    return checkpoint.folder


@pytest.mark.parametrize(
    ("show", "ending", "change"),
    [
        ("episode", "gif", "--episode 1"),
        ("plan", "png", "--step 40"),
        ("map", "png", "--episode 1"),
        ("surprise", "png", "--vary gain=0.3"),
    ],
)
def test_a_picture_is_the_same_for_the_same_and_another_for_another(
    folder, tmp_path, show, ending, change
):
    def picture(name: str, more: str) -> bytes:
        path = tmp_path / f"{name}.{ending}"
        every = "--every 25" if show == "episode" else ""
        command = f"visualize {folder} --show {show} --out {path} --device cpu {every} {more}"
        assert main(command.split()) == 0
        return path.read_bytes()

    first = picture("first", "")
    assert picture("again", "") == first
    assert picture("other", change) != first


@pytest.mark.parametrize(
    ("show", "name", "remedy"),
    [
        ("episode", "a.png", "name it .mp4 or .gif, or choose a picture with --show plan, map"),
        ("episode", "a", "ends in .mp4 or .gif"),
        ("plan", "a.mp4", "choose a name with --out plan.png"),
        ("map", "a.gif", "choose a name with --out map.png"),
        ("surprise", "a.svg", "choose a name with --out surprise.png"),
    ],
)
def test_a_name_that_does_not_fit_is_refused_before_anything_is_done(
    checkpoint, tmp_path, capfd, show, name, remedy
):
    out = tmp_path / "out" / name
    assert main(f"visualize {checkpoint.folder} --show {show} --out {out}".split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert remedy in line
    assert not out.parent.exists()
    assert find_decoder(checkpoint) is None


def test_a_step_after_the_end_of_the_episode_is_refused(folder, tmp_path, capfd):
    out = tmp_path / "plan.png"
    assert main(f"visualize {folder} --show plan --step 100 --out {out}".split()) == 2
    assert "an episode has steps 0 to 99" in capfd.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_a_filmstrip_shows_what_the_simulator_makes_of_the_plan(
    checkpoint, decoder, world, episode
):
    agent = checkpoint.agent()
    figure = draw_plan(agent, decoder, world, *episode, step=9)  # the decision was at 8
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert len(shown) == 2 * (1 + agent.planner.horizon + 1)
    trace = trace_episode(agent, world, *episode, steps=13)
    now, after = trace.images(trace.states[[8, 12]])  # it does the first action of the plan
    np.testing.assert_array_equal(shown[0], now)
    np.testing.assert_array_equal(shown[1], after)
    np.testing.assert_array_equal(
        shown[agent.planner.horizon + 1], trace.images(trace.goal[None])[0]
    )
    state = trace.agent_states[8]
    expected = decoder.decode(agent.predict(state)[0][0])
    np.testing.assert_array_equal(np.stack(shown[-6:-1]), expected)


def test_the_world_model_is_more_surprised_where_the_arm_is_heavier(checkpoint, world, episode):
    varied = World(world.task, variation=read_variation("mass=4"))
    heavy = make_manifest(varied, 1, 0).episodes[0]
    agent = checkpoint.agent()
    usual, surprised = (
        measure_surprise(trace_episode(agent, where, one, episode[1], steps=40), 1.0).ratio.mean()
        for where, one in ((world, episode[0]), (varied, heavy))
    )
    assert surprised > 1.5 * usual
