"""Write files so that a crash leaves the old content or the new, never a mixture."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mujepa.runtime.errors import UserError

REMEDY = "free space or choose another folder with --out"


@contextmanager
def replacing_file(path: Path, remedy: str = REMEDY) -> Iterator[Path]:
    """Yield a temporary path to write; afterwards it is synced and renamed to `path`."""
    temporary = _temporary(path)
    with _writing(path, remedy):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; afterwards it is synced and takes the place of `path`.

    The old folder is moved aside first and removed last; `surviving_folder` finds it after a crash.
    """
    temporary, previous = _temporary(path), _previous(path)
    with _writing(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for file in (*temporary.iterdir(), temporary):
                _sync(file)
            if path.exists():
                shutil.rmtree(previous, ignore_errors=True)
                path.replace(previous)
            temporary.replace(path)
            _sync(path.parent)
            shutil.rmtree(previous, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def surviving_folder(path: Path) -> Path:
    """Return `path`, or its earlier version if a crash interrupted its replacement."""
    return _previous(path) if not path.exists() and _previous(path).exists() else path


def make_folder(path: Path) -> None:
    """Make a folder and its parents; raise UserError if that is not possible."""
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - anything JSON can hold
    """Replace a JSON file; NaN and infinity are refused, as JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file, or raise a UserError that ends with the remedy."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (not a JSON object); {remedy}")
    return value


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _writing(path: Path, remedy: str = REMEDY) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}; {remedy}"
        raise UserError(message) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
