"""TrainingData on disk: a folder of shards, each a folder of .npy columns.

    data/reacher/meta.json      what was collected, how, and the shards that are complete
    data/reacher/shard-00000/
        pixels.npy              (F, P, P, 3) uint8, all frames of the shard, episode after episode
        action.npy              (F, A) float32, the action held after each frame; 0 after the last
        state.npy               (F, S) float64, simulator states
        achieved.npy            (F, G) float64, achieved goals
        shard.json              lengths of the episodes, sizes and checksums of the columns; of
                                episodes that an agent lived through also which agent, `made_by`
    data/reacher/lived-00001/   such episodes; none in what `mujepa collect` makes

A shard appears whole, by renaming its folder. meta.json names the shards with the checksum of their
shard.json, so that every byte is covered by it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mujepa.rollouts.columns import REMEDY, Column
from mujepa.rollouts.remote import Cache, RemoteColumn, RemoteFile
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, replacing_folder, sha256, surviving_folder, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA_VERSION = 1
COLUMNS = ("pixels", "action", "state", "achieved")
LIVED = "lived-"
"""How the names of shards begin that an agent lived through."""
SHARD = rf"(shard-|{LIVED})\d+"
"""What names of shards look like."""


@dataclass(frozen=True)
class DatasetSpec:
    """What determines the frames of a dataset, but for how many there are.

    Attributes:
        task: name of the task.
        seed: seed of everything random.
        image_size: P [pixels].
        frame_skip: environment steps between frames.
        steps: model steps per episode; an episode has one frame more.
        behaviour: settings of the behaviour policy; of what was recorded elsewhere, `imported`
            says where it comes from.
        action_low: lower bounds of the action, A numbers.
        action_high: upper bounds.
        variation: ranges of the factors that differ between episodes, by name.
    """

    task: str
    seed: int
    image_size: int
    frame_skip: int
    steps: int
    behaviour: dict[str, Any]
    action_low: list[float]
    action_high: list[float]
    variation: dict[str, list[float | str]] = field(default_factory=dict)

    @property
    def imported(self) -> bool:
        """Whether the frames were recorded elsewhere, so that none can be collected to them."""
        return "imported" in self.behaviour


def write_shard(
    folder: Path,
    columns: dict[str, NDArray[Any]],
    lengths: list[int],
    made_by: dict[str, Any] | None = None,
) -> None:
    """Write one shard, whole or not at all.

    Args:
        folder: where.
        columns: frames by column, (F, ...) each, F the sum of the lengths.
        lengths: frames of each episode.
        made_by: the agent that acted, if it was not the task's behaviour policy.
    """
    origin = {"made_by": made_by} if made_by else {}
    with replacing_folder(folder) as temporary:
        files = {}
        for name in COLUMNS:
            path = temporary / f"{name}.npy"
            np.save(path, columns[name])
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        write_json(temporary / "shard.json", {"lengths": lengths, "files": files} | origin)


def write_meta(folder: Path, spec: DatasetSpec, shards: list[str]) -> None:
    """Replace the dataset's meta.json: the spec and the complete shards."""
    entries = [{"name": name, "sha256": sha256(folder / name / "shard.json")} for name in shards]
    settings = asdict(spec)
    if not spec.variation:
        del settings["variation"]  # as before there were variations
    write_json(
        folder / "meta.json",
        {"schema_version": SCHEMA_VERSION, "spec": settings, "shards": entries},
    )


def read_meta(folder: Path) -> tuple[DatasetSpec, dict[str, str]]:
    """Return what meta.json holds: the spec, and the checksum of each shard by its name.

    Raises:
        UserError: it is missing, damaged or of another version.
    """
    path = folder / "meta.json"
    remedy = f"delete {folder} and {REMEDY}" if path.exists() else REMEDY
    meta = read_json(path, remedy)
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{folder} has dataset schema {meta.get('schema_version')!r}, "
            f"this version reads {SCHEMA_VERSION}; {remedy}"
        )
    try:
        shards = {entry["name"]: entry["sha256"] for entry in meta["shards"]}
        return DatasetSpec(**meta["spec"]), shards
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error


def mirror(url: str, cache: Cache) -> tuple[Path, bool]:
    """Bring meta.json and the shard.json files of a dataset at a URL here.

    Returns:
        The folder that holds them, and whether the dataset was reached; if not, they are as they
        were when it was last seen.

    Raises:
        UserError: it is not there, damaged, or cannot be reached and was never seen.
    """
    home, reached = cache.refresh(url)
    try:
        _, shards = read_meta(home)
    except UserError as error:
        raise UserError(
            f"{url}/meta.json is damaged or of another version; copy the dataset there again"
        ) from error
    for name, expected in shards.items():
        if not re.fullmatch(SHARD, name):
            raise UserError(f"{url}/meta.json names a shard {name!r}; copy the dataset there again")
        cache.keep(f"{url}/{name}/shard.json", home / name / "shard.json", expected)
    return home, reached


def episodes_in_shard(folder: Path, expected: str | None = None) -> int:
    """Return the episodes of a shard, or 0 if it is missing or damaged.

    Args:
        folder: the shard.
        expected: checksum of its shard.json, if it is known.
    """
    try:
        return len(_check_shard(surviving_folder(folder), expected))
    except UserError:
        return 0


def _check_shard(folder: Path, expected: str | None = None) -> list[int]:
    info = _read_shard(folder, expected)
    if not all(_intact(folder, name, file) for name, file in info["files"].items()):
        raise UserError(f"{folder} is damaged (checksum); {REMEDY}")
    return info["lengths"]


def _read_shard(folder: Path, expected: str | None = None) -> dict[str, Any]:
    info = read_json(folder / "shard.json", REMEDY)
    damaged = expected is not None and sha256(folder / "shard.json") != expected
    damaged |= info.keys() - {"made_by"} != {"lengths", "files"}
    if damaged or set(info["files"]) != set(COLUMNS):
        raise UserError(f"{folder} is damaged (checksum); {REMEDY}")
    return info


def _intact(folder: Path, column: str, file: dict[str, Any]) -> bool:
    path = folder / f"{column}.npy"
    there = path.is_file() and path.stat().st_size == file["bytes"]
    return there and sha256(path) == file["sha256"]


class Dataset:
    """Episodes on disk, or at a URL.

    Args:
        folder: a dataset folder; a string is the URL of one.
        verify: check every column against its checksum (about a second per gigabyte). Columns at
            a URL are checked whenever they are fetched, and copies when they are first used.
        cache: holds copies of what is read from a URL.

    Attributes:
        spec: what was collected.
        folder: as given.
        digest: checksum of meta.json, and by it of every byte.
        starts: of the episodes in their shards, (E,) frames.
        lengths: of the episodes, (E,) frames.
        shards: in which they are, (E,) indices.
        names: of the shards.
        made_by: for each of them, the agent that acted, if any.
        reached: whether a URL was reached; if not, this is what it held when last seen.

    Raises:
        UserError: the dataset is missing, empty, damaged or cannot be fetched.
    """

    def __init__(
        self, folder: Path | str, *, verify: bool = True, cache: Cache | None = None
    ) -> None:
        self.folder, self.reached, home = folder, True, folder
        if isinstance(home, str):
            cache = cache or Cache()
            home, self.reached = mirror(home, cache)
        self.spec, entries = read_meta(home)
        self.digest = sha256(home / "meta.json")
        self._columns: dict[str, list[Column | RemoteColumn]] = {name: [] for name in COLUMNS}
        self.made_by: list[dict[str, Any] | None] = []
        starts, lengths, shards = [], [], []
        for number, (name, expected) in enumerate(entries.items()):
            shard = surviving_folder(home / name)
            if isinstance(folder, Path) and verify:
                _check_shard(shard, expected)
            info = read_json(shard / "shard.json", REMEDY)
            self.made_by.append(info.get("made_by"))
            for column, parts in self._columns.items():
                if cache and isinstance(folder, str):
                    url = f"{folder}/{name}/{column}.npy"
                    parts.append(RemoteColumn(cache, RemoteFile(url, **info["files"][column])))
                else:
                    parts.append(Column(shard / f"{column}.npy"))
            starts += list(np.cumsum([0, *info["lengths"][:-1]]))
            lengths += info["lengths"]
            shards += [number] * len(info["lengths"])
        if not lengths:
            raise UserError(f"{folder} holds no complete shard; {REMEDY}")
        self.starts, self.lengths, self.shards = (
            np.array(starts),
            np.array(lengths),
            np.array(shards),
        )
        self.names = list(entries)

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
        """Copy windows of one column.

        Args:
            column: one of `COLUMNS`.
            episodes: (B,) indices of episodes.
            offsets: (B,) first frame of each window within its episode.
            length: T, frames per window.

        Returns:
            (B, T, ...).

        Raises:
            IndexError: a window would leave its episode.
        """
        if (offsets < 0).any() or (offsets + length > self.lengths[episodes]).any():
            raise IndexError("a window leaves its episode")
        parts = self._columns[column]
        out = np.empty((len(episodes), length, *parts[0].shape[1:]), parts[0].dtype)
        rows = self.starts[episodes] + offsets
        for window, shard, row in zip(
            out, self.shards[episodes].tolist(), rows.tolist(), strict=True
        ):
            parts[shard].read(row, window)
        return out

    def episode(self, column: str, episode: int) -> NDArray[Any]:
        """Copy one column of one episode, (frames, ...)."""
        return self.gather(column, np.array([episode]), np.array([0]), int(self.lengths[episode]))[
            0
        ]
