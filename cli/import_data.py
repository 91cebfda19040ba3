"""Import a dataset that Minari recorded, as a dataset of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from mujepa.envs.registry import find_task
from mujepa.rollouts.minari import open_minari, restore_dataset
from mujepa.rollouts.replay import guess_task, import_episodes
from mujepa.rollouts.store import Dataset
from mujepa.runtime import console
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
    """Import the dataset that a configuration names; see `mujepa import --help`."""
    if config.out.exists():
        raise UserError(f"--out {config.out} exists already; choose another folder")
    source, notes = open_minari(config.dataset), []
    if source.exported and (config.task or config.pixels):
        raise UserError(
            f"{config.dataset} was exported by mujepa and is restored as it was; leave out "
            "--task and --pixels"
        )
    with console.progress_bar(source.dataset.total_episodes, "import", unit="episode") as bar:
        if source.exported:
            for episodes in restore_dataset(source, config.out):
                bar.update(episodes)
        else:
            name = config.task or guess_task(source)
            notes = import_episodes(
                source,
                find_task(name, config.goal_site, config.camera, config.tolerance),
                config.out,
                pixels=config.pixels,
                shortest=config.shortest,
                on_episode=bar.update,
            )
    dataset = Dataset(config.out, verify=False)
    size = f"{len(dataset)} episodes, {dataset.frames} frames of {dataset.spec.task}"
    for line in (*notes, f"{config.out}: {size}"):
        console.print(line)
    return dataset
