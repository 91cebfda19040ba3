"""Minari's file format: export datasets and restore them, and read what others recorded.

A step of an exported dataset is a model step: its action is held for `frame_skip` environment
steps. Images are not compressed. The metadata keep the spec and the shards under `mujepa`, so that
an exported dataset is restored bit for bit.

No code that a dataset names is run: Minari would make the environment of a dataset without spaces,
so such datasets are refused.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.rollouts.store import SHARD_NAME, Dataset, DatasetSpec, write_meta, write_shard
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, replacing_folder
from mujepa.runtime.settings import read_settings

Arrays = dict[str, NDArray[Any]]
ROOT = "MINARI_DATASETS_PATH"
REMEDY = "download or write it again"


def minari_root() -> Path:
    """Return the folder in which Minari looks for datasets."""
    return Path(os.environ.get(ROOT) or "~/.minari/datasets").expanduser()


def export_dataset(dataset: Dataset, folder: Path, name: str) -> Iterator[int]:
    """Write a dataset in Minari's format, whole or not at all; yield the frames of each shard.

    Minari's files go into `data` below the folder; `name` is such as `mujepa/reacher-v0`.
    """
    load_minari()
    if (folder / "data").exists():
        raise UserError(f"{folder} holds a dataset already; choose another with --out or --id")
    spec, written, shards = dataset.spec, None, []
    world = World(find_task(spec.task), spec.image_size) if spec.task else None
    with replacing_folder(folder.absolute() / "data") as temporary:
        for index, shard in enumerate(dataset.names):
            there = np.flatnonzero(dataset.shards == index)
            buffers = [_buffer(dataset, world, int(episode)) for episode in there]
            if written is None:
                written = _create(temporary / "root", name, buffers, spec)
            else:
                written.update_dataset_from_buffer(buffers)
            shards.append({"name": shard, "episodes": len(there), "agent": dataset.agents[index]})
            yield int(dataset.lengths[there].sum())
        assert written
        written.storage.update_metadata({"mujepa": {"spec": asdict(spec), "shards": shards}})
        for path in (temporary / "root" / name / "data").iterdir():
            path.replace(temporary / path.name)
        shutil.rmtree(temporary / "root")


def _create(root: Path, name: str, buffers: list[Any], spec: DatasetSpec) -> Any:  # noqa: ANN401
    shapes = {key: value.shape[1:] for key, value in buffers[0].observations.items()}
    spaces: dict[str, Any] = {
        key: Box(-np.inf, np.inf, shape, np.float64) for key, shape in shapes.items()
    }
    spaces["pixels"] = Box(0, 255, shapes["pixels"], np.uint8)
    low, high = np.array([spec.action_low, spec.action_high], np.float32)
    before = {ROOT: os.environ[ROOT]} if ROOT in os.environ else {}
    os.environ[ROOT] = str(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # authors and environment are not given
            return load_minari().create_dataset_from_buffers(
                name,
                buffers,
                observation_space=Dict(spaces),
                action_space=Box(low, high, dtype=np.float32),
                description=f"mujepa task {spec.task}; a step is {spec.frame_skip} environment "
                "steps, through which the action is held. All rewards are 0.",
                jpeg_encoding=False,
            )
    finally:
        del os.environ[ROOT]
        os.environ.update(before)


def _buffer(dataset: Dataset, world: World | None, episode: int) -> Any:  # noqa: ANN401
    from minari.data_collector import EpisodeBuffer

    columns = {name: dataset.episode(name, episode) for name in dataset.columns}
    steps, state = len(columns["action"]) - 1, columns.get("state")
    observations = {"pixels": columns["pixels"]}
    if world and state is not None:
        observations["observation"] = world.proprioception(state)
    if "achieved" in columns:
        observations["achieved_goal"] = columns["achieved"]
    return EpisodeBuffer(
        observations=observations,
        actions=columns["action"][:-1],  # pyright: ignore[reportArgumentType]
        rewards=[0.0] * steps,
        terminations=[False] * steps,
        truncations=[False] * (steps - 1) + [True],
        infos=None if state is None else {"state": state},
    )


@dataclass(frozen=True)
class Source:
    """A dataset in Minari's format.

    It has the name that the user gave and, if it was exported, what `export_dataset` kept.
    """

    name: str
    dataset: Any = None
    exported: dict[str, Any] | None = None

    def read(self, episodes: Iterable[int] | None = None) -> Iterator[Arrays]:
        """Yield the arrays of episodes by name, (T + 1, ...) each, and `actions` (T, A).

        An observation that is one array is called `observations`. Parts of it, and of `infos`, are
        called by their paths, such as `pixels` or `infos/qpos`.
        """
        try:
            for episode in self.dataset.iterate_episodes(episodes):
                actions = np.asarray(episode.actions)
                if not np.isfinite(actions).all():
                    raise self.damaged(f"episode {episode.id} holds actions that are not finite")
                found = [*_flatten(episode.observations, ""), *_flatten(episode.infos, "infos")]
                frames = len(actions) + 1
                yield {k: it for k, it in found if len(it) == frames} | {"actions": actions}
        except (OSError, LookupError, ValueError, TypeError, AssertionError, RuntimeError) as error:
            raise self.damaged(error) from error

    def damaged(self, reason: object) -> UserError:
        """Return the error for a dataset that cannot be read."""
        return UserError(f"{self.name} is damaged ({' '.join(str(reason).split())}); {REMEDY}")


def open_minari(name: str) -> Source:
    """Open a dataset by its folder or by its name in Minari."""
    minari, root = load_minari(), minari_root()
    places = [Path(name), Path(name) / "data", root / name / "data"]
    folder = next((place for place in places if (place / "metadata.json").is_file()), None)
    if folder is None:
        raise UserError(
            f"no Minari dataset {name!r}: neither a folder, nor in {root}; "
            f"download it first with: minari download {name}"
        )
    metadata = read_json(folder / "metadata.json", REMEDY)
    for key in ("observation_space", "action_space"):
        if not isinstance(metadata.get(key), str):
            raise UserError(
                f"{name} has no {key}, and none is taken from code that a dataset names; "
                "write it again with a newer Minari"
            )
    try:
        return Source(name, minari.MinariDataset(folder), metadata.get("mujepa"))
    except Exception as error:  # Minari raises what its parts raise
        raise Source(name).damaged(error) from error


def restore_dataset(source: Source, folder: Path) -> Iterator[int]:
    """Restore an exported dataset bit for bit; yield the number of episodes of each shard."""
    begin, names, there = 0, [], source.dataset.total_episodes
    try:
        assert source.exported
        spec = read_settings(DatasetSpec, source.exported["spec"], source.name, REMEDY)
        shards = [(it["name"], it["episodes"], it["agent"]) for it in source.exported["shards"]]
        assert all(re.fullmatch(SHARD_NAME, name) for name, *_ in shards)
        if there != (total := sum(count for _, count, _ in shards)):
            raise source.damaged(f"it holds {there} episodes, and {total} were exported")
        with replacing_folder(folder) as temporary:
            for name, count, agent in shards:
                episodes = list(source.read(range(begin, begin + count)))
                lengths = [len(it["actions"]) + 1 for it in episodes]
                write_shard(temporary / name, _exported_columns(episodes), lengths, agent)
                names, begin = [*names, name], begin + count
                yield count
            write_meta(temporary, spec, names)
    except (LookupError, TypeError, ValueError, AssertionError) as error:
        raise source.damaged(error) from error


def _exported_columns(episodes: list[Arrays]) -> Arrays:
    names = {"pixels": "pixels", "state": "infos/state", "achieved": "achieved_goal"}
    actions = [np.pad(it["actions"], ((0, 1), (0, 0))) for it in episodes]
    return {"action": np.concatenate(actions)} | {
        column: np.concatenate([it[name] for it in episodes])
        for column, name in names.items()
        if name in episodes[0]
    }


def _flatten(value: object, path: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of nested dictionaries and tuples by their paths."""
    if isinstance(value, tuple):
        value = {str(index): part for index, part in enumerate(value)}
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flatten(part, f"{path}/{key}" if path else str(key))
    elif isinstance(value, np.ndarray) and value.ndim:
        yield path or "observations", value


def load_minari() -> Any:  # noqa: ANN401 - a module
    """Return Minari, or raise a UserError if it is not installed."""
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError as error:
        raise UserError(
            f"Minari's datasets need {error.name}; install it with: pip install 'mujepa[data]'"
        ) from error
    return minari
