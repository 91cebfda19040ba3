"""Worlds: goal-conditioned MuJoCo tasks.

`register` makes them known to Gymnasium; importing loads no MuJoCo.
"""

import gymnasium

from mujepa.envs.registry import TASKS


def register() -> None:
    """Register the tasks, as `mujepa/Reacher-v0`; nothing is loaded before one is made."""
    for task in TASKS.values():
        if gym_id(task.name) not in gymnasium.registry:  # Gymnasium would warn of a second time
            gymnasium.register(
                id=gym_id(task.name),
                entry_point="mujepa.envs.gym:GoalEnv",
                vector_entry_point="mujepa.envs.gym:GoalVectorEnv",
                max_episode_steps=task.budget_steps,
                kwargs={"task": task.name},
                disable_env_checker=True,
            )


def gym_id(name: str) -> str:
    """Return the name under which Gymnasium knows a task: two_room -> mujepa/TwoRoom-v0."""
    return f"mujepa/{name.title().replace('_', '')}-v0"
