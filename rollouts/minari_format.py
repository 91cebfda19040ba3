"""Datasets of ours in Minari's format, and back again; the way back is exact.

A step of an exported dataset is a model step: its action is held for `frame_skip` environment
steps. Images are kept as they are, not as JPEG. `metadata.json` keeps the spec, and which
episodes share a shard, under `mujepa`; by it a dataset that comes back has the digest that it had.

Reading runs no code that a dataset names: Minari would make the environment of one that tells no
spaces, which imports whatever module it names, so that those are refused.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.rollouts.store import SHARD_NAME, DatasetSpec, write_meta, write_shard
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, replacing_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from mujepa.rollouts.store import Dataset

OURS = "mujepa"
"""Key of metadata.json."""
ABOUT = (
    "Episodes of a behaviour policy in the mujepa task {task}. An action is held for {skip} "
    "environment steps, which are one step here. There is no goal, so that rewards are 0."
)


def minari_root() -> Path:
    """Return the folder in which Minari looks for datasets."""
    return Path(
        os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets"
    ).expanduser()


# ------------------------------------------------------------------------------------ writing


def write_minari(dataset: Dataset, folder: Path, name: str) -> Iterator[int]:
    """Write a dataset in Minari's format, whole or not at all; yield the frames of each shard.

    Args:
        dataset: ours.
        folder: of the new dataset; Minari's files go into `data` below it.
        name: what Minari is to call it, such as `mujepa/reacher-v0`.

    Raises:
        UserError: Minari is not installed or takes no such name, the folder holds a dataset, or
            it cannot be written.
    """
    from gymnasium.spaces import Box, Dict

    minari, storages = _minari()
    _check_name(name)
    if (folder / "data").exists():
        raise UserError(f"{folder} holds a dataset already; choose another with --out or --id")
    spec = dataset.spec
    assert spec.task
    world = World(find_task(spec.task), spec.image_size)
    low, high = (np.array(bound, np.float32) for bound in (spec.action_low, spec.action_high))
    size = world.proprioception(world.state(world.model.qpos0)).shape
    observations = Dict(
        {
            "pixels": Box(0, 255, (spec.image_size, spec.image_size, 3), np.uint8),
            "observation": Box(-np.inf, np.inf, size, np.float64),
            "achieved_goal": Box(-np.inf, np.inf, (world.goal_size,), np.float64),
        }
    )
    with replacing_folder(folder.absolute() / "data") as temporary:  # as Minari needs it
        storage = storages.MinariStorage.new(
            temporary,
            observation_space=observations,
            action_space=Box(low, high, dtype=np.float32),
            data_format="hdf5",
            jpeg_encoding=False,
        )
        for shard in range(len(dataset.names)):
            there = np.flatnonzero(dataset.shards == shard)
            storage.update_episodes(_buffer(dataset, world, int(episode)) for episode in there)
            yield int(dataset.lengths[there].sum())
        counts = np.bincount(dataset.shards, minlength=len(dataset.names)).tolist()
        about = zip(dataset.names, counts, dataset.agents, strict=True)
        storage.update_metadata(
            {
                "dataset_id": name,
                "minari_version": minari.__version__,
                "algorithm_name": "behaviour policy of mujepa",
                "description": ABOUT.format(task=spec.task, skip=spec.frame_skip),
                OURS: {
                    "spec": asdict(spec),
                    "shards": [
                        {"name": name, "episodes": count, "agent": agent}
                        for name, count, agent in about
                    ],
                },
            }
        )


def _buffer(dataset: Dataset, world: World, episode: int) -> Any:  # noqa: ANN401 - an EpisodeBuffer
    buffers = importlib.import_module("minari.data_collector")
    states, steps = dataset.episode("state", episode), int(dataset.lengths[episode]) - 1
    return buffers.EpisodeBuffer(
        observations={
            "pixels": dataset.episode("pixels", episode),
            "observation": world.proprioception(states),
            "achieved_goal": dataset.episode("achieved", episode),
        },
        actions=dataset.episode("action", episode)[:-1],
        rewards=[0.0] * steps,
        terminations=[False] * steps,
        truncations=[False] * (steps - 1) + [True],
        infos={"state": states},
    )


# ------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Source:
    """A dataset in Minari's format.

    Attributes:
        name: as it was asked for.
        folder: with metadata.json in it.
        storage: Minari's reader.
        episodes: how many there are.
        environment: Gymnasium's name of the environment that it comes from, if it tells.
        ours: what an exported dataset keeps of ours.
    """

    name: str
    folder: Path
    storage: Any
    episodes: int
    environment: str | None
    ours: dict[str, Any] | None

    def read(self, episodes: Iterable[int]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the arrays of episodes by name, (T + 1, ...) each, and `actions` (T, A).

        An observation that is one array is called `observations`; parts of it, and of `infos`, are
        called by their paths, such as `pixels` or `infos/qpos`.

        Raises:
            UserError: the file is damaged.
        """
        try:
            for episode in self.storage.get_episodes(episodes):
                actions = np.asarray(episode["actions"])
                found = dict(_arrays(episode["observations"], ""))
                found |= _arrays(episode["infos"] or {}, "infos")
                frames = len(actions) + 1
                yield {name: array for name, array in found.items() if len(array) == frames} | {
                    "actions": actions
                }
        except (OSError, KeyError, ValueError, TypeError, AssertionError, RuntimeError) as error:
            raise self.damaged(error) from error

    def damaged(self, reason: object) -> UserError:
        """Return what to say of a dataset that cannot be read."""
        return UserError(
            f"{self.name}: {self.folder} is damaged ({' '.join(str(reason).split())}); "
            "download or write it again"
        )


def open_minari(name: str) -> Source:
    """Find a dataset: a folder, or what Minari calls by this name.

    Raises:
        UserError: there is none, it is damaged, or it tells too little about itself.
    """
    minari, storages = _minari()
    places = [Path(name), Path(name) / "data", minari_root() / name / "data"]
    folder = next((place for place in places if (place / "metadata.json").is_file()), None)
    if folder is None:
        raise UserError(
            f"no Minari dataset {name!r}: neither a folder, nor known to Minari in "
            f"{minari_root()}; download it first with: minari download {name}"
        )
    raw = read_json(folder / "metadata.json", "download or write it again")
    version, damaged = raw.get("minari_version"), Source(name, folder, None, 0, None, None).damaged
    if version not in minari.supported_dataset_versions:
        raise UserError(
            f"{name} was written by Minari {version}, and Minari {minari.__version__} reads "
            f"{', '.join(sorted(minari.supported_dataset_versions))}; write it again with one of "
            "these"
        )
    for key in ("observation_space", "action_space"):
        if not isinstance(raw.get(key), str):
            raise UserError(
                f"{name} tells no {key}, and none is taken from code that a dataset names; "
                "write it again with a newer Minari"
            )
    try:
        storage = storages.MinariStorage.read(folder)
        spec = json.loads(raw.get("env_spec") or "{}")
        return Source(name, folder, storage, raw["total_episodes"], spec.get("id"), raw.get(OURS))
    except ImportError as error:
        raise UserError(f"{name}: {error}") from error
    except (OSError, LookupError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise damaged(error) from error


def read_ours(source: Source, folder: Path) -> Iterator[int]:
    """Turn an exported dataset back into what it was; yield the episodes of each shard.

    Raises:
        UserError: it has been changed or damaged since, or the folder cannot be written.
    """
    try:
        assert source.ours
        spec = DatasetSpec(**source.ours["spec"])
        shards = [(it["name"], int(it["episodes"]), it["agent"]) for it in source.ours["shards"]]
        assert all(re.fullmatch(SHARD_NAME, name) for name, *_ in shards)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise source.damaged(error) from error
    total = sum(count for _, count, _ in shards)
    if total != source.episodes:
        raise UserError(
            f"{source.name} holds {source.episodes} episodes, and {total} were exported; export "
            "the dataset again"
        )
    begin = 0
    with replacing_folder(folder) as temporary:
        for name, count, agent in shards:
            episodes = list(source.read(range(begin, begin + count)))
            begin += count
            try:
                columns = _columns(episodes)
            except (KeyError, ValueError) as error:
                raise source.damaged(error) from error
            lengths = [len(it["pixels"]) for it in episodes]
            write_shard(temporary / name, columns, lengths, agent)
            yield count
        write_meta(temporary, spec, [name for name, *_ in shards])


def _columns(episodes: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    def joined(name: str, kind: type) -> NDArray[Any]:
        return np.concatenate([episode[name] for episode in episodes]).astype(kind, copy=False)

    for episode in episodes:
        none = np.zeros_like(episode["actions"][:1])
        episode["action"] = np.concatenate([episode["actions"], none])
    return {
        "pixels": joined("pixels", np.uint8),
        "action": joined("action", np.float32),
        "state": joined("infos/state", np.float64),
        "achieved": joined("achieved_goal", np.float64),
    }


def _arrays(value: object, path: str) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _arrays(part, f"{path}/{key}" if path else str(key))
    elif isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from _arrays(part, f"{path}/{index}" if path else str(index))
    elif isinstance(value, np.ndarray) and value.ndim:
        yield path or "observations", value


def _check_name(name: str) -> None:
    """Raise a UserError if Minari takes no such name."""
    parse = importlib.import_module("minari.dataset.minari_dataset").parse_dataset_id
    try:
        parse(name)
    except (ValueError, TypeError) as error:  # without a version it fails otherwise
        raise UserError(
            f"--id {name}: Minari calls a dataset NAME-vNUMBER or NAMESPACE/NAME-vNUMBER, such as "
            "mujepa/reacher-v0"
        ) from error


def _minari() -> tuple[Any, Any]:
    """Return Minari and its module of storages.

    Raises:
        UserError: it is not installed.
    """
    try:
        importlib.import_module("h5py")
        return (
            importlib.import_module("minari"),
            importlib.import_module("minari.dataset.minari_storage"),
        )
    except ImportError as error:
        raise UserError(
            f"Minari's datasets need {error.name}; install it with: pip install 'mujepa[data]'"
        ) from error
