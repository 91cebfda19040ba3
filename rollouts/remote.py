"""Copies of files at URLs, made by fsspec and kept in the user's cache folder.

A copy appears whole, and only if its checksum is right. The cache folder is `mujepa` in
$XDG_CACHE_HOME, or in ~/.cache; it may be deleted at any time.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from mujepa.runtime.errors import UserError
from mujepa.runtime.files import replacing_file, sha256

NO_ROOM = "free space, or set XDG_CACHE_HOME to another folder"


class UnreachableError(UserError):
    """The network or the server does not answer; a later attempt may succeed."""


def is_url(place: object) -> bool:
    """Return whether this is a URL that fsspec reads, such as `s3://bucket/data`."""
    return bool(re.match(r"[a-z][a-z0-9+.:-]*:/", str(place)))


def cache_folder() -> Path:
    """Return the folder for copies of files at URLs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mujepa"


def holds(path: Path, digest: str) -> bool:
    """Return whether a file exists and has this SHA-256."""
    return path.is_file() and sha256(path) == digest


def fetch(url: str, path: Path, digest: str) -> None:
    """Copy a file with this SHA-256 from a URL, unless an intact copy exists."""
    if holds(path, digest):
        return
    with replacing_file(path, NO_ROOM) as temporary:
        download(url, temporary)
        if not holds(temporary, digest):
            raise UserError(f"{url} is damaged (checksum); copy it there again")


def download(url: str, path: Path) -> None:
    """Copy a file from a URL; raise UnreachableError if a later attempt may succeed."""
    import fsspec  # comes with torch; loads what a protocol needs

    try:
        system, place = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot read {url}: {error}; or copy the dataset to this disk") from error
    try:
        system.get_file(place, str(path))
    except FileNotFoundError as error:
        raise UserError(f"{url} does not exist; correct the URL, or copy it there") from error
    except Exception as error:  # every file system raises errors of its own
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UnreachableError(
            f"cannot read {url} ({said}); check the network and the permissions"
        ) from error
