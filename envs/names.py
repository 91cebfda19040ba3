"""Names of tasks in files: `PATH.xml?goal_site=hand&camera=above&digest=...`, `PATH.py:TASK?...`.

Datasets and checkpoints store only the name of their task. The name of a user's own file therefore
holds the absolute path, every setting, and checksums: `digest` of the model with all files it
uses, `code` of the Python file, which is compared before any of it runs.
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from mujepa.runtime.errors import UserError

SETTINGS = ("goal_site", "camera", "tolerance", "code", "digest")


@dataclass(frozen=True)
class FileName:
    """The parts of the name of a task in a file."""

    path: Path  # absolute, of an .xml, or of a .py that holds a task
    item: str  # in a .py, the name of the task or of its class
    settings: dict[str, str]  # the given ones of `SETTINGS`

    @property
    def text(self) -> str:
        """The whole name."""
        given = {key: self.settings[key] for key in SETTINGS if key in self.settings}
        item, query = self.item and f":{self.item}", urllib.parse.urlencode(given)
        return f"{self.path}{item}{query and f'?{query}'}"

    def check(self, setting: str, file: Path) -> None:
        """Check that a file is there, and compare it with a checksum, if the name has it."""
        if not file.is_file():
            raise UserError(f"{file} is not there; put the file back, or give another")
        if self.settings.get(setting) not in (None, digest(file)):
            raise UserError(
                f"{file}, or a file that it needs, has been edited since this agent was "
                "trained or this data was collected; put the old one back, or collect and train "
                "anew"
            )


def is_file_name(name: str) -> bool:
    """Return whether a task's name is that of a file."""
    return bool(re.match(r".*\.(xml|mjcf)(\?|$)|.*\.py:\w+(\?|$)", name, re.IGNORECASE))


def parse(name: str) -> FileName:
    """Split a name into its parts."""
    place, _, query = name.partition("?")
    settings = dict(urllib.parse.parse_qsl(query))
    if unknown := settings.keys() - set(SETTINGS):
        raise UserError(
            f"unknown setting {min(unknown)!r} in {name!r}; there are {', '.join(SETTINGS)}"
        )
    item = re.search(r":(\w+)$", place)
    path = Path(place[: item.start()] if item else place).expanduser().resolve()
    return FileName(path, item[1] if item else "", settings)


def is_other_version(one: str, other: str) -> bool:
    """Return whether two names are of different versions of the same file."""
    if not is_file_name(one) or not is_file_name(other):
        return False
    first, second = parse(one), parse(other)
    return (first.path, first.item) == (second.path, second.item) and any(
        first.settings.get(key) != second.settings.get(key) for key in ("code", "digest")
    )


def digest(path: Path) -> str:
    """Return a checksum of a file and, if it is a model, of the files that it uses."""
    content = hashlib.sha256()
    for file in sorted({path.resolve(), *_used_files(path)}):
        content.update(hashlib.sha256(file.read_bytes()).digest())
    return content.hexdigest()[:16]


def _used_files(path: Path) -> set[Path]:
    if path.suffix.lower() == ".py":
        return set()
    import mujoco  # not at the top: names load no simulator

    try:
        spec = mujoco.MjSpec.from_file(str(path))
        files = {Path(file) for file in mujoco.mju_getXMLDependencies(str(path))}
    except (ValueError, mujoco.FatalError):  # compilation will say what is wrong
        return set()
    # MuJoCo's list misses assets whose folder another file names: add the places that it tries.
    folders = {file.parent for file in files}
    for name, assets in (
        (spec.meshdir, (*spec.meshes, *spec.hfields, *spec.skins)),
        (spec.texturedir, spec.textures),
    ):
        places = {path.parent / name, *folders}
        files |= {place / asset.file for asset in assets for place in places}
    return {file.resolve() for file in files if file.is_file()}


def folder_name(task: str) -> str:
    """Return a task's name as part of a folder's, different for different tasks."""
    if is_file_name(task):
        return f"{parse(task).path.stem}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"
    return re.sub(r"[^\w.-]", "-", task)
