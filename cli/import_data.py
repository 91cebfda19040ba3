"""Import a dataset that Minari recorded, as a dataset of a task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from mujepa.envs.registry import find_task
from mujepa.rollouts.minari import Source, open_minari, restore_dataset
from mujepa.rollouts.replay import Imported, guess_task, import_episodes
from mujepa.rollouts.store import Dataset
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.settings import settings


@settings
class ImportConfig:
    """Make a dataset for `mujepa train TASK --data OUT` from one in Minari's format.

    What `mujepa export` wrote is restored bit for bit. Other datasets must contain the states of a
    task's simulator: `state`, `qpos` and `qvel`, or an observation that begins with positions and
    velocities. The task's camera draws the images. docs/data.md says more. Needs: pip install
    'mujepa[data]'.
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Folder of the dataset, or its name in Minari after `minari download`."""
    out: Path
    """Folder of the new dataset."""
    task: str | None = None
    """Name of the task: `reacher`, `gymnasium:InvertedPendulum-v5`, or a MuJoCo file of your own;
    by default that of the environment that the dataset names."""
    pixels: str | None = None
    """Name of recorded images to use instead of drawing them, such as `pixels`."""
    shortest: Annotated[int, Field(ge=2)] = 10
    """Frames, one per model step, that an episode must have; shorter ones are left out."""
    goal_site: str | None = None
    """For a MuJoCo file: the site whose position is the goal; by default its only one."""
    camera: str | None = None
    """For a MuJoCo file: the observation camera; by default its first, or one that shows all."""
    tolerance: float | None = None
    """For a MuJoCo file: distance at which the goal counts as reached [m]; by default 5 % of the
    model's size."""


def import_data(config: ImportConfig) -> Dataset:
    """Import the dataset that a configuration names; see `mujepa import --help`.

    Raises:
        UserError: there is none, it is damaged or does not fit the task, or the folder exists.
    """
    if config.out.exists():
        raise UserError(f"--out {config.out} exists already; choose another folder")
    source = open_minari(config.dataset)
    if source.exported and (config.task or config.pixels):
        raise UserError(
            f"{config.dataset} was exported by mujepa and is restored as it was; leave out "
            "--task and --pixels"
        )
    with console.progress_bar(source.dataset.total_episodes, "import", unit="episode") as bar:
        if source.exported:
            for episodes in restore_dataset(source, config.out):
                bar.update(episodes)
            lines: list[str] = []
        else:
            lines = [*_lines(_import(config, source, bar.update), config)]
    dataset = Dataset(config.out, verify=False)
    end = f"{config.out}: {len(dataset)} episodes, {dataset.frames} frames of {dataset.spec.task}"
    for line in (*lines, end):
        console.print(line)
    return dataset


def _import(config: ImportConfig, source: Source, on_episode: Callable[[], object]) -> Imported:
    name = config.task or guess_task(source)
    task = find_task(name, config.goal_site, config.camera, config.tolerance)
    pixels, shortest = config.pixels, config.shortest
    return import_episodes(
        source, task, config.out, pixels=pixels, shortest=shortest, on_episode=on_episode
    )


def _lines(found: Imported, config: ImportConfig) -> Iterator[str]:
    """Yield what was changed in the episodes."""
    yield f"states from {found.layout}; replaying the actions reproduces them"
    if found.short:
        yield f"left out: {found.short} episodes of less than {config.shortest} frames"
    if found.clipped:
        yield f"out of bounds, and clipped: {100 * found.clipped:.1f} % of the actions"
    if found.changing:
        yield (
            f"in {100 * found.changing:.0f} % of the model steps (of "
            f"{found.dataset.spec.frame_skip} environment steps) the action changed; its mean was "
            f"kept, and its replay deviates by {100 * found.deviation:.0f} % of a step (median)"
        )
    if config.pixels:
        yield (
            f"the recorded images differ by {found.image_difference:.1f} of 255 grey levels from "
            "the task's own camera (mean), which is used for evaluation"
        )


if __name__ == "__main__":
    sys.exit(run(import_data, ImportConfig))
