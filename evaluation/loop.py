"""The evaluation loop: every success rate in this project comes from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mujepa.envs.gym import GoalVectorEnv
from mujepa.envs.world import World
from mujepa.evaluation.manifest import Manifest
from mujepa.evaluation.policies import Policy
from mujepa.evaluation.statistics import Summary, rate_of

State = TypeVar("State")
OnStep = Callable[[], object]
"""Called after each environment step of each batch, for progress bars."""
BATCH = 50
"""Episodes that run together; another size may round differently, and results must not depend on
the number of workers."""


@dataclass(frozen=True)
class Step(Generic[State]):
    """One environment step of B episodes; states and distances are those after it."""

    policy_state: State
    actions: NDArray[np.float32]  # (B, A)
    states: NDArray[np.float64]  # (B, S)
    distance: NDArray[np.float64]  # to the goals, (B,)


@dataclass(frozen=True)
class Outcome:
    """What happened in E episodes of T environment steps."""

    distance: NDArray[np.float64]  # to the goal after each step, (E, T)
    states: NDArray[np.float64]  # from the start on, (E, T + 1, S)
    actions: NDArray[np.float32]  # (E, T, A)
    tolerance: float
    hold_steps: int

    @property
    def held(self) -> NDArray[np.bool_]:
        """Success at the end, (E,): within the tolerance in all of the last `hold_steps` steps."""
        return np.all(self.distance[:, -self.hold_steps :] <= self.tolerance, axis=1)

    @property
    def reached(self) -> NDArray[np.bool_]:
        """Success at any time, (E,): within the tolerance after at least one step."""
        return np.any(self.distance <= self.tolerance, axis=1)

    def summary(self) -> Summary:
        """Return success rates and the median of the final distance."""
        return Summary(
            len(self.distance),
            rate_of(self.held),
            rate_of(self.reached),
            float(np.median(self.distance[:, -1])),
        )


def step_episodes(
    world: World, policy: Policy[State], manifest: Manifest, steps: int | None = None
) -> Iterator[Step[State]]:
    """Run all episodes of a manifest together and yield after each environment step.

    All randomness of an episode comes from its own seed. Success does not end an episode. Images
    are rendered at every `frame_skip`-th step, when policies read them. `steps` is the number of
    environment steps, by default the task's budget.
    """
    count, task, size = len(manifest.episodes), world.task, world.image_size
    env = GoalVectorEnv(count, task, size, pixels_every=task.frame_skip, autoreset=False)
    observation, info = env.reset(options={"episodes": manifest.episodes})
    state, states = policy.reset(observation, info, manifest.seeds), env.get_state()
    for _ in range(task.budget_steps if steps is None else steps):
        state, actions = policy.act(state, observation | {"state": states})
        observation, _, _, _, info = env.step(actions)
        states = env.get_state()
        yield Step(state, actions, states, info["distance"])


def run_episodes(
    world: World, policy: Policy[Any], manifest: Manifest, on_step: OnStep = lambda: None
) -> Outcome:
    """Run a policy through the episodes of a manifest, in batches of 50."""
    return join([run_batch(world, policy, part, on_step) for part in split(manifest)])


def run_batch(world: World, policy: Policy[Any], manifest: Manifest, on_step: OnStep) -> Outcome:
    """Run a policy through the episodes of one batch, on one thread of torch.

    Another number of threads rounds differently, and results must not depend on the machine.
    """
    taken = []
    with one_thread():
        for step in step_episodes(world, policy, manifest):
            taken.append(step)
            on_step()
    starts = np.stack([episode.start for episode in manifest.episodes])
    return Outcome(
        np.stack([step.distance for step in taken], axis=1),
        np.stack([starts, *(step.states for step in taken)], axis=1),
        np.stack([step.actions for step in taken], axis=1),
        world.task.tolerance,
        world.task.hold_steps,
    )


def split(manifest: Manifest) -> list[Manifest]:
    """Return the batches in which episodes are run."""
    firsts = range(0, len(manifest.episodes), BATCH)
    return [manifest.part(slice(first, first + BATCH)) for first in firsts]


def join(parts: Sequence[Outcome]) -> Outcome:
    """Return the outcome of all batches, in their order."""
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("distance", "states", "actions")
    }
    return replace(parts[0], **arrays)


@contextmanager
def one_thread() -> Iterator[None]:
    """Restrict torch to one CPU thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
