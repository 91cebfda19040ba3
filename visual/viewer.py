"""An episode in MuJoCo's own viewer, as it happens."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from mujepa.envs.world import STATE
from mujepa.runtime.errors import UserError

if TYPE_CHECKING:
    from mujepa.agent.mpc import Agent
    from mujepa.envs.world import Episode, World


def check_display() -> None:
    """Complain if there is nowhere to open a window.

    Raises:
        UserError: there is no display.
    """
    windowed = sys.platform in ("darwin", "win32")
    if not windowed and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError("--viewer needs a display, and there is none; write a video with --out")


def show_live(agent: Agent, world: World, episode: Episode, seed: int) -> float:
    """Run the agent through an episode in a window, at the speed of the world.

    Returns:
        The distance to the goal when the episode was over or the window was closed.
    """
    import mujoco.viewer

    variant = world.variant(episode.draw)
    variants = [variant] if variant else None
    model = variant.model if variant else world.model
    data, state = mujoco.MjData(model), episode.start[None]
    wanted = world.achieved(episode.goal[None])[0]
    goal = world.observe_goals(episode.goal[None], agent.observes, variants)[0]
    acting = agent.reset(goal, seed)
    others = set(threading.enumerate())
    with mujoco.viewer.launch_passive(model, data) as viewer:
        for _ in range(world.task.budget_steps):
            began = time.monotonic()
            with viewer.lock():
                mujoco.mj_setState(model, data, state[0], STATE)
                mujoco.mj_forward(model, data)
            viewer.sync()
            if not viewer.is_running():
                break
            seen = world.observe(state, agent.observes, variants)[0]
            acting, action = agent.act(acting, seen)
            state = world.step(state, action[None], variants)
            time.sleep(max(0.0, world.step_seconds - (time.monotonic() - began)))
    for thread in set(threading.enumerate()) - others:
        thread.join()  # the window's; it must not outlive what it draws
    return float(world.task.distance(world.achieved(state)[0], wanted))
