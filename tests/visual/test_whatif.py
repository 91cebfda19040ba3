"""The what-if page: what a change does, what the server answers, and what a browser shows."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.cli.main import main
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.runtime.errors import UserError
from mujepa.visual.decoder import DecoderConfig, load_decoder
from mujepa.visual.whatif.session import Session
from mujepa.visual.whatif.state import write_situation

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def session(world):
    return Session(load_checkpoint(ROOT / "pretrained" / "reacher", "cpu"), world)


@pytest.fixture(scope="module")
def situation(session):
    return session.plan(session.step(session.plan(session.episode(3))))


# ------------------------------------------------------------------------- what a change does


def test_a_dragged_action_changes_both_futures_from_its_step_on_and_not_before(session, situation):
    changed = session.drag(situation, 1, 0, -0.9)
    assert changed.sequence[1, 0] == np.float32(-0.9)
    one, other = session.futures(situation), session.futures(changed)
    np.testing.assert_array_equal(one.states[:2], other.states[:2])
    for kind in ("real", "imagined"):
        now, then = getattr(one, kind), getattr(other, kind)
        assert (now.embeddings[:2] == then.embeddings[:2]).all()
        assert (now.distance[:2] == then.distance[:2]).all()
        for step in range(2, session.horizon + 1):
            assert (now.embeddings[step] != then.embeddings[step]).any()
            assert now.distance[step] != then.distance[step]
            assert (now.path[step] != then.path[step]).any()
        assert now.costs[0] == then.costs[0]
        assert now.cost != then.cost


def test_what_is_dragged_beyond_the_bounds_stops_there_and_nonsense_is_refused(session, situation):
    assert session.drag(situation, 0, 1, 7.0).sequence[0, 1] == 1
    for step, action, value in ((9, 0, 0.0), (-1, 0, 0.0), (0, 2, 0.0), (0, 0, float("nan"))):
        with pytest.raises(UserError, match="steps"):
            session.drag(situation, step, action, value)


def test_the_real_future_is_that_of_the_simulator(session, situation):
    state = situation.present[None]
    for action in situation.sequence:
        for _ in range(session.checkpoint.config.frame_skip):
            state = session.world.step(state, session.world.from_unit(action)[None])
    np.testing.assert_array_equal(session.futures(situation).states[-1], state[0])


def test_a_step_leads_to_what_was_the_next_state_of_the_real_future(session, situation):
    after = session.step(situation)
    expected = session.futures(situation).states
    np.testing.assert_array_equal(after.present, expected[1])
    np.testing.assert_array_equal(after.sequence[:-1], situation.sequence[1:])
    np.testing.assert_array_equal(after.taken[-1], situation.sequence[0])
    np.testing.assert_array_equal(session.futures(after).states[:-1], expected[1:])
    assert after.step == situation.step + 1


def test_what_is_remembered_is_what_the_agent_itself_remembers(session):
    situation, agent, world = session.episode(0), session.checkpoint.agent(), session.world
    state = agent.reset(world.render(situation.goal[None])[0])
    for _ in range(4):
        image = world.render(situation.present[None])[0]
        for _ in range(agent.frame_skip):
            state, _ = agent.act(state, image)
        memory = session._memory(situation)
        torch.testing.assert_close(memory.embeddings, state.memory.embeddings, atol=1e-4, rtol=0)
        torch.testing.assert_close(memory.actions, state.memory.actions, atol=0, rtol=0)
        for action, value in enumerate(state.action[0]):
            situation = session.drag(situation, 0, action, float(value))
        situation = session.step(situation)


def test_a_plan_costs_no_more_than_the_sequence_before(session):
    for number in range(5):
        situation = session.drag(session.episode(number), 0, 0, 0.3)
        planned = session.plan(situation)
        futures = session.futures(planned)
        assert futures.imagined.cost <= futures.before.cost
        assert futures.before.cost == session.futures(situation).imagined.cost
        np.testing.assert_array_equal(planned.before, situation.sequence)


def test_the_same_situation_has_the_same_futures_and_the_same_plan(session, situation):
    one, other = session.futures(situation), session.futures(situation)
    assert (one.imagined.embeddings == other.imagined.embeddings).all()
    np.testing.assert_array_equal(one.states, other.states)
    np.testing.assert_array_equal(
        session.plan(situation).sequence, session.plan(situation).sequence
    )


def test_a_kick_changes_one_velocity_of_the_present_and_nothing_else(session, situation):
    kicked = session.kick(situation, 1, 2.5)
    nq = session.world.model.nq
    difference = kicked.states - situation.states
    assert difference[-1, 1 + nq + 1] == pytest.approx(2.5)
    difference[-1, 1 + nq + 1] = 0
    assert not difference.any()
    np.testing.assert_array_equal(kicked.sequence, situation.sequence)
    one, other = session.futures(situation), session.futures(kicked)
    assert (one.states[1] != other.states[1]).any()
    assert (one.imagined.embeddings == other.imagined.embeddings).all()  # no image showed it yet
    one, other = (session.futures(session.step(each)) for each in (situation, kicked))
    assert (one.imagined.embeddings != other.imagined.embeddings).any()


def test_a_cost_that_cannot_be_read_leaves_the_situation_alone(session, situation):
    before = write_situation(situation, "reacher")
    with pytest.raises(UserError, match="cannot read 'nonsense'"):
        session.weigh(situation, "critic + nonsense")
    assert write_situation(situation, "reacher") == before
    changed = session.weigh(situation, "goal + 100*avoid(y>0.1)")
    assert session.futures(changed).imagined.cost != session.futures(situation).imagined.cost


def test_the_costs_by_step_are_the_weighted_terms_before_any_aggregate(session, situation):
    changed = session.weigh(situation, "0.5*goal + 2*effort")
    future = session.futures(changed).imagined
    assert future.costs.mean() == pytest.approx(future.cost, rel=1e-5)
    last = session.futures(session.weigh(situation, "goal.last")).imagined
    assert last.costs[-1] == pytest.approx(last.cost, rel=1e-6)


def test_the_start_pose_can_be_chosen_and_the_present_can_be_made_the_goal(session, situation):
    sliders = {slider.name: slider for slider in session.sliders()}
    assert sliders.keys() == {"shoulder", "elbow"}
    assert sliders["elbow"].high == pytest.approx(2.7)
    posed = session.pose(situation, sliders["elbow"].index, 1.25)
    assert posed.present[1 + sliders["elbow"].index] == 1.25
    assert posed.step == 0
    wanted = session.want_present(situation)
    assert session.futures(wanted).real.distance[0] == pytest.approx(0, abs=1e-9)


def test_episodes_are_those_of_the_evaluation(session):
    from mujepa.evaluation.manifest import make_manifest

    episodes = make_manifest(session.world, 3, 0).episodes
    for number, episode in enumerate(episodes):
        np.testing.assert_array_equal(session.episode(number).start, episode.start)
        np.testing.assert_array_equal(session.episode(number).goal, episode.goal)
    with pytest.raises(UserError, match="no episode -1"):
        session.episode(-1)


def test_a_situation_written_and_read_is_the_same(session, situation):
    written = json.loads(json.dumps(write_situation(situation, "reacher")))
    again = session.read(written)
    assert write_situation(again, "reacher") == written
    np.testing.assert_array_equal(session.futures(again).states, session.futures(situation).states)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 0), ("task", "cube"), ("sequence", [[0, 0]]), ("sequence", [[2, 0]] * 5),
        ("states", []), ("states", [["x"] * 5]), ("start", [1e999] * 5), ("goal", {}),
        ("step", -1), ("step", True), ("cost", "nonsense"), ("cost", 3), ("taken", [[0, 0]] * 9),
        ("before", 7),
    ],
)  # fmt: skip
def test_a_damaged_situation_is_refused(session, situation, key, value):
    with pytest.raises(UserError):
        session.read(write_situation(situation, "reacher") | {key: value})
    for nothing in (None, [], "text", {}):
        with pytest.raises(UserError, match="no what-if situation"):
            session.read(nothing)


# ---------------------------------------------------------------------- what the server answers


@contextmanager
def serving(checkpoint: Path, *more: str):
    """Run the server; yield its address, its process, and the lines it has written so far."""
    command = [sys.executable, "-m", "mujepa.cli", "visualize", str(checkpoint), "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs behind a shell may not
    process = subprocess.Popen(
        [*command, "--device", "cpu", *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=environment, preexec_fn=heed,
    )  # fmt: skip
    lines: list[str] = []
    reader = None
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("http://"):
                break
        else:
            raise AssertionError(f"the server ended: {''.join(lines)}")
        reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
        reader.start()
        yield line.split("/ ")[0], process, lines
    finally:
        process.kill()
        process.wait()
        if reader is not None:
            reader.join()
        process.stdout.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's folder, with a decoder that has learned for a moment."""
    out = tmp_path_factory.mktemp("run") / "reacher"
    shutil.copytree(ROOT / "pretrained" / "reacher", out)
    (out / "what-if.json").unlink(missing_ok=True)
    checkpoint = load_checkpoint(out, "cpu")
    few = DecoderConfig(frames=200, updates=20)
    load_decoder(checkpoint, World(find_task("reacher")), config=few)
    return out


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as running:
        yield running


def post(address: str, content: bytes) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, content)) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def test_a_situation_is_asked_about_from_outside_the_page(server):
    address, _, _ = server
    with urllib.request.urlopen(f"{address}/situation") as answer:
        situation = json.loads(answer.read())
    status, planned = post(f"{address}/plan", json.dumps(situation).encode())
    assert status == 200
    status, futures = post(f"{address}/futures", json.dumps(planned).encode())
    assert status == 200
    assert futures["imagined"]["cost"] < futures["before"]["cost"]
    assert len(futures["real"]["distance"]) == len(planned["sequence"]) + 1
    status, stepped = post(f"{address}/step", json.dumps(planned).encode())
    assert (status, stepped["step"]) == (200, planned["step"] + 1)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b'{"format": 1}', b"[" * 10_000])
def test_a_malformed_request_is_refused_without_a_traceback(server, content):
    address, process, lines = server
    status, answer = post(f"{address}/futures", content)
    assert 400 <= status < 500
    assert "\n" not in answer["error"]
    assert process.poll() is None
    assert not any("Traceback" in line for line in lines)


def test_the_server_survives_bytes_that_are_no_request(server):
    address, process, lines = server
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert b"400" in connection.recv(1000)
    assert process.poll() is None
    assert not any("Traceback" in line for line in lines)


def test_the_server_listens_on_this_machine_alone(server):
    address, _, lines = server
    port = int(address.rpartition(":")[2])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    hosts = {line[1].split(":")[0] for line in listening if line[1].endswith(f":{port:04X}")}
    assert hosts == {"0100007F"}
    assert not any("warning" in line for line in lines)


def test_a_port_that_is_taken_is_named(server, folder, capfd):
    port = server[0].rpartition(":")[2]
    assert main(["visualize", str(folder), "--port", port]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert port in line
    assert "--port" in line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--port 70000", "70000"),
        ("--host nowhere.invalid", "nowhere.invalid"),
        ("--vary mass=0.5:2", "--out"),
        ("--actor reactive --port 0", "proposing"),
        ("--cost nonsense --port 0", "nonsense"),
    ],
)
def test_bad_flags_of_the_page_end_in_one_line(folder, flags, said, capfd):
    assert main(["visualize", str(folder), *flags.split()]) == 2
    assert said in capfd.readouterr().err.splitlines()[-1]


def test_a_damaged_file_of_the_page_is_named(folder, tmp_path, capfd):
    run = shutil.copytree(folder, tmp_path / "run")
    (run / "what-if.json").write_text('{"format": 1')
    assert main(["visualize", str(run), "--port", "0"]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "what-if.json is damaged" in line
    assert "remove it" in line


# ------------------------------------------------------------------------ what a browser shows


@contextmanager
def opened(browser, address: str):
    """Yield the page in a window of its own; it may ask nobody but the server."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector(".world-picture img[src^='data:']")
    settle(page)
    yield page
    page.close()
    assert all(url.startswith((address, "data:")) for url in asked)


def settle(page) -> None:
    """Wait until the page has not changed for a while."""
    before, quiet = "", 0
    while quiet < 3:
        page.wait_for_timeout(150)
        now = page.content()
        before, quiet = now, quiet + 1 if now == before else 0


def picture(page, name: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.locator(f".{name}-picture").screenshot())), int)


def drag(page, step: int, action: int, share: float) -> None:
    """Drag a point of a curve to a share of its height, from the top."""
    point = page.locator(f".curve-point[data-step='{step}'][data-action='{action}']")
    box, curve = point.bounding_box(), point.locator("xpath=..").bounding_box()
    across = box["x"] + box["width"] / 2
    page.mouse.move(across, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(across, curve["y"] + share * curve["height"], steps=8)
    page.mouse.up()
    settle(page)


def overlay(page, name: str) -> str:
    return page.locator(f".{name}-picture svg").inner_html()


def test_in_a_browser_a_drag_moves_the_world_and_the_imagination_and_the_plan_is_done(
    server, browser, folder
):
    address, process, lines = server
    with opened(browser, address) as page:
        page.get_by_role("button", name="Rest", exact=True).click()
        settle(page)
        names = ("world", "model")
        before = {name: (picture(page, name), overlay(page, name)) for name in names}
        drag(page, 0, 0, 0.1)
        for name in names:
            pixels, drawn = picture(page, name), overlay(page, name)
            assert pixels.std() > 5, "the picture is blank"
            assert np.abs(pixels - before[name][0]).max() > 50
            assert drawn != before[name][1]
        value = page.locator(".curve-point[data-step='0'][data-action='0']")
        assert float(value.get_attribute("aria-valuenow")) > 0.7

        dragged = page.locator(".curve-line").first.get_attribute("points")
        page.get_by_role("button", name="Plan", exact=True).click()
        page.wait_for_selector(".curve-before")
        settle(page)
        assert page.locator(".curve-before").first.get_attribute("points") == dragged
        assert page.locator(".curve-line").first.get_attribute("points") != dragged
        page.get_by_role("button", name="Step", exact=True).click()
        page.get_by_text("step 1,").wait_for()
        settle(page)
        assert page.evaluate("document.documentElement.scrollHeight") <= 800
    kept = json.loads((folder / "what-if.json").read_text())
    assert kept["step"] == 1
    with opened(browser, address) as page:  # as it was left
        page.get_by_text("step 1,").wait_for()
    assert process.poll() is None
    assert not any("Traceback" in line for line in lines), lines


def test_a_cost_that_cannot_be_read_is_said_beside_the_field_and_changes_nothing(server, browser):
    with opened(browser, server[0]) as page:
        field = page.locator("textarea")
        field.fill("critic + nonsense")
        field.press("Enter")
        page.get_by_text("cannot read 'nonsense'").wait_for()
        page.get_by_role("button", name="Plan", exact=True).click()
        settle(page)
        assert (
            json.loads(urllib.request.urlopen(f"{server[0]}/situation").read())["cost"] == "critic"
        )
        field.fill("goal")
        field.press("Enter")
        page.get_by_text("cannot read").wait_for(state="detached")
        settle(page)
        assert json.loads(urllib.request.urlopen(f"{server[0]}/situation").read())["cost"] == "goal"
        field.fill("critic")
        field.press("Enter")
        settle(page)


def test_two_open_pages_do_not_disturb_one_another(server, browser):
    with opened(browser, server[0]) as one, opened(browser, server[0]) as other:
        before = other.locator(".curve-line").first.get_attribute("points")
        drag(one, 2, 0, 0.9)
        settle(other)
        assert other.locator(".curve-line").first.get_attribute("points") == before
        assert one.locator(".curve-line").first.get_attribute("points") != before


def test_a_run_ends_with_its_page_and_the_server_with_control_c(folder, browser):
    with serving(folder, "--episode", "5") as (address, process, lines):
        with opened(browser, address) as page:
            page.get_by_role("button", name="Run", exact=True).click()
            page.get_by_text(re.compile(r"^step ([3-9]|\d\d),")).wait_for()

        def steps():
            return json.loads(urllib.request.urlopen(f"{address}/situation").read())["step"]

        time.sleep(1.5)
        stopped = steps()
        time.sleep(1.5)
        assert steps() == stopped
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) in (0, 130)
    assert not any("Traceback" in line for line in lines), lines
    kept = json.loads((folder / "what-if.json").read_text())
    assert kept["step"] == stopped
