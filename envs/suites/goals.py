"""What counts as reaching a goal in other people's environments, and how to look at it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mujepa.envs.camera import Camera, FreeCamera, overview
from mujepa.envs.types import Model

if TYPE_CHECKING:
    from mujepa.envs.suites.simulator import Simulator

Positions = Literal["xpos", "xipos", "geom_xpos", "site_xpos"]
Part = tuple[Positions, int]
"""An array of positions in MuJoCo's data, and a row of it."""
POSITIONS: dict[str, Positions] = {"body": "xpos", "geom": "geom_xpos", "site": "site_xpos"}
GENERIC_TOLERANCE = 0.05
"""Share of the model's size within which every body must be, if nothing better is known."""
DECISIONS = 30
"""Decisions per episode, if nothing else is known; goals are half as far away."""


@dataclass(frozen=True)
class Rule:
    """What is known about environments of a suite.

    Attributes:
        pattern: of their names.
        parts: names of bodies, geoms or sites, as `kind:name`, whose positions are the goal; all
            whose name the pattern fits. None: every body that moves.
        tolerance: how near each must be [m]; None for a share of the model's size.
        flat: heights do not matter.
        resets: starts and goals are two resets of the suite's, as its resets cover the world;
            otherwise a goal is what the behaviour policy reaches.
        camera: a camera of the model, a free one, or `above`, from where one sees all; None for the
            suite's own, or MuJoCo's.
        seconds: simulated per decision.
        decisions: per episode.
        behaviour: another behaviour policy than noise.
    """

    pattern: str
    parts: tuple[str, ...] | None = None
    tolerance: float | None = None
    flat: bool = False
    resets: bool = False
    camera: Camera | None = None
    seconds: float = 0.1
    decisions: int = DECISIONS
    behaviour: Literal["noise", "pick"] = "noise"


FETCH = FreeCamera((1.3, 0.75, 0.5), 1.2, 132.0, -25.0)
ABOVE_ARM, ABOVE_U = FreeCamera((0, 0, 0), 0.6, 90, -90), FreeCamera((0, 0, 0), 6.5, 90, -90)
CUBES, TIP = (r"body:object_\d",), (r"site:robot0:S_\w+tip",)
RULES = (
    Rule(r"gymnasium:Reacher-", ("body:fingertip",), 0.03, camera=ABOVE_ARM),
    Rule(r"dm_control:reacher-easy", ("geom:finger",), 0.06, True, True, "fixed", 0.1, 40),
    Rule(r"dm_control:reacher-hard", ("geom:finger",), 0.025, True, True, "fixed", 0.1, 40),
    Rule(r"dm_control:point_mass-", ("geom:pointmass",), 0.025, True, True, "fixed"),
    Rule(r"dm_control:ball_in_cup-", ("geom:ball",), 0.04),
    Rule(r"ogbench:visual-cube-", CUBES, 0.04, False, False, "front_pixels", 0.1, 75, "pick"),
    Rule(r"ogbench:cube-", CUBES, 0.04, False, False, "front", 0.1, 75, "pick"),
    Rule(r"ogbench:pointmaze-", ("body:torso",), 1.0, True, False, "above", 0.2, 50),
    Rule(r"ogbench:(ant|humanoid)maze-", ("body:torso",), 0.5, True, False, "above", 0.2, 50),
    Rule(r"robotics:FetchReach", ("site:robot0:grip",), 0.05, False, False, FETCH, 0.08, 25),
    Rule(r"robotics:PointMaze_UMaze", ("body:particle",), 0.45, True, camera=ABOVE_U),
    Rule(r"robotics:PointMaze", ("body:particle",), 0.45, True, camera="above"),
    Rule(r"robotics:AntMaze", ("body:torso",), 0.45, True, camera="above"),
    Rule(r"robotics:HandReach", TIP, 0.02),
    Rule(r"robotics:HandManipulate", ("body:object",), 0.02),
    Rule(r""),
)
"""The first whose pattern fits the beginning of the name counts. Tolerances are the suites' own
where they have one; a fingertip of HandReach must be within 1 cm there, and HandManipulate also
asks for 0.1 rad of rotation, which random experience never meets."""


def find_rule(name: str) -> Rule:
    """Return what is known about an environment."""
    return next(rule for rule in RULES if re.match(rule.pattern, name))


def find_parts(model: Model, rule: Rule) -> tuple[Part, ...]:
    """Return whose positions are the goal."""
    if rule.parts is None:
        moving = [
            index
            for index in range(1, model.nbody)
            if model.body_weldid[index] != 0 and model.body_mass[index] > 0
        ]
        return tuple(("xipos", index) for index in moving)
    found: list[Part] = []
    for part in rule.parts:
        kind, pattern = part.split(":", 1)
        array, count = POSITIONS[kind], {
            "body": model.nbody, "geom": model.ngeom, "site": model.nsite,
        }[kind]  # fmt: skip
        for index in range(count):
            if re.fullmatch(pattern, getattr(model, kind)(index).name):
                found.append((array, index))
    return tuple(found)


def find_camera(simulator: Simulator, rule: Rule) -> Camera:
    """Return the rule's camera, the suite's own, the model's first, or one that sees it whole."""
    model = simulator.model
    if rule.camera == "above":
        return overview(model, distance=1.2 * model.stat.extent, elevation=-90)
    if rule.camera is not None:
        return rule.camera
    own = getattr(simulator, "camera", {})
    if model.ncam and not own and not simulator.name.startswith("ogbench"):
        return model.camera(0).name
    return overview(model, **{key: value for key, value in own.items() if key != "trackbodyid"})
