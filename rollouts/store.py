"""Datasets on disk: a folder of shards, each a folder of .npy columns.

    data/reacher/meta.json      the DatasetSpec, and the names of the complete shards
    data/reacher/shard-00000/
        pixels.npy              (F, P, P, 3) uint8, all frames of the shard, episode after episode
        action.npy              (F, A) float32, the action after each frame; 0 after the last
        state.npy               (F, S) float64, simulator states; optional
        achieved.npy            (F, G) float64, achieved goals; optional
        shard.json              lengths of the episodes, checksums of the columns, and the agent
                                that acted, if one did
    data/reacher/on-policy-00001/   a shard that an agent collected (`mujepa train --online`)

A shard is written into a temporary folder, which is then renamed. meta.json holds the checksums of
the shard.json files, and these hold the checksums of the columns, so that every byte is covered.
A dataset at a URL is copied into the cache folder, column by column, when it is read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mujepa.rollouts.columns import REMEDY, Column
from mujepa.rollouts.remote import NO_ROOM, UnreachableError, cache_folder, download, fetch, holds
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import (
    read_json,
    replacing_file,
    replacing_folder,
    sha256,
    surviving_folder,
    write_json,
)
from mujepa.runtime.settings import Count, Finite, Seed, read_settings, settings

SCHEMA_VERSION = 2
COLUMNS = ("pixels", "action", "state", "achieved")
REQUIRED = {"pixels", "action"}
ON_POLICY = "on-policy-"  # begins the names of shards that an agent collected
SHARD_NAME = rf"(shard-|{ON_POLICY})\d+"


@settings
class DatasetSpec:
    """All that determines the frames of a dataset, except their number.

    Attributes:
        task: its name; None if the episodes come from no simulator.
        image_size: P [pixels].
        frame_skip: environment steps between frames.
        steps: model steps per episode, which has one frame more; of imported episodes the most.
        behaviour: settings of the behaviour policy; `imported` names the source of others.
        variation: ranges of the factors that differ between episodes, by name.
    """

    task: str | None
    seed: Seed
    image_size: Count
    frame_skip: Count
    steps: Count
    behaviour: dict[str, Any]
    action_low: list[Finite]
    action_high: list[Finite]
    variation: dict[str, list[float | str]] = field(default_factory=dict)

    @property
    def imported(self) -> bool:
        """Whether the episodes were recorded elsewhere, so that none can be collected to them."""
        return "imported" in self.behaviour


def write_shard(
    folder: Path,
    columns: Mapping[str, NDArray[Any]],
    lengths: Sequence[int],
    agent: dict[str, Any] | None = None,
) -> None:
    """Write one shard, whole or not at all: columns (F, ...), F the sum of the lengths.

    `lengths` are the frames of each episode, `agent` describes the agent that acted, if one did.
    """
    with replacing_folder(folder) as temporary:
        files = {}
        for name in (it for it in COLUMNS if it in columns):
            path = temporary / f"{name}.npy"
            np.save(path, np.ascontiguousarray(columns[name]))  # row by row
            files[name] = sha256(path)
        origin = {"agent": agent} if agent else {}
        write_json(temporary / "shard.json", {"lengths": [*lengths], "files": files} | origin)


def write_meta(folder: Path, spec: DatasetSpec, shards: Sequence[str]) -> None:
    """Replace the dataset's meta.json: the spec and the names of the complete shards."""
    entries = [{"name": name, "sha256": sha256(folder / name / "shard.json")} for name in shards]
    meta = {"schema_version": SCHEMA_VERSION, "spec": asdict(spec), "shards": entries}
    write_json(folder / "meta.json", meta)


def read_meta(place: Path | str) -> tuple[DatasetSpec, dict[str, str]]:
    """Return the spec of the dataset at a folder or a URL, and each shard's checksum by name."""
    folder = mirror(place)[0] if isinstance(place, str) else place
    path = folder / "meta.json"
    return _read_meta(path, f"delete {folder} and {REMEDY}" if path.exists() else REMEDY)


def _read_meta(path: Path, remedy: str) -> tuple[DatasetSpec, dict[str, str]]:
    meta = read_json(path, remedy)
    if (version := meta.get("schema_version")) != SCHEMA_VERSION:
        raise UserError(
            f"{path} has dataset schema {version!r}, this version reads {SCHEMA_VERSION}; {remedy}"
        )
    try:
        shards = {it["name"]: it["sha256"] for it in meta["shards"]}
        strange = [name for name in shards if not re.fullmatch(SHARD_NAME, name)]
        assert not strange, f"it names a shard {strange[0]!r}"
        return read_settings(DatasetSpec, meta["spec"], str(path), remedy), shards
    except (KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error


def mirror(url: str) -> tuple[Path, bool]:
    """Copy meta.json and the shard.json files of a dataset at a URL into the cache folder.

    Returns:
        The dataset's folder in the cache, and whether the dataset was reached. Offline, the folder
        holds what was copied before.
    """
    home, reached = cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16], True
    meta, remedy = home / "meta.json", "copy the dataset there again"
    try:
        with replacing_file(meta, NO_ROOM) as temporary:
            download(f"{url}/meta.json", temporary)
            try:
                _read_meta(temporary, remedy)  # only a good one replaces the copy
            except UserError as error:
                said = f"{url}/meta.json is damaged or of another version; {remedy}"
                raise UserError(said) from error
    except UnreachableError:
        if not meta.exists():
            raise
        reached = False
    for name, digest in _read_meta(meta, remedy)[1].items():
        fetch(f"{url}/{name}/shard.json", home / name / "shard.json", digest)
    return home, reached


def episodes_in_shard(folder: Path, digest: str | None = None) -> int:
    """Return the number of episodes of a shard, or 0 if it is missing or damaged."""
    try:
        return len(_read_shard(surviving_folder(folder), digest, verify=True)["lengths"])
    except UserError:
        return 0


def _read_shard(folder: Path, digest: str | None, *, verify: bool) -> dict[str, Any]:
    """Return what shard.json holds; `verify` checks the columns as well."""
    path = folder / "shard.json"
    info = read_json(path, REMEDY)
    files = info.get("files", {})
    intact = info.keys() - {"agent"} == {"lengths", "files"} and digest in (None, sha256(path))
    intact = intact and REQUIRED <= set(files) <= set(COLUMNS)
    if verify and intact:
        intact = all(holds(folder / f"{it}.npy", files[it]) for it in files)
    if not intact:
        raise UserError(f"{folder} is damaged (checksum); {REMEDY}")
    return info


class Dataset:
    """Episodes on disk, or at a URL.

    Args:
        folder: the dataset's folder; a string is its URL.
        verify: check every column against its checksum (about a second per gigabyte). Columns at
            a URL are always checked, when they are first read.

    Attributes:
        columns: their names, in the order of `COLUMNS`; `state` and `achieved` may be missing.
        digest: checksum of meta.json, which covers every byte of the dataset.
        lengths: frames of each episode, (E,).
        starts: first frame of each episode in its shard, (E,).
        shards: index of each episode's shard, (E,).
        names: of the shards.
        agents: for each shard, the agent that collected it, if any.
        reached: False if a URL was not reached, so that only the cached copy is read.

    Raises:
        UserError: the dataset is missing, empty or damaged, or cannot be fetched.
    """

    def __init__(self, folder: Path | str, *, verify: bool = True) -> None:
        self.folder = folder
        local = isinstance(folder, Path)
        self._home, self.reached = (folder, True) if local else mirror(folder)
        self.spec, digests = read_meta(self._home)
        self.digest = sha256(self._home / "meta.json")
        self.names = [*digests]
        self._infos = [
            _read_shard(surviving_folder(self._home / name), digest, verify=verify and local)
            for name, digest in digests.items()
        ]
        lengths = [info["lengths"] for info in self._infos]
        if not any(lengths):
            raise UserError(f"{folder} holds no complete shard; {REMEDY}")
        self.agents: list[dict[str, Any] | None] = [info.get("agent") for info in self._infos]
        self.lengths = np.concatenate(lengths).astype(np.int64)
        self.starts = np.concatenate([np.cumsum([0, *part])[:-1] for part in lengths])
        self.shards = np.repeat(np.arange(len(lengths)), [len(part) for part in lengths])
        self.columns = tuple(name for name in COLUMNS if name in self._infos[0]["files"])
        if any(info["files"].keys() != set(self.columns) for info in self._infos):
            raise UserError(f"{folder} has shards with different columns; {REMEDY}")
        self._opened: dict[str, list[Column]] = {}
        for name in self.columns if local else ():
            self._column(name)

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.lengths)

    @property
    def frames(self) -> int:
        """The number of frames."""
        return int(self.lengths.sum())

    def gather(
        self, column: str, episodes: NDArray[np.int64], offsets: NDArray[np.int64], length: int
    ) -> NDArray[Any]:
        """Copy windows of T = `length` frames of a column, from `offsets` (B,) of `episodes` (B,).

        Returns:
            (B, T, ...).

        Raises:
            IndexError: a window would leave its episode.
            UserError: the dataset has no such column, or it cannot be fetched.
        """
        if (offsets < 0).any() or (offsets + length > self.lengths[episodes]).any():
            raise IndexError("a window leaves its episode")
        parts = self._column(column)
        out = np.empty((len(episodes), length, *parts[0].shape[1:]), parts[0].dtype)
        shards, rows = self.shards[episodes].tolist(), (self.starts[episodes] + offsets).tolist()
        for window, shard, row in zip(out, shards, rows, strict=True):
            parts[shard].read(row, window)
        return out

    def episode(self, column: str, episode: int) -> NDArray[Any]:
        """Copy one column of one episode, (frames, ...)."""
        length = int(self.lengths[episode])
        return self.gather(column, np.array([episode]), np.array([0]), length)[0]

    def _column(self, name: str) -> list[Column]:
        if name not in self.columns:
            raise UserError(
                f"{self.folder} has no column {name!r}; it holds {', '.join(self.columns)}"
            )
        if name not in self._opened:
            parts: list[Column] = []
            for shard, info in zip(self.names, self._infos, strict=True):
                path = surviving_folder(self._home / shard) / f"{name}.npy"
                if isinstance(self.folder, str):
                    fetch(f"{self.folder}/{shard}/{name}.npy", path, info["files"][name])
                parts.append(Column(path))
                self._check(name, path, parts, sum(info["lengths"]))
            self._opened[name] = parts
        return self._opened[name]

    def _check(self, name: str, path: Path, parts: list[Column], frames: int) -> None:
        """Check that the last part of a column fits the spec and the first part."""
        size = self.spec.image_size
        row = {"pixels": (size, size, 3), "action": (len(self.spec.action_low),)}.get(name)
        shape = (frames, *(row or parts[0].shape[1:]))
        dtype = {"pixels": np.uint8, "action": np.float32}.get(name, np.float64)
        if parts[-1].dtype != dtype or parts[-1].shape != shape:
            raise UserError(
                f"{path} holds {parts[-1].dtype} {parts[-1].shape}, and the dataset needs "
                f"{np.dtype(dtype)} {shape}; {REMEDY}"
            )
