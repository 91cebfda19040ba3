"""Variation between episodes: ranges of factors, the values an episode draws, and its own model.

    variation = read_variation(["mass=0.5:2", "light=0.3:1"])
    draw = variation.draw(rng)                 # {"mass": 1.31, "light": 0.62}
    variant = make_variant(model, camera, draw)

Values come from a child of the episode's random stream: starts and goals do not depend on them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import mujoco
import numpy as np

from mujepa.envs.camera import Camera, camera_frame
from mujepa.envs.distractors import (
    Backdrop,
    Motion,
    Shape,
    make_drift,
    make_intruders,
    make_shapes,
)
from mujepa.envs.factors import FACTORS
from mujepa.envs.textures import PATTERNS, Textures
from mujepa.envs.types import Array, Model, Rng
from mujepa.runtime.errors import UserError, suggestion

Vary: TypeAlias = Mapping[str, float | Sequence[float | str]] | Sequence[str] | str | None
"""Ranges of factors, as Python or as text."""
MOVING = "flicker", "drift", "intruder", "jitter"
"""The factors that change images over time."""
LOGARITHMIC = "log"
"""Marks a range whose logarithms are uniform."""


@dataclass(frozen=True)
class Draw:
    """The values that one episode has drawn."""

    values: dict[str, float]  # by factor
    look: int = 0  # seed of colours, directions and places

    def stream(self, factor: str) -> Rng:
        """Return the random stream of a factor."""
        return np.random.default_rng(self.seed(factor))

    def seed(self, factor: str) -> tuple[int, int]:
        """Return the seed of a factor's random stream."""
        return self.look, list(FACTORS).index(factor)


@dataclass(frozen=True)
class Variation:
    """What differs from episode to episode."""

    ranges: dict[str, tuple[float, float]]  # lowest and highest value by factor
    logarithmic: frozenset[str] = frozenset()  # the factors whose logarithms are uniform

    def draw(self, rng: Rng) -> Draw:
        """Draw the values of an episode from a child of its random stream, which does not advance.

        A value does not depend on which other factors vary.
        """
        child = rng.spawn(1)[0]
        look = int(child.integers(2**32))
        shares = dict(zip(FACTORS, child.random(len(FACTORS)), strict=True))
        return Draw({name: self._value(name, shares[name]) for name in self.ranges}, look)

    def _value(self, name: str, share: float) -> float:
        low, high = self.ranges[name]
        if FACTORS[name].whole:
            return float(math.floor(low + share * (high - low + 1)))
        if name in self.logarithmic:
            return float(low * (high / low) ** share)
        return float(low + share * (high - low))

    def check(self, task: str, working: Sequence[str]) -> None:
        """Check that all factors are among those that work in a task."""
        for name in self.ranges:
            if name not in working:
                raise UserError(
                    f"--vary {name}: task {task!r} has no {name} to change; "
                    f"factors that work there: {', '.join(working)}"
                )

    def plain(self) -> dict[str, list[float | str]]:
        """Return the ranges as JSON holds them."""
        scales = {name: [LOGARITHMIC] for name in self.logarithmic}
        return {name: [*bounds, *scales.get(name, ())] for name, bounds in self.ranges.items()}

    def flags(self) -> tuple[str, ...]:
        """Return the ranges as values of `--vary`."""
        return tuple(f"{name}={':'.join(map(str, each))}" for name, each in self.plain().items())


@dataclass(frozen=True, eq=False)
class Variant:
    """The world of one episode: a changed copy of the model, and what is drawn over its scene."""

    model: Model
    pattern: int = 0  # index of the texture on static geoms
    contrast: float = 0.0  # of this texture, from 0 for none to 1
    shapes: Sequence[Shape] = ()  # in the background
    motion: Motion | None = None

    def draw(self, scene: mujoco.MjvScene, time: float, textures: Textures | None) -> None:
        """Change an updated scene; `textures` are needed if there is a contrast."""
        if textures and self.contrast:
            textures.apply(scene, self.pattern, self.contrast)
        for shape in self.shapes:
            shape.draw(scene)
        if self.motion:
            self.motion.draw(scene, time)


Variants: TypeAlias = Sequence[Variant | None] | None
"""The worlds of the rows of a batch; None for the task's own."""


def working_factors(model: Model, *, physics: bool = True, camera: bool = True) -> list[str]:
    """Return the names of the factors that change something in a model.

    Without `physics`, the model is not what is stepped; without `camera`, the observation camera is
    none of the model's.
    """
    works = [name for name, factor in FACTORS.items() if factor.works(model)]
    works = [name for name in works if physics or FACTORS[name].kind == "visual"]
    return [name for name in works if camera or name != "camera"]


def make_variant(model: Model, camera: Camera, draw: Draw) -> Variant:
    """Return the world of an episode, with distractors for a camera."""
    model = copy.copy(model)
    changed = {n: v for n, v in draw.values.items() if v != FACTORS[n].neutral}
    for name, value in changed.items():
        FACTORS[name].apply(model, value, draw.stream(name))
    if {"mass", "camera"} & changed.keys():
        _update_constants(model)
    pattern = int(draw.stream("texture").integers(PATTERNS)) if "texture" in changed else 0
    shapes, motion = [], None
    if {"distractors", *MOVING} & changed.keys():
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        frame = camera_frame(model, data, camera)
        count = int(changed.get("distractors", 0))
        shapes = make_shapes(model, data, frame, count, draw.stream("distractors"))
        if set(MOVING) & changed.keys():
            motion = _make_motion(model, Backdrop.measure(model, data, frame), draw)
    return Variant(model, pattern, changed.get("texture", 0.0), shapes, motion)


def _make_motion(model: Model, backdrop: Backdrop, draw: Draw) -> Motion:
    flicker, drift, intruder, jitter = (draw.values.get(name, 0.0) for name in MOVING)
    discs = make_drift(int(drift), draw.stream("drift"))
    intruders = make_intruders(int(intruder), draw.stream("intruder"))
    seed, timestep = draw.seed("flicker"), float(model.opt.timestep)
    return Motion(seed, timestep, flicker, jitter, backdrop, discs, intruders)


def _update_constants(model: Model) -> None:
    # What compilation derives from masses and cameras, but not the model's size.
    kept = model.stat.extent, model.stat.meansize, model.stat.center.copy()
    mujoco.mj_setConst(model, mujoco.MjData(model))
    model.stat.extent, model.stat.meansize, model.stat.center[:] = kept


def read_variation(vary: Vary | Variation) -> Variation | None:
    """Return a variation, or None if nothing varies.

    `vary` is such as `{"mass": (0.5, 2), "light": 0.5}` or `["mass=0.5:2", "light=0.5"]`; the
    logarithms of ranges that end in `log` (`(0.5, 2, "log")`, `mass=0.5:2:log`) are uniform.
    """
    if vary is None or isinstance(vary, Variation):
        return vary
    if isinstance(vary, Mapping):
        given = [_read(name, value, f"{name}={value!r}") for name, value in vary.items()]
    else:
        texts = vary.split() if isinstance(vary, str) else vary
        split = [(*text.partition("=")[::2], text) for text in texts]
        given = [_read(name, bounds.split(":"), text) for name, bounds, text in split]
    names = [name for name, *_ in given]
    if len(set(names)) < len(names):
        raise UserError(f"--vary {' '.join(names)}: name each factor once")
    for name, low, high, logarithmic in given:
        _check(name, low, high, logarithmic=logarithmic)
    ranges = {name: (low, high) for name, low, high, _ in given}
    ranges = {name: ranges[name] for name in FACTORS if name in ranges}
    return Variation(ranges, frozenset(name for name, *_, log in given if log)) if ranges else None


def _read(
    name: str, value: float | Sequence[float | str], given: str
) -> tuple[str, float, float, bool]:
    parts = list(value) if np.iterable(value) and not isinstance(value, str) else [value]
    logarithmic = parts[-1:] == [LOGARITHMIC]
    try:
        numbers = [float(part) for part in parts[: len(parts) - logarithmic]]
        low, high = 2 * numbers if len(numbers) == 1 else numbers
    except (ValueError, TypeError):
        raise UserError(
            f"--vary {given!r} is neither NAME=LOW:HIGH nor NAME=VALUE, such as mass=0.5:2 or "
            f"mass=0.25:4:{LOGARITHMIC}"
        ) from None
    return name, low, high, logarithmic


def _check(name: str, low: float, high: float, *, logarithmic: bool) -> None:
    if name not in FACTORS:
        hint = suggestion(name, FACTORS, f"factors: {', '.join(FACTORS)}")
        raise UserError(f"--vary: unknown factor {name!r}; {hint}")
    factor, given = FACTORS[name], f"--vary {name}={low:g}:{high:g}"
    if not factor.low <= low <= high <= factor.high:
        raise UserError(
            f"{given}: the range must go upwards and lie from {factor.low:g} to {factor.high:g}"
        )
    if factor.whole and not (low.is_integer() and high.is_integer()):
        raise UserError(f"{given}: {name} must be whole numbers")
    if logarithmic and (factor.whole or low <= 0):
        raise UserError(
            f"{given}:{LOGARITHMIC}: ratios need a real number above 0; leave out :{LOGARITHMIC}"
        )


def stack_values(draws: Sequence[Draw | None]) -> dict[str, Array]:
    """Return the values of N episodes by factor, (N,) each; neutral if one has none."""
    values = [draw.values if draw else {} for draw in draws]
    return {
        name: np.array([each.get(name, factor.neutral) for each in values])
        for name, factor in FACTORS.items()
        if any(name in each for each in values)
    }


def physical_draws(values: Mapping[str, Any], count: int) -> list[Draw]:
    """Return the draws (N) whose values are stacked, without visual factors."""
    physical = [name for name in values if FACTORS[name].kind == "physical"]
    return [Draw({name: float(values[name][i]) for name in physical}) for i in range(count)]
