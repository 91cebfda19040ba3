"""How episodes differ: ranges of factors, the values that an episode draws, and its own model.

    variation = read_variation(["mass=0.5:2", "light=0.3:1"])
    draw = variation.draw(rng)                 # {"mass": 1.31, "light": 0.62}
    variant = make_variant(model, camera, draw)

Values come from a child of the episode's random stream: starts and goals stay what they were.
"""

# MuJoCo's compiled names have no stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from mujepa.envs.distractors import Backdrop, Motion, make_drift, make_intruders
from mujepa.envs.factors import FACTORS
from mujepa.envs.rendering import camera_frame
from mujepa.envs.scenery import PATTERNS, Scenery, place_ornaments
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mujepa.envs.rendering import FreeCamera
    from mujepa.envs.task import Task

    Vary = Mapping[str, float | Sequence[float | str]] | Sequence[str] | str | None
    """Ranges of factors, as Python or as text."""


MOVING = "flicker", "drift", "intruder", "jitter"
"""The factors that move by themselves."""
LOGARITHMIC = "log"
"""Ends a range that is drawn as ratios: doubling is as likely everywhere."""


@dataclass(frozen=True)
class Draw:
    """What one episode has drawn.

    Attributes:
        values: of the factors that vary, by name.
        look: seed of what a number does not say: which colours, which side, which places.
    """

    values: dict[str, float]
    look: int = 0


@dataclass(frozen=True)
class Variation:
    """What differs from episode to episode.

    Attributes:
        ranges: lowest and highest value of each factor that varies; values between are equally
            likely.
        logarithmic: the factors whose logarithms are equally likely instead.
    """

    ranges: dict[str, tuple[float, float]]
    logarithmic: frozenset[str] = frozenset()

    def draw(self, rng: np.random.Generator) -> Draw:
        """Draw the values of an episode from a child of its random stream, which stays as it is.

        What a factor draws does not depend on which others vary.
        """
        child = rng.spawn(1)[0]
        look = int(child.integers(2**32))
        shares = dict(zip(FACTORS, child.random(len(FACTORS)), strict=True))
        values = {name: self._value(name, shares[name]) for name in self.ranges}
        return Draw(values, look)

    def _value(self, name: str, share: float) -> float:
        low, high = self.ranges[name]
        if FACTORS[name].whole:
            return float(math.floor(low + share * (high - low + 1)))
        if name in self.logarithmic:
            return float(low * (high / low) ** share)
        return float(low + share * (high - low))

    def check(self, task: Task, model: mujoco.MjModel) -> None:
        """Refuse factors that change nothing in a task's model.

        Raises:
            UserError: the message names those that work there.
        """
        there = working_factors(task, model)
        for name in self.ranges:
            if name not in there:
                raise UserError(
                    f"--vary {name}: task {task.name!r} has no {name} to change; "
                    f"factors that work there: {', '.join(there)}"
                )

    def plain(self) -> dict[str, list[float | str]]:
        """Return the ranges as JSON holds them."""
        return {name: [*bounds, *self._scale(name)] for name, bounds in self.ranges.items()}

    def flags(self) -> tuple[str, ...]:
        """Return the ranges as one types them after `--vary`."""
        return tuple(
            f"{name}={':'.join(map(str, (*bounds, *self._scale(name))))}"
            for name, bounds in self.ranges.items()
        )

    def _scale(self, name: str) -> tuple[str, ...]:
        return (LOGARITHMIC,) if name in self.logarithmic else ()


@dataclass(frozen=True, eq=False)
class Variant:
    """One episode's own world: a changed copy of the model, and what is drawn over its scene.

    Attributes:
        model: the copy.
        scenery: what stands still.
        motion: what moves by itself, if anything.
    """

    model: mujoco.MjModel
    scenery: Scenery
    motion: Motion | None = None


def working_factors(task: Task, model: mujoco.MjModel) -> list[str]:
    """Return the names of the factors that change something in a task's model.

    Not the physical ones where a suite's own code has another model to step, and not the camera
    where it is none of the model's.
    """
    there = [name for name, factor in FACTORS.items() if factor.works(model)]
    if task.python_stepped:
        there = [name for name in there if FACTORS[name].kind == "visual"]
    free = not isinstance(task.observation_camera, str)
    return [name for name in there if not (free and name == "camera")]


def read_variation(vary: Vary | Variation) -> Variation | None:
    """Return the variation that is meant, or None if nothing varies.

    Args:
        vary: such as `{"mass": (0.5, 2), "light": 0.5}` or `["mass=0.5:2", "light=0.5"]`; ranges
            that end in `log`, as `(0.5, 2, "log")` and `mass=0.5:2:log`, are drawn as ratios.

    Raises:
        UserError: a factor is unknown or named twice, or a range is none or lies out of bounds.
    """
    if vary is None or isinstance(vary, Variation):
        return vary
    if isinstance(vary, Mapping):
        given = [(name, *_bounds(name, value)) for name, value in vary.items()]
    else:
        given = [_read(text) for text in (vary.split() if isinstance(vary, str) else vary)]
    ranges = {name: (low, high) for name, low, high, _ in given}
    if len(ranges) < len(given):
        raise UserError(f"--vary {' '.join(name for name, *_ in given)}: name each factor once")
    for name, low, high, logarithmic in given:
        _check(name, low, high, logarithmic=logarithmic)
    if not ranges:
        return None
    logarithmic = frozenset(name for name, _, _, as_ratio in given if as_ratio)
    return Variation({name: ranges[name] for name in FACTORS if name in ranges}, logarithmic)


def _read(text: str) -> tuple[str, float, float, bool]:
    name, _, bounds = text.partition("=")
    bounds, logarithmic = bounds.removesuffix(f":{LOGARITHMIC}"), bounds.endswith(f":{LOGARITHMIC}")
    low, separator, high = bounds.partition(":")
    try:
        return name, float(low), float(high if separator else low), logarithmic
    except ValueError:
        raise UserError(
            f"--vary {text!r} is neither NAME=LOW:HIGH nor NAME=VALUE, such as mass=0.5:2 or "
            f"mass=0.25:4:{LOGARITHMIC}"
        ) from None


def _bounds(name: str, value: float | Sequence[float | str]) -> tuple[float, float, bool]:
    logarithmic = isinstance(value, Sequence) and list(value[-1:]) == [LOGARITHMIC]
    try:
        bounds = value[:-1] if isinstance(value, Sequence) and logarithmic else value
        low, high = np.broadcast_to(np.asarray(bounds, np.float64).ravel(), 2)
    except ValueError:
        raise UserError(f"vary {name}={value!r} is neither (low, high) nor a value") from None
    return float(low), float(high), logarithmic


def _check(name: str, low: float, high: float, *, logarithmic: bool) -> None:
    if name not in FACTORS:
        near = difflib.get_close_matches(name, FACTORS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"factors: {', '.join(FACTORS)}"
        raise UserError(f"--vary: unknown factor {name!r}; {hint}")
    factor = FACTORS[name]
    if not factor.low <= low <= high <= factor.high:
        raise UserError(
            f"--vary {name}={low:g}:{high:g}: the range must go upwards "
            f"and lie from {factor.low:g} to {factor.high:g}"
        )
    if factor.whole and not (low.is_integer() and high.is_integer()):
        raise UserError(f"--vary {name}={low:g}:{high:g}: {name} must be whole numbers")
    if logarithmic and (factor.whole or low <= 0):
        raise UserError(
            f"--vary {name}={low:g}:{high:g}:{LOGARITHMIC}: ratios need a real number above 0; "
            f"leave out :{LOGARITHMIC}"
        )


def make_variant(model: mujoco.MjModel, camera: str | FreeCamera, draw: Draw) -> Variant:
    """Return the model and the scenery of one episode.

    Args:
        model: the task's own, left as it is.
        camera: the camera that has distractors in its view.
        draw: what the episode has drawn.
    """
    model = copy.copy(model)
    changed = {n: v for n, v in draw.values.items() if v != FACTORS[n].neutral}
    for name, value in changed.items():
        FACTORS[name].apply(model, value, _stream(draw, name))
    if {"mass", "camera"} & changed.keys():
        _derive_constants(model)
    pattern, ornaments, motion = 0, [], None
    if "texture" in changed:
        pattern = int(_stream(draw, "texture").integers(PATTERNS))
    if {"distractors", *MOVING} & changed.keys():
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        frame = camera_frame(model, data, camera)
        rng, count = _stream(draw, "distractors"), int(changed.get("distractors", 0))
        ornaments = place_ornaments(model, data, frame, count, rng)
        if set(MOVING) & changed.keys():
            motion = _motion(model, Backdrop.behind(model, data, frame), draw)
    return Variant(model, Scenery(pattern, changed.get("texture", 0.0), ornaments), motion)


def _motion(model: mujoco.MjModel, backdrop: Backdrop, draw: Draw) -> Motion:
    """Return what moves by itself in an episode that has drawn this."""
    flicker, drift, intruder, jitter = (draw.values.get(name, 0.0) for name in MOVING)
    return Motion(
        (draw.look, list(FACTORS).index("flicker")),
        float(model.opt.timestep),
        flicker,
        jitter,
        backdrop,
        make_drift(int(drift), _stream(draw, "drift")),
        make_intruders(int(intruder), _stream(draw, "intruder")),
    )


def _stream(draw: Draw, name: str) -> np.random.Generator:
    return np.random.default_rng([draw.look, list(FACTORS).index(name)])


def _derive_constants(model: mujoco.MjModel) -> None:
    """Compute again what compilation derives from masses and places; sizes stay as declared."""
    kept = model.stat.extent, model.stat.meansize, model.stat.center.copy()
    mujoco.mj_setConst(model, mujoco.MjData(model))
    model.stat.extent, model.stat.meansize, model.stat.center[:] = kept


def stack_values(draws: Sequence[Draw | None]) -> dict[str, NDArray[np.float64]]:
    """Return the values of many episodes by factor, (N,) each; neutral where one has none."""
    names = [name for name in FACTORS if any(draw and name in draw.values for draw in draws)]
    return {
        name: np.array(
            [(draw.values if draw else {}).get(name, FACTORS[name].neutral) for draw in draws]
        )
        for name in names
    }


def physical_draws(values: Mapping[str, Any], count: int) -> list[Draw]:
    """Return the draws (N) that `stack_values` has stacked, but for what only changes the look."""
    names = [name for name, factor in FACTORS.items() if factor.kind == "physical"]
    physical = {name: values[name] for name in names if name in values}
    return [Draw({name: float(all_[i]) for name, all_ in physical.items()}) for i in range(count)]
