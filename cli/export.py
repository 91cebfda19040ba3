"""Export a dataset to Minari's format, which other libraries of offline learning read."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mujepa.rollouts.minari_format import minari_root, write_minari
from mujepa.rollouts.remote import is_url
from mujepa.rollouts.store import Dataset
from mujepa.runtime import console
from mujepa.runtime.command import run


@dataclass(frozen=True)
class ExportConfig:
    """Write a dataset of ours as one of Minari's, from which `mujepa import` makes the same again.

    Images are kept bit for bit, so that it takes as much room as the dataset does. A step of it is
    a model step. Needs: pip install 'mujepa[data]'.
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Folder of the dataset, or its URL."""
    id: str | None = None
    """What Minari is to call it; by default mujepa/FOLDER-v0."""
    out: Path | None = None
    """Folder to write; by default where Minari finds it by its id."""

    @property
    def name(self) -> str:
        """What Minari is to call it."""
        stem = re.sub(r"[^\w-]+", "-", self.dataset.rstrip("/").rsplit("/", 1)[-1]).strip("-")
        return self.id or f"mujepa/{stem}-v0"


def export(config: ExportConfig) -> None:
    """Export the dataset that a configuration names; see `mujepa export --help`.

    Raises:
        UserError: it is missing or damaged, Minari is not installed, or nothing can be written.
    """
    place = config.dataset.rstrip("/")
    dataset = Dataset(place if is_url(place) else Path(place))
    out = config.out or minari_root() / config.name
    with console.progress_bar(dataset.frames, "export", unit="frame") as bar:
        for frames in write_minari(dataset, out, config.name):
            bar.update(frames)
    console.print(
        f"{out}: {len(dataset)} episodes, {dataset.frames} frames, for Minari {config.name}"
    )


if __name__ == "__main__":
    sys.exit(run(export, ExportConfig))
