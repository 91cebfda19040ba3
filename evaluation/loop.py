"""THE evaluation loop: every success rate in this project comes from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mujepa.envs.gym import GoalVectorEnv
from mujepa.evaluation.statistics import success_rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mujepa.envs.task import Task
    from mujepa.evaluation.manifest import Manifest
    from mujepa.evaluation.policies import Policy

EPISODES_AT_ONCE = 50
"""Episodes that run together. All are run in parts of this size, whoever runs them: another size of
a batch may round otherwise, and what one machine finds is to be what many find."""


@dataclass(frozen=True)
class Outcome:
    """What happened in E episodes of T environment steps.

    Attributes:
        distance: to the goal after each step, (E, T).
        states: simulator states, from the start on, (E, T + 1, S).
        actions: taken at each step, (E, T, A).
        tolerance: distance at which the goal counts as reached.
        hold_steps: last steps through which it must be held.
    """

    distance: NDArray[np.float64]
    states: NDArray[np.float64]
    actions: NDArray[np.float32]
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

    def summary(self) -> dict[str, Any]:
        """Return the figures of the outcome, as result.json has them."""
        return {
            "episodes": len(self.distance),
            "success_at_end": asdict(success_rate(int(self.held.sum()), len(self.held))),
            "success_any": asdict(success_rate(int(self.reached.sum()), len(self.reached))),
            "median_final_distance": float(np.median(self.distance[:, -1])),
        }


def run_episodes(
    task: Task,
    image_size: int,
    policy: Policy[Any],
    manifest: Manifest,
    on_step: Callable[[], object] = lambda: None,
) -> Outcome:
    """Run a policy through the episodes of a manifest.

    The budget is the task's; nothing is reset before it is over, and success does not end an
    episode. Images are drawn at every `frame_skip`-th step, when policies look.

    Args:
        task: the task.
        image_size: width and height of the images.
        policy: who acts.
        manifest: starts, goals and seeds; all randomness of an episode comes from its own seed.
        on_step: called after each environment step of each part of up to 50 episodes.
    """
    return join([run_part(task, image_size, policy, part, on_step) for part in split(manifest)])


def split(manifest: Manifest) -> list[Manifest]:
    """Return the parts in which episodes are run."""
    return [
        replace(manifest, episodes=manifest.episodes[part], seeds=manifest.seeds[part])
        for first in range(0, len(manifest.episodes), EPISODES_AT_ONCE)
        for part in (slice(first, first + EPISODES_AT_ONCE),)
    ]


def run_part(
    task: Task,
    image_size: int,
    policy: Policy[Any],
    manifest: Manifest,
    on_step: Callable[[], object] = lambda: None,
) -> Outcome:
    """Run a policy through the episodes of one part, all of them together, on one thread of torch.

    Another number of threads rounds otherwise: what is found must not depend on how many cores a
    machine has.
    """
    with one_thread():
        return _run_part(task, image_size, policy, manifest, on_step)


def _run_part(
    task: Task,
    image_size: int,
    policy: Policy[Any],
    manifest: Manifest,
    on_step: Callable[[], object],
) -> Outcome:
    env = GoalVectorEnv(
        len(manifest.episodes), task, image_size, pixels_every=task.frame_skip, autoreset=False
    )
    observation, info = env.reset(options={"episodes": manifest.episodes})
    state = policy.reset(observation, info, manifest.seeds)
    states, actions, distances = [env.get_state()], [], []
    for _ in range(task.budget_steps):
        state, action = policy.act(state, observation | {"state": states[-1]})
        observation, _, _, _, info = env.step(action)
        states.append(env.get_state())
        actions.append(action)
        distances.append(info["distance"])
        on_step()
    return Outcome(
        np.stack(distances, axis=1),
        np.stack(states, axis=1),
        np.stack(actions, axis=1),
        task.tolerance,
        task.hold_steps,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute on one thread of the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def join(parts: Sequence[Outcome]) -> Outcome:
    """Return the outcome of all parts, in their order."""
    return replace(
        parts[0],
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("distance", "states", "actions")
        },
    )
