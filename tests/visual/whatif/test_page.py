"""The what-if page in a browser, and its server."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.cli.main import main
from mujepa.visual.decoder import DecoderConfig, load_decoder

REACHER = Path(__file__).parents[3] / "pretrained" / "reacher"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, world):
    """A copy of the shipped reacher with a briefly trained decoder."""
    out = tmp_path_factory.mktemp("run") / "reacher"
    shutil.copytree(REACHER, out, ignore=shutil.ignore_patterns("what-if.json"))
    load_decoder(load_checkpoint(out, "cpu"), world, config=DecoderConfig(frames=200, updates=20))
    return out


@pytest.fixture(scope="module")
def server(folder):
    """A server's address; at the end Ctrl-C has to stop it, and nothing may have gone wrong."""
    log = folder.parent / "server.log"
    command = [sys.executable, "-m", "mujepa.cli", "visualize", str(folder), "--port", "0"]
    allow = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background shell ignores it
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--episode", "5"],
            stdout=output, stderr=subprocess.STDOUT, preexec_fn=allow,
        )  # fmt: skip
    try:
        while not (found := re.search(r"http://[^/]+(?=/ is open)", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield found[0]
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) in (0, 130)
    finally:
        process.kill()
        process.wait()
    assert not re.search("Traceback|warning", log.read_text()), log.read_text()


# ---------------------------------------------------------------------------------- server


def test_the_server_survives_invalid_requests(server):
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert b"400" in connection.recv(1000)


def test_the_server_listens_on_this_machine_alone(server):
    port = int(server.rpartition(":")[2])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    hosts = {line[1].split(":")[0] for line in listening if line[1].endswith(f":{port:04X}")}
    assert hosts == {"0100007F"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--port {taken}", "cannot listen on port {taken}"),
        ("--port 70000", "70000"),
        ("--port nowhere.invalid:0", "nowhere.invalid"),
        ("--vary mass=0.5:2", "--out"),
        ("--actor reactive --port 0", "proposing"),
        ("--cost nonsense --port 0", "nonsense"),
    ],
)
def test_invalid_flags_of_the_page_end_in_one_line(server, folder, flags, said, capfd):
    port = server.rpartition(":")[2]
    assert main(["visualize", str(folder), *flags.format(taken=port).split()]) == 2
    assert said.format(taken=port) in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("content", ['{"format": 1', '{"format": 1, "task": "reacher"}'])
def test_a_damaged_file_of_the_page_is_named(folder, tmp_path, capfd, content):
    run = shutil.copytree(folder, tmp_path / "run")
    (run / "what-if.json").write_text(content)
    assert main(["visualize", str(run), "--port", "0"]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert all(part in line for part in ("what-if.json", "damaged", "remove it"))


# ------------------------------------------------------------------------------------ page


@contextmanager
def opened(browser, address: str):
    """Yield the page in a window of its own; it must not load anything from elsewhere."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(address)
    page.wait_for_selector(".world-picture img[src^='data:']")
    settle(page)
    yield page
    page.close()
    assert all(url.startswith((address, "data:")) for url in requested)


def settle(page) -> None:
    """Wait until the page has not changed for a while."""
    before, quiet = "", 0
    while quiet < 3:
        page.wait_for_timeout(150)
        now = page.content()
        before, quiet = now, quiet + 1 if now == before else 0


def click(page, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).click()
    settle(page)


def wait_for_saved(folder: Path, name: str, value: object) -> None:
    """Wait until the saved state holds a value."""
    deadline = time.monotonic() + 20
    while (found := saved(folder)[name]) != value:
        assert time.monotonic() < deadline, f"{name} is {found}, not {value}"
        time.sleep(0.05)


def saved(folder: Path) -> dict:
    return json.loads((folder / "what-if.json").read_text())


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


def picture(page, name: str) -> tuple[np.ndarray, str]:
    """Return a picture's pixels and what is drawn over it."""
    found = page.locator(f".{name}-picture")
    pixels = np.asarray(Image.open(io.BytesIO(found.screenshot())), int)
    return pixels, found.locator("svg").inner_html()


def curve(page, kind: str = "line") -> str:
    return page.locator(f".curve-{kind}").first.get_attribute("points")


def test_a_drag_changes_both_pictures_and_a_plan_can_be_made_and_executed(server, browser, folder):
    with opened(browser, server) as page:
        click(page, "Zero")
        names, chart = ("world", "model"), page.locator(".chart").first
        before = {name: picture(page, name) for name in names}
        drawn = chart.screenshot()
        drag(page, 0, 0, 0.1)
        for name in names:
            pixels, overlay = picture(page, name)
            assert pixels.std() > 5, "the picture is blank"
            assert np.abs(pixels - before[name][0]).max() > 50
            assert overlay != before[name][1]
        assert chart.screenshot() != drawn
        value = page.locator(".curve-point[data-step='0'][data-action='0']")
        assert float(value.get_attribute("aria-valuenow")) > 0.7

        dragged = curve(page)
        click(page, "Plan")
        assert curve(page, "before") == dragged
        assert curve(page) != dragged
        click(page, "Step")
        page.get_by_text("step 1,").wait_for()
        assert page.evaluate("document.documentElement.scrollHeight") <= 800
    wait_for_saved(folder, "step", 1)
    with opened(browser, server) as page:  # as it was left
        page.get_by_text("step 1,").wait_for()


def test_an_invalid_cost_is_refused_next_to_the_field_and_changes_nothing(server, browser, folder):
    with opened(browser, server) as page:
        field = page.locator("textarea")
        field.fill("critic + nonsense")
        field.press("Enter")
        page.get_by_text("cannot read 'nonsense'").wait_for()
        click(page, "Plan")
        wait_for_saved(folder, "cost", "critic")
        for cost in ("goal", "critic"):
            field.fill(cost)
            field.press("Enter")
            page.get_by_text("cannot read").wait_for(state="detached")
            wait_for_saved(folder, "cost", cost)


def test_a_start_a_push_and_a_saved_state_can_be_chosen(server, browser, folder, tmp_path):
    with opened(browser, server) as page:
        page.get_by_label("Episode").fill("2")
        click(page, "Load")
        before = saved(folder)
        click(page, "Push")
        assert saved(folder)["states"] != before["states"]
        assert saved(folder)["start"] == before["start"]
        click(page, "Set goal to current")
        assert saved(folder)["goal"] != before["goal"]
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as", exact=True).click()
        download.value.save_as(tmp_path / "saved.json")
        click(page, "Random")
        assert saved(folder)["start"] != before["start"]
        page.locator("input[type=file]").set_input_files(tmp_path / "saved.json")
        wait_for_saved(folder, "start", before["start"])


def test_two_open_pages_do_not_disturb_one_another(server, browser):
    with opened(browser, server) as one, opened(browser, server) as other:
        before = curve(other)
        drag(one, 2, 0, 0.9)
        settle(other)
        assert curve(other) == before
        assert curve(one) != before


def test_a_run_ends_with_its_page(server, browser, folder):
    with opened(browser, server) as page:
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text(re.compile(r"^step ([3-9]|\d\d),")).wait_for()
    time.sleep(1.5)
    step = saved(folder)["step"]
    time.sleep(1.5)
    assert saved(folder)["step"] == step
