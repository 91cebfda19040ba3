"""Import a dataset of Minari's: episodes that were recorded elsewhere, as experience in a task."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mujepa.envs.registry import find_task, named_task
from mujepa.envs.world import World
from mujepa.rollouts.minari_format import open_minari, read_ours
from mujepa.rollouts.minari_import import (
    Report,
    find_layout,
    guess_task,
    import_episodes,
    write_adopted,
)
from mujepa.rollouts.store import Dataset
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mujepa.rollouts.minari_format import Source
    from mujepa.rollouts.minari_import import Adopted


@dataclass(frozen=True)
class ImportConfig:
    """Make a dataset for `mujepa train TASK --data OUT` of one in Minari's format.

    What `mujepa export` wrote becomes what it was. Other datasets belong to a task, whose
    simulator must lead through the recorded states: these are read from `state`, from `qpos` and
    `qvel`, or from an observation that begins with positions and velocities. Images are drawn from
    them by the task's camera. docs/data.md says more. Needs: pip install 'mujepa[data]'.
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Folder of the dataset, or what Minari calls it once `minari download` has fetched it."""
    out: Path
    """Folder of the new dataset."""
    task: str | None = None
    """Name of the task: `reacher`, `gymnasium:InvertedPendulum-v5`, or a MuJoCo file of your own;
    by default that of the environment that the dataset names."""
    pixels: str | None = None
    """Name of recorded images to take instead of drawing them, such as `pixels`."""
    shortest: int = 10
    """Frames, one per model step, that an episode must have; shorter ones are left out."""
    goal_site: str | None = None
    """For a MuJoCo file: the site whose position is the goal; by default its only one."""
    camera: str | None = None
    """For a MuJoCo file: its camera to look through; by default its first, or one that sees all."""
    tolerance: float | None = None
    """For a MuJoCo file: how near the goal counts as reached [m]; by default 5 % of its size."""

    def __post_init__(self) -> None:
        if self.shortest < 2:
            raise UserError(f"--shortest must be at least 2, got {self.shortest}")


def import_data(config: ImportConfig) -> None:
    """Import the dataset that a configuration names; see `mujepa import --help`.

    Raises:
        UserError: there is none, it is damaged or does not fit the task, or the folder is taken.
    """
    if config.out.exists():
        raise UserError(f"--out {config.out} is there already; choose another folder")
    source = open_minari(config.dataset)
    if source.ours:
        if config.task or config.pixels:
            raise UserError(
                f"{config.dataset} was exported by mujepa and comes back as it was; leave out "
                "--task and --pixels"
            )
        with console.progress_bar(source.episodes, "import", unit="episode") as bar:
            for episodes in read_ours(source, config.out):
                bar.update(episodes)
    else:
        _adopt_others(config, source)
    dataset = Dataset(config.out, verify=False)
    console.print(
        f"{config.out}: {len(dataset)} episodes, {dataset.frames} frames of {dataset.spec.task}"
    )


def _adopt_others(config: ImportConfig, source: Source) -> None:
    name = config.task or guess_task(source)
    task = find_task(named_task(name, config.goal_site, config.camera, config.tolerance))
    world = World(task, threads=2)
    layout = find_layout(source, world, config.pixels)
    console.print(f"states from {layout.text}; actions lead from each to the next")
    with console.progress_bar(source.episodes, "import", unit="episode") as bar:

        def watched() -> Iterator[Adopted]:
            for episode in import_episodes(source, world, layout, config.pixels):
                bar.update()
                yield episode

        report = write_adopted(
            config.out, world, source.name, watched(),
            pixels=config.pixels, shortest=config.shortest,
        )  # fmt: skip
    for line in _lines(report, world, config.shortest):
        console.print(line)


def _lines(report: Report, world: World, shortest: int) -> Iterator[str]:
    """Yield what a person should know of what was changed."""
    if report.short:
        yield f"left out: {report.short} episodes of less than {shortest} frames"
    if report.clipped:
        yield f"outside of the bounds, and clipped: {100 * report.clipped:.1f} % of the actions"
    if report.changing:
        yield (
            f"in {100 * report.changing:.0f} % of the model steps (of {world.task.frame_skip} "
            f"environment steps) the action changed, and its mean was kept; held instead, it leads "
            f"{100 * report.astray:.0f} % of the way astray (median)"
        )
    if report.unlike is not None:
        yield (
            f"the recorded images are {report.unlike:.1f} of 255 grey levels from what the task's "
            "own camera sees (mean); the agent is judged by the latter"
        )


if __name__ == "__main__":
    sys.exit(run(import_data, ImportConfig))
