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

    Letters: B batch, T time, G goal, A action, S state.

    Attributes:
        name: the name used on the command line and in files.
        mjcf: path of the MuJoCo model.
        goal_sensors: sensors of the model whose readings, concatenated, are the achieved goal (G,).
            The first is a position: reports draw it. If empty, `read_goals` computes the goal.
        tolerance: largest distance at which the goal counts as reached.
        unit: unit in which distances are reported.
        per_unit: number of `unit`s in a distance of 1.
        substeps: physics steps per environment step.
        frame_skip: environment steps per model step; the action is held in between.
        budget_steps: environment steps per episode.
        hold_steps: the goal must be reached during this many environment steps at the end.
        behaviour: the noise of the behaviour policy, which collects experience.
        extra_noise_dims: dimensions of noise that `behave` reads after the action's.
        episodes: default number of episodes of experience.
        episode_steps: model steps of such an episode; None for twice the budget.
        goal_steps: if above 0, start and goal are states of an episode of the behaviour policy
            that are this many environment steps apart; otherwise they are independent.
        lead_steps: environment steps of that episode before the start.
        distance_metric: what diagnostics compare costs with: the distance of the `joints`, or
            `remaining`.
        success_cost: the planner's cost that measures success; if empty, the distance of all that
            the sensors read.
        observation_camera: camera of the agent's images.
        pretty_camera: camera of the images for people.
        antialias: smooth the edges in the agent's images, where a fraction of a pixel matters;
            drawing takes more than twice as long.
    """

    name: str
    mjcf: Path
    goal_sensors: tuple[str, ...]
    tolerance: float
    unit: str = "cm"
    per_unit: float = 100.0
    substeps: int = 2
    frame_skip: int = 4
    budget_steps: int = 100
    hold_steps: int = 5
    behaviour: RedNoise = field(default_factory=RedNoise)
    extra_noise_dims: int = 0
    episodes: int = 2000
    episode_steps: int | None = None
    goal_steps: int = 0
    lead_steps: int = 0
    distance_metric: DistanceMetric = "joints"
    success_cost: str = ""
    observation_camera: Camera = "observation"
    pretty_camera: Camera = "pretty"
    antialias: bool = False

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
        """Return the goals (..., G) that states (..., S) achieve, if there are no `goal_sensors`.

        `data` may be overwritten.
        """
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
        """Return the actions of the behaviour policy, in half-widths of the bounds.

        The noise itself by default.

        Args:
            world: the world.
            states: (B, S).
            noise: (B, A + extra_noise_dims), correlated over time.

        Returns:
            (B, A); the caller clips to [-1, 1].
        """
        return noise

    def distance(self, achieved: Array, desired: Array) -> Array:
        """Return the distance between goals, (..., G) and (..., G) -> (...)."""
        return np.linalg.norm(np.asarray(achieved) - np.asarray(desired), axis=-1)

    def remaining(self, achieved: Array, desired: Array) -> Array:
        """Return the cost that the oracle minimises, (..., G) and (..., G) -> (...).

        The distance by default. Tasks in which that is a poor guide return the length of the way
        around obstacles, or add hints.
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

    Args:
        task: the task.
        world: its world.
        rng: source of the first state and of the policy's noise.
        steps: environment steps between start and goal.
        lead_steps: environment steps before the start.
        at_rest: set velocities and activations to zero.
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
