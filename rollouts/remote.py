"""Files that lie elsewhere, at any URL that fsspec reads, through a bounded cache on this disk.

    CACHE/datasets/HASH/          meta.json and every shard.json of a dataset, as last seen
    CACHE/files/SHA256            columns, named by their content

A column is fetched when it is first asked for, appears whole and only if its checksum is right,
and is deleted when room is needed and all others were used more recently. One process at a time
fetches or deletes; the others wait, and then find what was fetched.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mujepa.rollouts.columns import read_header, read_rows
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import make_folder, replacing_file, sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

GIGABYTES = 50.0
"""Size of the cache, if nothing else is asked for."""
PAUSES = (0.5, 2.0)
"""Seconds before the second and the third attempt to reach a column."""
NO_ROOM = "free space, or name another folder with --cache or a smaller size with --cache-gigabytes"


class UnreachableError(UserError):
    """The network, or the server, does not answer as it should; later it may."""


def is_url(place: object) -> bool:
    """Return whether this names something on another file system, such as `s3://bucket/data`."""
    return bool(re.match(r"[a-z][a-z0-9+.:-]*:/", str(place)))


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL.

    Attributes:
        url: where it is.
        bytes: its size.
        sha256: its checksum, in hexadecimal.
    """

    url: str
    bytes: int
    sha256: str


class Cache:
    """A folder that holds copies of remote files, up to a size; any number of processes share it.

    Args:
        folder: where; by default `mujepa` in the user's cache folder ($XDG_CACHE_HOME, ~/.cache).
        gigabytes: of columns that it holds at most.
    """

    def __init__(self, folder: Path | None = None, gigabytes: float = GIGABYTES) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = folder or home / "mujepa"
        self.limit = int(1e9 * gigabytes)
        self._files = self.folder / "files"
        self._checked: set[str] = set()

    def refresh(self, url: str) -> tuple[Path, bool]:
        """Fetch a dataset's meta.json into the folder that mirrors it.

        Returns:
            The folder, and whether the dataset was reached: if not, what it held when last seen.

        Raises:
            UserError: there is none, or it cannot be reached and was never seen.
        """
        mirror = self.folder / "datasets" / hashlib.sha256(url.encode()).hexdigest()[:16]
        meta = mirror / "meta.json"
        try:
            with replacing_file(meta, NO_ROOM) as temporary:
                download(f"{url}/meta.json", temporary)
                json.loads(temporary.read_bytes())  # no stray page takes the place of a good copy
        except ValueError as error:
            raise UserError(f"{url}/meta.json is damaged ({error}); copy it there again") from error
        except UnreachableError:
            if not meta.exists():
                raise
            return mirror, False
        return mirror, True

    def keep(self, url: str, path: Path, digest: str) -> None:
        """Fetch a small file for good, unless it is there.

        Raises:
            UserError: it cannot be fetched, or its checksum is another.
        """
        if path.exists() and sha256(path) == digest:
            return
        with replacing_file(path, NO_ROOM) as temporary:
            download(url, temporary)
            if sha256(temporary) != digest:
                raise _damaged(url)

    def open(self, file: RemoteFile) -> int:
        """Return a descriptor from which a file's content can be read, fetched if it has to be.

        A copy that is there already is checked when it is first used.

        Raises:
            UserError: it cannot be fetched, is damaged where it lies, or does not fit.
        """
        path = self._files / file.sha256
        while True:
            if file.sha256 in self._checked or _intact(path, file):
                self._checked.add(file.sha256)
                with suppress(FileNotFoundError):  # another process has just deleted it
                    os.utime(path)
                    return os.open(path, os.O_RDONLY)
            with self._alone():
                if not _intact(path, file):
                    self._fetch(file, path)

    def _fetch(self, file: RemoteFile, path: Path) -> None:
        """Fetch a file; called by one process at a time."""
        self._make_room(file)
        with replacing_file(path, NO_ROOM) as temporary:
            for pause in (*PAUSES, None):
                try:
                    download(file.url, temporary)
                    break
                except UnreachableError:
                    if pause is None:
                        raise
                    time.sleep(pause)
            if not _intact(temporary, file):
                raise _damaged(file.url)

    def _make_room(self, file: RemoteFile) -> None:
        """Delete what was not used for longest until the file fits."""
        if file.bytes > self.limit:
            raise UserError(
                f"{file.url} has {file.bytes / 1e9:.3g} GB; "
                f"raise --cache-gigabytes {self.limit / 1e9:.3g}"
            )
        for leftover in self._files.glob(".*.tmp"):
            leftover.unlink()
        there = [(path.stat(), path) for path in self._files.iterdir()]
        there.sort(key=lambda item: item[0].st_mtime_ns)
        total = file.bytes + sum(stat.st_size for stat, _ in there)
        for stat, path in there:
            if total <= self.limit:
                break
            path.unlink()
            total -= stat.st_size

    @contextmanager
    def _alone(self) -> Iterator[None]:
        make_folder(self._files)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class RemoteColumn:
    """The rows of a .npy file that lies elsewhere, as `Column` reads those of a local one.

    Args:
        cache: holds the copy that is read.
        file: the file.
    """

    def __init__(self, cache: Cache, file: RemoteFile) -> None:
        self._cache, self._file = cache, file

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all rows, (F, ...)."""
        return self._header[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of their numbers."""
        return self._header[1]

    def read(self, first: int, rows: NDArray[Any]) -> None:
        """Fill an array (T, ...) with the rows from `first` on.

        Raises:
            UserError: the file cannot be fetched, or is damaged.
        """
        begin = self._header[2]
        descriptor = self._cache.open(self._file)
        try:
            complete = read_rows(descriptor, begin, first, rows)
        finally:
            os.close(descriptor)
        if not complete:
            raise _damaged(self._file.url)

    @functools.cached_property
    def _header(self) -> tuple[tuple[int, ...], np.dtype[Any], int]:
        with os.fdopen(self._cache.open(self._file), "rb") as file:
            return read_header(file)


def download(url: str, path: Path) -> None:
    """Copy a file from a URL.

    Raises:
        UserError: there is none, or nothing here is_main_process the URL's protocol.
        UnreachableError: it could not be read.
        OSError: the disk is full.
    """
    import fsspec  # comes with torch; loads what a protocol needs

    try:
        system, place = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot read {url}: {error}; or copy the dataset to this disk") from error
    try:
        system.get_file(place, str(path))
    except FileNotFoundError as error:
        raise UserError(f"{url} is not there; correct the URL, or copy it there") from error
    except Exception as error:  # every file system raises errors of its own
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UnreachableError(
            f"cannot read {url} ({said}); check the network and the rights"
        ) from error


def _intact(path: Path, file: RemoteFile) -> bool:
    there = path.is_file() and path.stat().st_size == file.bytes
    return there and sha256(path) == file.sha256


def _damaged(url: str) -> UserError:
    return UserError(f"{url} is damaged (checksum); copy it there again")
