"""Tasks: a MuJoCo model, where episodes start and end, and when a goal is reached."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mujepa.envs.behaviour import RedNoise
from mujepa.envs.camera import Camera
from mujepa.envs.types import Array, Data, DistanceMetric, Dynamics, JointState, Model, Rng
from mujepa.runtime.errors import UserError

ASSETS = Path(__file__).parent / "tasks" / "assets"


@dataclass(frozen=True)
class Task(ABC):
    """A goal-conditioned world. Subclasses say how starts and goals are drawn.

    Letters: B batch, T time, G goal, A action, S state. `goal_sensors` of the model, concatenated,
    are the achieved goal (G,); the first is a position. If there are none, `read_goals` computes
    it. With `goal_steps`, start and goal are states of an episode of the behaviour policy that are
    this many environment steps apart, after `lead_steps`; otherwise they are independent.
    """

    name: str  # on the command line and in files
    mjcf: Path  # the MuJoCo model
    goal_sensors: tuple[str, ...]
    tolerance: float  # largest distance at which the goal counts as reached
    unit: str = "cm"  # of reported distances
    per_unit: float = 100.0  # number of units in a distance of 1
    substeps: int = 2  # physics steps per environment step
    frame_skip: int = 4  # environment steps per model step, through which the action is held
    budget_steps: int = 100  # environment steps per episode
    hold_steps: int = 5  # environment steps at the end in which the goal must be reached
    behaviour: RedNoise = field(default_factory=RedNoise)  # noise of the behaviour policy
    extra_noise_dims: int = 0  # dimensions of noise that `behave` reads after the action's
    episodes: int = 2000  # default number of episodes of experience
    episode_steps: int | None = None  # model steps of these; None for twice the budget
    goal_steps: int = 0
    lead_steps: int = 0
    distance_metric: DistanceMetric = "joints"  # what diagnostics compare costs with
    success_cost: str = ""  # the planner's that measures success; if empty, of all goal sensors
    observation_camera: Camera = "observation"  # of the agent's images
    pretty_camera: Camera = "pretty"  # of the images for people
    antialias: bool = False  # smooth the edges in the agent's images; slows drawing down

    def compile(self) -> Model:
        """Return the compiled model.

        Raises:
            UserError: the MuJoCo file is missing or invalid.
        """
        import mujoco  # not at the top: naming tasks loads no simulator

        try:
            return mujoco.MjModel.from_xml_path(str(self.mjcf))
        except ValueError as error:
            raise UserError(
                f"{self.mjcf} is not a valid MuJoCo model: {str(error).splitlines()[0]}"
            ) from error

    @property
    def python_stepped(self) -> bool:
        """Whether `advance` steps the world in Python, instead of MuJoCo's threads."""
        return False

    def action_bounds(self, model: Model) -> tuple[Array, Array]:
        """Return the lowest and the highest action, (A,) each: the actuators' limits by default."""
        low, high = model.actuator_ctrlrange.T.copy()
        return low, high

    def advance(self, states: Array, actions: Array, hold: int) -> Array:
        """Step a `python_stepped` world: states (B, S), actions (B, T, A) -> states (B, T, S)."""
        raise TypeError(f"task {self.name!r} is stepped by MuJoCo")

    def read_goals(self, model: Model, data: Data, states: Array) -> Array:
        """Return the goals (..., G) of states (..., S) if no sensors do; may change `data`."""
        raise TypeError(f"task {self.name!r} has neither goal_sensors nor read_goals")

    @abstractmethod
    def sample_start(self, model: Model, rng: Rng) -> JointState:
        """Draw the joint positions and velocities at the start of an evaluation episode."""

    def sample_goal(self, model: Model, rng: Rng) -> Array:
        """Draw the joint positions (nq,) of a goal at rest; by default those of another start."""
        return self.sample_start(model, rng)[0]

    def sample_ends(self, world: Dynamics, rng: Rng) -> tuple[Array, Array]:
        """Draw the states, (S,) each, of a start and of a goal."""
        if self.goal_steps:
            return rollout_ends(self, world, rng, self.goal_steps, self.lead_steps)
        start = world.state(*self.sample_start(world.model, rng))
        return start, world.state(self.sample_goal(world.model, rng))

    def sample_anywhere(self, model: Model, rng: Rng) -> JointState:
        """Draw the joint positions and velocities at the start of an episode of experience."""
        return self.sample_start(model, rng)

    def behave(self, world: Dynamics, states: Array, noise: Array) -> Array:
        """Return the behaviour policy's actions (B, A), in half-widths of the bounds, unclipped.

        The noise (B, A + extra_noise_dims), which is correlated over time, itself by default.
        """
        return noise

    def distance(self, achieved: Array, desired: Array) -> Array:
        """Return the distance between goals, (..., G) and (..., G) -> (...)."""
        return np.linalg.norm(np.asarray(achieved) - np.asarray(desired), axis=-1)

    def remaining(self, achieved: Array, desired: Array) -> Array:
        """Return the cost that the oracle minimises, (..., G) and (..., G) -> (...).

        The distance by default; tasks return the way around obstacles, or add hints.
        """
        return self.distance(achieved, desired)

    def text(self, distance: float) -> str:
        """Return a distance for people, such as `4.2 cm`."""
        return f"{self.per_unit * distance:.1f} {self.unit}".strip()


def largest_distance(achieved: Array, desired: Array) -> Array:
    """Return the largest distance between positions, each three of G numbers, (..., G) -> (...)."""
    away = np.asarray(achieved) - np.asarray(desired)
    return np.linalg.norm(away.reshape(*away.shape[:-1], -1, 3), axis=-1).max(axis=-1)


def rollout_ends(
    task: Task,
    world: Dynamics,
    rng: Rng,
    steps: int,
    lead_steps: int = 0,
    *,
    at_rest: bool = True,
) -> tuple[Array, Array]:
    """Roll out the behaviour policy and return two of its states (S,), as start and goal.

    `steps` environment steps lie between start and goal, and `lead_steps` before the start;
    `at_rest` sets velocities and activations to zero.
    """
    low, high = world.action_low, world.action_high
    states = world.state(*task.sample_anywhere(world.model, rng))[None]
    visited, actions = [states[0]], np.empty(0)
    noise = task.behaviour.draw(
        rng, (lead_steps + steps) // task.frame_skip + 1, len(low) + task.extra_noise_dims
    )
    for step in range(lead_steps + steps):
        if step % task.frame_skip == 0:
            row = noise[step // task.frame_skip][None]
            unit = np.clip(task.behave(world, states, row), -1, 1)
            actions = (high + low) / 2 + unit * (high - low) / 2
        states = world.step(states, actions)
        visited.append(states[0])
    start, goal = visited[lead_steps], visited[-1]
    if at_rest:
        start, goal = (world.state(state[1 : 1 + world.model.nq]) for state in (start, goal))
    return start, goal
