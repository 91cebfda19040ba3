"""Videos of episodes, Rerun recordings, and the live viewer."""

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
from mujepa.evaluation.trace import trace_episode
from mujepa.visual.video import record_episode
from mujepa.visual.viewer import show_live


def test_a_film_has_three_panels_and_below_them_the_cost(checkpoint, decoder, tmp_path):
    out = tmp_path / "a.gif"
    assert main(f"visualize {checkpoint.folder} --out {out} --every 25 --device cpu".split()) == 0
    film = iio.imread(out)
    assert film.shape == (5, 256 + 56, 3 * 256 + 16, 3)
    assert (film[0, 256:] != film[-1, 256:]).any()  # the cursor moves


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
    plan = trace_episode(agent, world, *episode, steps=1).agent_states[0].plan
    assert recording.fans[0].shape == (32, agent.planner.horizon + 1, 2)
    cheapest = plan.trace.candidates[:, plan.trace.costs[0].argmin()][:, None]
    state = trace_episode(agent, world, *episode, steps=1).agent_states[0]
    end = probe(agent.configurator.rollout(state.memory, cheapest)[0, 0, -1])
    place = world.project(end.double().numpy())
    np.testing.assert_allclose(recording.fans[0][0, -1], place, atol=1e-5)


def test_a_rerun_recording_holds_the_episode_and_verifies(checkpoint, tmp_path):
    path = tmp_path / "new" / "episode.rrd"
    command = f"visualize {checkpoint.folder} --rerun {path} --decoder-updates 0 --device cpu"
    assert main(command.split()) == 0
    assert {file.name for file in path.parent.iterdir()} == {"episode.rrd"}
    rerun = Path(sysconfig.get_path("scripts")) / "rerun"
    verify = subprocess.run([rerun, "rrd", "verify", path], capture_output=True, text=True)
    assert verify.returncode == 0, verify.stderr
    printed = subprocess.run([rerun, "rrd", "print", path], capture_output=True, text=True).stdout
    for entity in ("/goal", "/camera", "/camera/plan", "/cost", "/distance_cm"):
        assert entity in printed


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--rerun episode.mp4", ".rrd"),
        ("--rerun episode.rrd --show map --out map.png", "--show map"),
        ("--viewer --vary wings=2", "wings"),
        ("--viewer", "display"),
    ],
)
def test_what_cannot_be_shown_live_or_recorded_is_refused(
    flags, said, checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["visualize", str(checkpoint.folder), *flags.split()]) == 2
    assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"reacher"}


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
