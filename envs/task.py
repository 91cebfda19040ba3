"""What a task is: a MuJoCo model, where episodes start and end, and when a goal is reached."""

# MuJoCo's compiled names have no stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from mujepa.envs.behaviour import RedNoise
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    import mujoco
    from numpy.typing import NDArray

    from mujepa.envs.rendering import FreeCamera

    Pose = tuple[NDArray[np.float64], NDArray[np.float64]]
    """Joint positions (nq,) and velocities (nv,)."""

ASSETS = Path(__file__).parent / "tasks" / "assets"


class Physics(Protocol):
    """What tasks may ask of a `World`, which see."""

    model: Any
    action_low: NDArray[np.float64]
    action_high: NDArray[np.float64]

    def state(
        self, qpos: NDArray[np.float64], qvel: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Return the state (S,) of joint positions and velocities."""
        ...

    def achieved(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the goals (B, G) that states (B, S) achieve."""
        ...

    def step(self, states: NDArray[np.float64], actions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the states (B, S) one environment step later."""
        ...


@dataclass(frozen=True)
class Task(ABC):
    """A goal-conditioned world. Subclasses say how starts and goals are drawn.

    Letters: B batch, G goal, A action, S state.

    Attributes:
        name: the name used on the command line and in files.
        mjcf: path of the MuJoCo model.
        goal_sensors: sensors of the model whose readings, one after the other, are the achieved
            goal, (G,). The first is a position: reports draw it. Empty: `read_goals` says.
        tolerance: largest distance at which the goal counts as reached.
        unit: what distances are reported in.
        per_unit: how much of `unit` a distance of 1 is.
        substeps: physics steps per environment step.
        frame_skip: environment steps per model step; the action is held in between.
        budget_steps: environment steps per episode.
        hold_steps: environment steps at the end of an episode through which the goal must be held.
        behaviour: the noise that moves the agent while experience is collected.
        extra_noise_dims: numbers of noise that `behave` reads beside the action's.
        episodes: how many episodes experience is made of, if nothing else is asked for.
        episode_steps: model steps of such an episode; None for twice the budget.
        distance_metric: what diagnostics compare costs with: the distance of the `joints`, or
            what is `remaining` to the goal.
        recipe: flags of `mujepa train` that the physics of this task asks for.
        observation_camera: camera of the images that the agent sees.
        pretty_camera: camera of the images that people see.
        antialias: smooth the edges in the agent's images, where a fraction of a pixel counts; they
            are drawn at less than half the speed.
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
    distance_metric: Literal["joints", "remaining"] = "joints"
    recipe: tuple[str, ...] = ()
    observation_camera: str | FreeCamera = "observation"
    pretty_camera: str | FreeCamera = "pretty"
    antialias: bool = False

    def compile(self) -> mujoco.MjModel:
        """Return the compiled model.

        Raises:
            UserError: the MuJoCo file is missing or invalid.
        """
        import mujoco  # here, so that naming tasks loads no simulator

        try:
            return mujoco.MjModel.from_xml_path(str(self.mjcf))
        except ValueError as error:
            raise UserError(
                f"{self.mjcf} is not a valid MuJoCo model: {str(error).splitlines()[0]}"
            ) from error

    @property
    def python_stepped(self) -> bool:
        """Whether `advance` steps the world, in a Python loop, instead of MuJoCo's threads."""
        return False

    def action_bounds(
        self, model: mujoco.MjModel
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lowest and the highest action, (A,) each: the actuators' limits by default."""
        low, high = model.actuator_ctrlrange.T.copy()
        return low, high

    def advance(
        self, states: NDArray[np.float64], actions: NDArray[np.float64], hold: int
    ) -> NDArray[np.float64]:
        """Step a `python_stepped` world: states (B, S), actions (B, T, A) -> states (B, T, S)."""
        raise TypeError(f"task {self.name!r} is stepped by MuJoCo")

    def read_goals(
        self, model: mujoco.MjModel, data: mujoco.MjData, states: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the goals (..., G) that states (..., S) achieve; `data` is there to be written.

        Asked only where there are no `goal_sensors`.
        """
        raise TypeError(f"task {self.name!r} has neither goal_sensors nor read_goals")

    @abstractmethod
    def sample_start(self, model: mujoco.MjModel, rng: np.random.Generator) -> Pose:
        """Draw the joint positions (nq,) and velocities (nv,) in which a judged episode starts."""

    @abstractmethod
    def sample_goal(self, model: mujoco.MjModel, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the joint positions (nq,) of a goal; its velocities are zero."""

    def sample_ends(
        self, world: Physics, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw the states, (S,) each, of a start and of a goal; independently by default."""
        start = world.state(*self.sample_start(world.model, rng))
        return start, world.state(self.sample_goal(world.model, rng))

    def sample_anywhere(self, model: mujoco.MjModel, rng: np.random.Generator) -> Pose:
        """Draw positions and velocities in which an episode of experience starts."""
        return self.sample_start(model, rng)

    def behave(
        self, world: Physics, states: NDArray[np.float64], noise: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the actions of the behaviour policy, in units of the bounds; noise by default.

        Args:
            world: the world.
            states: (B, S).
            noise: (B, A + extra_noise_dims), correlated over time, in half-widths of the bounds.

        Returns:
            (B, A); what lies outside of [-1, 1] is clipped.
        """
        return noise

    def distance(
        self, achieved: NDArray[np.float64], desired: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the distance between goals, (..., G) and (..., G) -> (...)."""
        return np.linalg.norm(np.asarray(achieved) - np.asarray(desired), axis=-1)

    def remaining(
        self, achieved: NDArray[np.float64], desired: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return what the oracle minimises, (..., G) and (..., G) -> (...).

        The distance by default; where that is a poor guide, the way around obstacles, or the
        distance with hints.
        """
        return self.distance(achieved, desired)

    def text(self, distance: float) -> str:
        """Return a distance as people read it, such as `4.2 cm`."""
        return f"{self.per_unit * distance:.1f} {self.unit}".strip()


def farthest(achieved: NDArray[np.float64], desired: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest distance between positions, each three of G numbers, (..., G) -> (...)."""
    away = np.asarray(achieved) - np.asarray(desired)
    return np.linalg.norm(away.reshape(*away.shape[:-1], -1, 3), axis=-1).max(axis=-1)


def reached_later(
    task: Task,
    world: Physics,
    rng: np.random.Generator,
    steps: int,
    lead_steps: int = 0,
    *,
    at_rest: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Let the behaviour policy act, and return two states (S,) that it passes, as start and goal.

    Args:
        task: the task.
        world: its world.
        rng: source of the start and of the policy's noise.
        steps: environment steps between start and goal.
        lead_steps: environment steps before the start.
        at_rest: take away speeds and activations; otherwise both are as they were passed.
    """
    low, high = world.action_low, world.action_high
    states = world.state(*task.sample_anywhere(world.model, rng))[None]
    passed, actions = [states[0]], np.empty(0)
    noise = task.behaviour.draw(
        rng, (lead_steps + steps) // task.frame_skip + 1, len(low) + task.extra_noise_dims
    )
    for step in range(lead_steps + steps):
        if step % task.frame_skip == 0:
            unit = np.clip(task.behave(world, states, noise[step // task.frame_skip][None]), -1, 1)
            actions = (high + low) / 2 + unit * (high - low) / 2
        states = world.step(states, actions)
        passed.append(states[0])
    ends = passed[lead_steps], passed[-1]
    if not at_rest:
        return ends
    start, goal = (world.state(state[1 : 1 + world.model.nq]) for state in ends)
    return start, goal
