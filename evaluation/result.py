"""The result of an evaluation, as result.json holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mujepa.evaluation.statistics import Rate, Summary
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json
from mujepa.runtime.settings import Count, Finite, NonNegative, read_settings, settings

REMEDY = "make it with: mujepa evaluate CHECKPOINT"


@dataclass(frozen=True)
class Latency:
    """Time of one decision [ms]: median and 95th percentile, one environment, one thread."""

    median: NonNegative
    p95: NonNegative

    def __str__(self) -> str:
        return f"{self.median:.2f} ms median, {self.p95:.2f} ms at the 95th percentile"


@dataclass(frozen=True)
class ByEpisode:
    """The agent in each episode; comparisons recognise episodes by the digest of start and goal."""

    held: list[bool]
    final_distance: list[Finite]
    digest: list[str] | None = None  # None in results of earlier versions


@dataclass(frozen=True)
class Protocol:
    """A published protocol, and the share of starts that are within the tolerance of the goal."""

    name: str
    already_solved: Rate


@settings
class Result:
    """The result of one evaluation; docs/evaluation.md explains the fields of result.json.

    The agent's own figures are those of a `Summary`. `checkpoint` is the path as it was given,
    `weights` the SHA-256 of its weights, and `manifest` the digest of the episodes. Fields that are
    None do not occur in result.json.
    """

    env: str
    checkpoint: str
    weights: str
    seed: int
    manifest: str
    budget_steps: Count
    tolerance: NonNegative
    hold_steps: Count
    episodes: Count
    success_at_end: Rate
    success_any: Rate
    median_final_distance: Finite
    by_distance: dict[str, Rate]
    actor: str
    planner: dict[str, Any]
    cost: str
    baselines: dict[str, Summary]
    by_episode: ByEpisode
    command: str
    versions: dict[str, str]
    machine: dict[str, Any]
    plan_ms: Latency | None = None
    reactive_ms: Latency | None = None
    wall_s: NonNegative = 0.0
    variation: dict[str, list[float | str]] | None = None
    goal_steps: int | None = None
    protocol: Protocol | None = None
    violations: dict[str, dict[str, Any]] | None = None
    lab: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        held = self.by_episode.held
        if len(held) != self.episodes or self.success_at_end.rate != np.mean(held):
            raise UserError("its episodes do not give its success rate")
        if "kind" not in self.planner:
            raise UserError("planner has no kind")

    @property
    def policies(self) -> dict[str, Summary]:
        """Figures of the agent and of the baselines, by name; `agent` first."""
        values = (getattr(self, field.name) for field in fields(Summary))
        return {"agent": Summary(*values)} | self.baselines

    @property
    def held(self) -> NDArray[np.bool_]:
        """Episodes that the agent held, (E,)."""
        return np.array(self.by_episode.held, bool)

    def to_json(self) -> dict[str, Any]:
        """Return what result.json holds; times that were not measured are empty there."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        if self.by_episode.digest is None:
            del found["by_episode"]["digest"]
        return {"plan_ms": {}, "reactive_ms": {}} | found


def read_result(path: Path) -> Result:
    """Read a result.json, or that of the folder of an evaluation, training run or checkpoint."""
    places = (path, path / "result.json", path / "evaluation" / "result.json")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(f"no result.json in {path}; {REMEDY}")
    raw = read_json(file, REMEDY)
    names = {field.name for field in fields(Result)}  # later versions may have more
    known = {key: value for key, value in raw.items() if key in names}
    times = {key: raw.get(key) or None for key in ("plan_ms", "reactive_ms")}
    return read_settings(Result, known | times, str(file), REMEDY)
