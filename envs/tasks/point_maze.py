"""Point maze: a point mass finds its way through a maze to where a goal image shows it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mujepa.envs.task import ASSETS, Task
from mujepa.envs.types import Array, DistanceMetric, Dynamics, JointState, Model, Rng

if TYPE_CHECKING:  # scipy takes half of the time of `mujepa --help`
    from scipy.spatial import KDTree

LAYOUT = (
    "########",
    "#..##..#",
    "#..#...#",
    "##...###",
    "#..#...#",
    "#.#..#.#",
    "#...#..#",
    "########",
)
"""The medium maze of D4RL (arXiv 2004.07219), seen from above, north up."""
CELL, RADIUS = 0.2, 0.05
"""Width of a cell, radius of the agent [m]."""
FINE = 5
"""Nodes per cell and direction of the grid on which ways are measured."""


@dataclass(frozen=True)
class PointMaze(Task):
    """From anywhere in the maze to a point at least 1 m of corridor away, within 8 cm, in 6 s."""

    name: str = "point_maze"
    mjcf: Path = ASSETS / "point_maze.xml"
    goal_sensors: tuple[str, ...] = ("agent",)
    tolerance: float = 0.08
    budget_steps: int = 150
    distance_metric: DistanceMetric = "remaining"
    layout: tuple[str, ...] = LAYOUT
    shortest_way: float = 1.0

    def compile(self) -> Model:
        """Add a box for each inner wall of the layout, and compile."""
        import mujoco

        spec = mujoco.MjSpec.from_file(str(self.mjcf))
        for x, y in self._cells("#"):
            if max(abs(x), abs(y)) < CELL * len(self.layout) / 2 - CELL:
                size = (CELL / 2, CELL / 2, 0.05)
                name = f"wall_{x:.1f}_{y:.1f}"
                wall = spec.find_default("wall")
                spec.worldbody.add_geom(wall, name=name, size=size, pos=(x, y, 0.0))
        return spec.compile()

    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw a place in any free cell, at rest."""
        margin = CELL / 2 - RADIUS
        return rng.choice(self._cells(".")) + rng.uniform(-margin, margin, 2), np.zeros(2)

    def sample_ends(self, world: Dynamics, rng: Rng) -> tuple[Array, Array]:
        """Draw two places with a way of at least `shortest_way` between them."""
        while True:
            ends = super().sample_ends(world, rng)
            achieved = world.achieved(np.stack(ends))
            if self.remaining(achieved[0], achieved[1]) >= self.shortest_way:
                return ends

    def remaining(self, achieved: Array, desired: Array) -> Array:
        """Return the length of the way around the walls [m]."""
        _, tree, ways = self._ways
        here, there = (tree.query(place[..., :2])[1] for place in (achieved, desired))
        straight = self.distance(achieved, desired)
        return np.where(straight < 2 * CELL / FINE, straight, ways[here, there])

    def _cells(self, kind: str) -> Array:
        """Return the centres of the cells of a kind, (N, 2)."""
        rows, columns = np.nonzero(np.array([list(row) for row in self.layout]) == kind)
        middle = (len(self.layout) - 1) / 2
        centres = np.stack([columns - middle, middle - rows], axis=1)
        return np.asarray(CELL * centres, np.float64)

    @functools.cached_property
    def _ways(self) -> tuple[Array, KDTree, Array]:
        """Return the nodes (M, 2) that the agent's centre can be at, and all ways between them."""
        from scipy.sparse.csgraph import dijkstra
        from scipy.spatial import KDTree

        offsets = (np.arange(FINE) - (FINE - 1) / 2) * CELL / FINE
        grid = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
        nodes = (self._cells(".")[:, None] + grid).reshape(-1, 2)
        to_wall = np.abs(nodes[:, None] - self._cells("#")).max(axis=-1).min(axis=1)
        nodes = nodes[to_wall > CELL / 2 + 0.8 * RADIUS]
        tree = KDTree(nodes)
        near = tree.sparse_distance_matrix(tree, 1.5 * CELL / FINE)
        return nodes, tree, dijkstra(near)
