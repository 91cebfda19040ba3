"""An episode in MuJoCo's own viewer, in real time."""

from __future__ import annotations

import os
import sys
import threading
import time
from itertools import chain

from mujepa.agent.mpc import Agent
from mujepa.envs.world import STATE, Episode, World
from mujepa.evaluation.loop import step_episodes
from mujepa.evaluation.manifest import Manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.runtime.errors import UserError


def check_display() -> None:
    """Raise `UserError` if no window can be opened."""
    windowed = sys.platform in ("darwin", "win32")
    if not windowed and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError(
            "--show viewer needs a display, and there is none; write a video with --out"
        )


def show_live(agent: Agent, world: World, episode: Episode, seed: int) -> float:
    """Run the agent through an episode in a window; return the distance to the goal at the end."""
    import mujoco.viewer

    variant = world.variant(episode.draw)
    model = variant.model if variant else world.model
    data, state, due = mujoco.MjData(model), episode.start, time.monotonic()
    manifest = Manifest([episode], [seed])
    steps = step_episodes(world, AgentPolicy(agent), manifest)
    others = set(threading.enumerate())
    with mujoco.viewer.launch_passive(model, data) as viewer:
        for state in chain([episode.start], (step.states[0] for step in steps)):
            time.sleep(max(0.0, due - time.monotonic()))
            due = time.monotonic() + world.step_seconds
            with viewer.lock():
                mujoco.mj_setState(model, data, state, STATE)
                mujoco.mj_forward(model, data)
            viewer.sync()
            if not viewer.is_running():
                break
    for thread in set(threading.enumerate()) - others:
        thread.join()  # the window's thread uses the model and data
    goal = world.achieved(episode.goal[None])[0]
    return float(world.task.distance(world.achieved(state[None])[0], goal))
