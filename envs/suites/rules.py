"""What is known about the environments of other suites: goals, tolerances, cameras, times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mujepa.envs.camera import Camera, FreeCamera

GENERIC_TOLERANCE = 0.05
"""Default tolerance of every body, as a share of the model's size."""


@dataclass(frozen=True)
class Rule:
    """What is known about the environments whose names match a pattern.

    `parts` are patterns `kind:name` of bodies, geoms or sites whose positions are the goal. With
    `resets`, starts and goals are two resets of the suite's, which cover the world; otherwise a
    goal is a state that the behaviour policy reaches.
    """

    pattern: str  # of the beginning of their names
    parts: tuple[str, ...] | None = None  # None for every body that moves
    tolerance: float | None = None  # of each part [m]; None for a share of the model's size
    flat: bool = False  # ignore heights
    resets: bool = False
    camera: Camera | None = None  # `above` sees everything; None for the suite's, or MuJoCo's
    seconds: float = 0.1  # simulated per decision
    decisions: int = 30  # per episode; goals are half as many decisions away
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
"""The first that matches counts. Tolerances are the suites' own if there are any, except that
HandReach asks for 1 cm there, and HandManipulate also for 0.1 rad, which random actions miss."""


def find_rule(name: str) -> Rule:
    """Return the rule of an environment."""
    return next(rule for rule in RULES if re.match(rule.pattern, name))
