"""Worlds: goal-conditioned MuJoCo tasks.

`register` makes them known to Gymnasium; importing loads no MuJoCo.
"""

import gymnasium


def register() -> None:
    """Register the tasks, as `mujepa/Reacher-v0`; nothing is loaded before one is made."""
    if "mujepa/Reacher-v0" in gymnasium.registry:
        return  # Gymnasium would warn of a second time
    gymnasium.register(
        id="mujepa/Reacher-v0",
        entry_point="mujepa.envs.gym:GoalEnv",
        vector_entry_point="mujepa.envs.gym:GoalVectorEnv",
        max_episode_steps=100,
        kwargs={"task": "reacher"},
        disable_env_checker=True,
    )
