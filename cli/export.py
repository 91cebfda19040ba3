"""Export a dataset to Minari's format, which other libraries of offline learning read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import tyro

from mujepa.rollouts.minari import export_dataset, minari_root
from mujepa.rollouts.remote import is_url
from mujepa.rollouts.store import Dataset
from mujepa.runtime import console
from mujepa.runtime.errors import UserError
from mujepa.runtime.settings import settings


@settings
class ExportConfig:
    """Write a dataset in Minari's format; `mujepa import` restores it bit for bit.

    Images are not compressed, so that the export is as large as the dataset. A step of it is a
    model step. Needs: pip install 'mujepa[data]'.
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Folder of the dataset, or its URL."""
    id: str | None = None
    """Name of the dataset in Minari; by default mujepa/FOLDER-v0."""
    out: Path | None = None
    """Folder to write; by default where Minari finds it by its name."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([-\w]{2,}/)*[-\w]+-v\d+", self.name):
            raise UserError(
                f"--id {self.name}: Minari calls a dataset NAME-vNUMBER or NAMESPACE/NAME-vNUMBER, "
                "such as mujepa/reacher-v0"
            )

    @property
    def name(self) -> str:
        """Name of the dataset in Minari."""
        stem = re.sub(r"[^\w-]+", "-", self.dataset.rstrip("/").rsplit("/", 1)[-1]).strip("-")
        return self.id or f"mujepa/{stem}-v0"


def export(config: ExportConfig) -> Path:
    """Export the dataset that a configuration names, and return the new folder."""
    place = config.dataset.rstrip("/")
    dataset = Dataset(place if is_url(place) else Path(place))
    out = config.out or minari_root() / config.name
    with console.progress_bar(dataset.frames, "export", unit="frame") as bar:
        for frames in export_dataset(dataset, out, config.name):
            bar.update(frames)
    console.print(
        f"{out}: {len(dataset)} episodes, {dataset.frames} frames, for Minari {config.name}"
    )
    return out
