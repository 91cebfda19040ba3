"""Names of tasks that carry their settings: `PATH.xml?goal_site=hand&camera=above&digest=...`.

A name is all that a dataset or a checkpoint keeps of its task, and all that a collecting process is
told. For a person's own file it therefore holds the absolute path, every setting, and a checksum
of the file with all that it includes: `digest` of models, `code` of Python, which is compared
before any of it runs.
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from mujepa.runtime.errors import UserError

SETTINGS = ("goal_site", "camera", "tolerance", "code", "digest")
DIGITS = 16


@dataclass(frozen=True)
class FileName:
    """The name of a task that a person's own file makes, taken apart.

    Attributes:
        path: absolute, of an .xml, or of a .py that holds a task.
        item: in a .py, the name of the task or of its class.
        settings: by name, those of `SETTINGS` that are given.
    """

    path: Path
    item: str
    settings: dict[str, str]

    @property
    def text(self) -> str:
        """The whole name."""
        query = urllib.parse.urlencode(
            {k: self.settings[k] for k in SETTINGS if k in self.settings}
        )
        item = f":{self.item}" if self.item else ""
        return f"{self.path}{item}" + (f"?{query}" if query else "")

    def check(self, setting: str, file: Path) -> None:
        """Compare a file with a checksum, where the name holds any.

        Raises:
            UserError: the file is gone, or it has been edited.
        """
        if not file.is_file():
            raise UserError(f"{file} is not there; put the file back, or give another")
        if self.settings.get(setting) not in (None, digest(file)):
            raise UserError(
                f"{file}, or a file that it needs, has been edited since this agent was "
                "trained or this data was collected; put the old one back, or collect and train "
                "anew"
            )


def is_file_name(name: str) -> bool:
    """Return whether a task's name means a file."""
    return bool(re.match(r".*\.(xml|mjcf)(\?|$)|.*\.py:\w+(\?|$)", name, re.IGNORECASE))


def parse(name: str) -> FileName:
    """Take a name apart.

    Raises:
        UserError: a setting is unknown.
    """
    place, _, query = name.partition("?")
    settings = dict(urllib.parse.parse_qsl(query))
    unknown = settings.keys() - set(SETTINGS)
    if unknown:
        raise UserError(
            f"unknown setting {min(unknown)!r} in {name!r}; there are {', '.join(SETTINGS)}"
        )
    path, item = re.fullmatch(r"(.*?)(?::(\w+))?", place).groups("")  # pyright: ignore
    return FileName(Path(path).expanduser().resolve(), item, settings)


def is_other_version(one: str, other: str) -> bool:
    """Return whether two names mean the same file at different times."""
    if not is_file_name(one) or not is_file_name(other):
        return False
    first, second = parse(one), parse(other)
    same = (first.path, first.item) == (second.path, second.item)
    return same and any(
        first.settings.get(checksum) != second.settings.get(checksum)
        for checksum in ("code", "digest")
    )


def digest(path: Path) -> str:
    """Return a checksum of a file and, if it is a model, of those that it names."""
    content = hashlib.sha256()
    for file in sorted(_files(path)):
        content.update(hashlib.sha256(file.read_bytes()).digest())
    return content.hexdigest()[:DIGITS]


def _files(path: Path) -> set[Path]:
    """Return a model's file and those it includes or draws its meshes and textures from."""
    found, pending = set(), [path.resolve()]
    folders = {path.parent.resolve()}
    while pending:
        file = pending.pop()
        found.add(file)
        try:
            root = ElementTree.fromstring(file.read_bytes()) if _is_model(file) else None
        except ElementTree.ParseError:
            root = None  # MuJoCo will say what is wrong with it
        if root is None:
            continue
        for compiler in root.iter("compiler"):
            for key in ("meshdir", "texturedir", "assetdir"):
                folders.add((path.parent / compiler.get(key, "")).resolve())
        named = [value for element in root.iter() for value in _named(element)]
        places = [folder / name for name in named for folder in {*folders, file.parent}]
        pending += [place for place in places if place.is_file() and place not in found]
    return found


def _is_model(file: Path) -> bool:
    return file.suffix.lower() in (".xml", ".mjcf", ".urdf")


def _named(element: ElementTree.Element) -> list[str]:
    return [value for key, value in element.items() if key.startswith("file")]


def folder_name(task: str) -> str:
    """Return a task's name as part of a file's, different for different tasks."""
    if is_file_name(task):
        stem = parse(task).path.stem
        return f"{stem}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"
    return re.sub(r"[^\w.-]", "-", task)
