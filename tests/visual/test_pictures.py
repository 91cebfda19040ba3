"""Figures and videos of an agent, and the commands that make them."""

from __future__ import annotations

import contextlib
import subprocess
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest

from mujepa.cli.main import main
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.trace import trace_episode
from mujepa.visual.pictures import draw_plan, measure_surprise
from mujepa.visual.video import record_episode
from mujepa.visual.viewer import show_live


@pytest.mark.parametrize(
    ("show", "ending", "change"),
    [
        ("episode --every 25", "gif", "--episode 1"),
        ("plan", "png", "--step 40"),
        ("map", "png", "--episode 1"),
        ("surprise", "png", "--vary gain=0.3"),
    ],
)
def test_a_picture_is_the_same_for_the_same_and_another_for_another(
    checkpoint, decoder, tmp_path, monkeypatch, show, ending, change
):
    monkeypatch.setattr("mujepa.visual.pictures.FRAMES", 200)

    def picture(name: str, more: str) -> bytes:
        path = tmp_path / f"{name}.{ending}"
        command = f"visualize {checkpoint.folder} --show {show} --out {path} --device cpu {more}"
        assert main(command.split()) == 0
        return path.read_bytes()

    first = picture("first", "")
    assert picture("again", "") == first
    assert picture("other", change) != first
    if ending == "gif":
        film = iio.imread(tmp_path / "first.gif")
        assert film.shape == (5, 256 + 56, 3 * 256 + 16, 3)  # three panels, the cost below
        assert (film[0, 256:] != film[-1, 256:]).any()  # the cursor moves


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--out a.png", "name it .mp4 or .gif, or choose a picture with --show plan, map"),
        ("--out a", "ends in .mp4 or .gif"),
        ("--show plan --out a.mp4", "choose a name with --out plan.png"),
        ("--show map --out a.gif", "choose a name with --out map.png"),
        ("--show surprise --out a.svg", "choose a name with --out surprise.png"),
        ("--show plan --step 100 --out a.png", "an episode has steps 0 to 99"),
        ("--show map --out episode.rrd", "--show map"),
        ("--show viewer --vary wings=2", "wings"),
        ("--show viewer", "display"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line_before_anything_is_written(
    flags, said, checkpoint, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["visualize", str(checkpoint.folder), *flags.split()]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line
    assert {path.name for path in tmp_path.iterdir()} == {"reacher"}
    assert not list(checkpoint.folder.glob("decoder*"))


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
    np.testing.assert_array_equal(shown[agent.planner.horizon + 1], trace.goal_image)
    expected = decoder.decode(agent.predict(trace.agent_states[8])[0][0])
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


def test_the_imagined_image_is_a_rollout_from_a_horizon_ago(checkpoint, decoder, world, episode):
    agent = checkpoint.agent()
    recording = record_episode(agent, checkpoint.networks.probe, world, *episode, decoder, fan=True)
    assert recording.ago[:7].tolist() == [0, 1, 2, 3, 4, 5, 5]
    trace = trace_episode(agent, world, *episode)
    memory = trace.decisions[1].memory
    for state in trace.decisions[1:6]:
        memory = memory.push(state.action, agent.jepa.predictor(memory, state.action))
    expected = decoder.decode(memory.embeddings[:, -1])[0]
    np.testing.assert_array_equal(recording.decoded[recording.decision(26)], expected)


def test_the_fan_holds_the_cheapest_candidates_and_ends_where_they_lead(checkpoint, world, episode):
    agent, probe = checkpoint.agent(), checkpoint.networks.probe
    recording = record_episode(agent, probe, world, *episode, fan=True)
    assert record_episode(agent, probe, world, *episode).fans == []
    state = trace_episode(agent, world, *episode, steps=1).agent_states[0]
    assert recording.fans[0].shape == (32, agent.planner.horizon + 1, 2)
    search = state.plan.trace
    cheapest = search.candidates[:, search.costs[0].argmin()][:, None]
    end = probe(agent.jepa.rollout(state.memory, cheapest)[0, 0, -1])
    place = world.project(end.double().numpy())
    np.testing.assert_allclose(recording.fans[0][0, -1], place, atol=1e-5)


def test_a_rerun_recording_holds_the_episode_and_verifies(checkpoint, tmp_path):
    path = tmp_path / "new" / "episode.rrd"
    command = f"visualize {checkpoint.folder} --out {path} --decoder-updates 0 --device cpu"
    assert main(command.split()) == 0
    assert {file.name for file in path.parent.iterdir()} == {"episode.rrd"}
    rerun = Path(sysconfig.get_path("scripts")) / "rerun"
    verify = subprocess.run([rerun, "rrd", "verify", path], capture_output=True, text=True)
    assert verify.returncode == 0, verify.stderr
    printed = subprocess.run([rerun, "rrd", "print", path], capture_output=True, text=True).stdout
    for entity in ("/goal", "/camera", "/camera/plan", "/cost", "/distance_cm"):
        assert entity in printed


def test_the_viewer_shows_each_step_of_the_episode(checkpoint, world, episode, monkeypatch):
    shown = []

    @contextlib.contextmanager
    def launch_passive(model, data):
        yield SimpleNamespace(
            lock=contextlib.nullcontext,
            sync=lambda: shown.append(data.qpos.copy()),
            is_running=lambda: len(shown) < 10,
        )

    monkeypatch.setattr("mujoco.viewer.launch_passive", launch_passive)
    agent = checkpoint.agent()
    distance = show_live(agent, world, *episode)
    trace = trace_episode(agent, world, *episode, steps=9)
    np.testing.assert_array_equal(np.stack(shown), trace.states[:, 1 : 1 + world.model.nq])
    assert distance == trace.distance(trace.states[-1:])[0]
