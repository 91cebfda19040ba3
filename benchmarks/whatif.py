"""How soon the what-if page shows what a drag leads to, measured in a browser.

    python benchmarks/whatif.py [--tasks reacher push_t cartpole] [--drags 100]

A point of a curve is moved in headless Chromium as a mouse moves it; the time ends when the new
picture of the world has been loaded. The server's processor time is that of all its threads. The
decoder has learned for a moment only, which changes what it draws and not how long it takes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import numpy as np
from playwright.sync_api import sync_playwright

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.files import write_json
from mujepa.runtime.provenance import machine, versions
from mujepa.visual.decoder import DecoderConfig, load_decoder

ROOT = Path(__file__).parents[1]
OFF = ("background-networking", "component-update", "gpu", "quic", "sync")
CHROMIUM = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{it}" for it in OFF)]
MOVE = """async (share) => {
  const point = document.querySelector(".curve-point[data-step='0'][data-action='0']");
  const curve = point.ownerSVGElement, box = curve.getBoundingClientRect();
  const image = document.querySelector(".world-picture img");
  const begun = performance.now();
  const loaded = new Promise((done, fail) => {
    image.addEventListener("load", done, { once: true });
    setTimeout(() => fail(new Error("no new picture")), 20000);
  });
  curve.dispatchEvent(new PointerEvent("pointermove", {
    bubbles: true, pointerId: 1, clientX: box.x + 50, clientY: box.y + share * box.height }));
  await loaded;
  return performance.now() - begun;
}"""


@dataclass(frozen=True)
class WhatIfConfig:
    """Measure the time from a drag to the picture on the what-if page."""

    tasks: tuple[str, ...] = ("reacher", "push_t", "cartpole")
    """Whose shipped checkpoints."""
    drags: int = 100
    """Movements of a point that are timed."""
    out: Path = ROOT / "benchmarks" / "results" / "whatif.json"
    """The figures."""


def measure(config: WhatIfConfig) -> None:
    """Write the figures of a configuration."""
    results: dict[str, Any] = {"drags": config.drags, "tasks": {}}
    for task in config.tasks:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / task
            shutil.copytree(ROOT / "pretrained" / task, folder)
            (folder / "what-if.json").unlink(missing_ok=True)
            world, few = World(find_task(task)), DecoderConfig(frames=200, updates=20)
            load_decoder(load_checkpoint(folder, "cpu"), world, config=few)
            results["tasks"][task] = found = drag(folder, config.drags)
        console.print(f"{task}: {found['median_ms']:.0f} ms, 95 % below {found['p95_ms']:.0f} ms")
    results |= {"load": os.getloadavg()[0], "machine": machine(), "versions": versions()}
    write_json(config.out, results)


def drag(folder: Path, drags: int) -> dict[str, float]:
    """Serve a checkpoint, move a point to and fro, and return the times."""
    command = [sys.executable, "-m", "mujepa.cli", "visualize", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        address = next(line for line in server.stdout if line.startswith("http")).split("/ ")[0]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(address)
            page.wait_for_selector(".world-picture img[src^='data:']")
            page.locator(".curve-point[data-step='0'][data-action='0']").hover()
            page.mouse.down()
            page.wait_for_timeout(1000)
            shares = 0.5 + 0.4 * np.sin(np.arange(1, drags + 11) / 2.5)
            before, times = 0.0, []
            for index, share in enumerate(shares):
                if index == 10:  # the first ones warm caches up
                    before = processor_seconds(server.pid)
                times.append(page.evaluate(MOVE, float(share)))
            used = processor_seconds(server.pid) - before
            browser.close()
    finally:
        server.kill()
        server.wait()
    return {
        "median_ms": float(np.median(times[10:])),
        "p95_ms": float(np.quantile(times[10:], 0.95)),
        "server_processor_ms": 1000 * used / drags,
    }


def processor_seconds(process: int) -> float:
    """Return the processor time that a process has used [s]."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(run(measure, WhatIfConfig))
