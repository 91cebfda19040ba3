"""Worlds: functions of states, bit for bit, and the images of states."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal, assert_equal

from mujepa.envs.registry import TASKS
from mujepa.envs.rendering import Renderer
from mujepa.envs.world import STATE, World
from mujepa.runtime.errors import UserError

every_task = pytest.mark.parametrize("name", TASKS)
some_tasks = pytest.mark.parametrize("name", ["reacher", "cup", "cube"])


def random_actions(world: World, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    unit = np.random.default_rng(seed).uniform(-1, 1, (*shape, len(world.action_low)))
    return world.from_unit(unit).astype(np.float32)


def starts(world: World, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([world.sample_episode(rng).start for _ in range(count)])


def goals(world: World, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([world.state(world.task.sample_goal(world.model, rng)) for _ in range(count)])


# --------------------------------------------------------------------------------- dynamics


def reference_rollout(world: World, state: np.ndarray, actions: np.ndarray, hold: int):
    """Step one simulation in plain Python; return its states and sensor readings."""
    data = mujoco.MjData(world.model)
    mujoco.mj_setState(world.model, data, state, STATE)
    states, sensors = [], []
    for action in actions:
        data.ctrl[:] = action
        for _ in range(hold * world.task.substeps):
            mujoco.mj_step(world.model, data)
        after = np.empty(world.state_size)
        mujoco.mj_getState(world.model, data, after, STATE)
        states.append(after)
        sensors.append(np.concatenate([data.sensor(n).data for n in world.task.goal_sensors]))
    return np.stack(states), np.stack(sensors)


@every_task
@pytest.mark.parametrize(("threads", "hold"), [(0, 1), (3, 4)])
def test_a_rollout_equals_a_plain_loop_over_mj_step(name, threads, hold):
    world = World(TASKS[name], threads=threads)
    first = starts(world, 4)
    actions = 1.5 * random_actions(world, (4, 8))  # some beyond the actuators' limits
    copies = first.copy(), actions.copy()
    states, achieved = world.rollout(first, actions, hold)
    for index in range(4):
        expected = reference_rollout(world, first[index], actions[index], hold)
        assert_equal((states[index], achieved[index]), expected)
    assert_equal((first, actions), copies)  # the inputs stay as they were


@some_tasks
def test_a_rollout_equals_its_single_steps(name):
    world = World(TASKS[name], threads=2)
    states, actions = starts(world, 3), random_actions(world, (3, 8))
    at_once, _ = world.rollout(states, actions)
    for step in range(8):
        states = world.step(states, actions[:, step])
        assert_array_equal(states, at_once[:, step])


@every_task
def test_a_world_remembers_nothing_between_calls(name):
    used, fresh = World(TASKS[name], threads=1), World(TASKS[name], threads=1)
    start, other = starts(used, 2)[:, None]
    used.rollout(other, random_actions(used, (1, 10)))
    used.render(other)
    actions = random_actions(used, (1, 5), seed=1)
    assert_equal(used.rollout(start, actions), fresh.rollout(start, actions))
    assert_equal(used.achieved(start), fresh.achieved(start))
    assert_equal(used.render(start), fresh.render(start))
    assert_equal(used.state(start[0, 1 : 1 + used.model.nq]), start[0])


@every_task
def test_units_of_the_bounds_convert_back_and_forth(name):
    world = World(TASKS[name])
    size = len(world.action_low)
    assert_allclose(world.from_unit(-np.ones(size)), world.action_low)
    assert_allclose(world.from_unit(np.ones(size)), world.action_high)
    actions = random_actions(world, (5, 3))
    assert_allclose(world.from_unit(world.to_unit(actions)), actions, atol=1e-6)


@every_task
def test_joints_that_turn_freely_are_compared_on_the_circle(name):
    world = World(TASKS[name])
    one, other = starts(world, 2)
    hinge = world.model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE
    turned = other.copy()
    turned[1 + world.model.jnt_qposadr[hinge & (world.model.jnt_limited == 0)]] += 6 * np.pi
    assert world.joint_distance(one, one) == 0
    assert world.joint_distance(one, other) == world.joint_distance(other, one) > 0
    assert_allclose(world.joint_distance(one, turned), world.joint_distance(one, other), atol=1e-9)
    assert_allclose(world.proprioception(turned), world.proprioception(other), atol=1e-9)


def test_a_task_whose_every_start_is_solved_is_reported():
    world = World(replace(TASKS["reacher"], tolerance=10.0))
    with pytest.raises(UserError, match=r"'reacher'.*already solved; lower the tolerance"):
        world.sample_episode(np.random.default_rng(0))


# ----------------------------------------------------------------------------------- images


@every_task
def test_pictures_have_the_size_asked_for_and_different_states_look_different(name):
    for size in (32, 64, 96):
        images = World(TASKS[name], size).render(starts(World(TASKS[name]), 12))
        assert images.shape == (12, size, size, 3)
        assert images.dtype == np.uint8
        assert images.std() > 10
    assert len({image.tobytes() for image in images}) == 12


@every_task
def test_a_small_turn_of_any_joint_is_seen(name):
    world = World(TASKS[name])
    states = np.repeat(starts(world, 1), 1 + world.model.nq, axis=0)
    states[1:, 1 : 1 + world.model.nq] += 0.1 * np.eye(world.model.nq)
    images = world.render(states).astype(int)
    assert (np.abs(images[1:] - images[0]).max(axis=(1, 2, 3)) > 20).all()


@some_tasks
def test_a_picture_does_not_depend_on_what_was_drawn_before(name):
    """Worlds of other sizes and pictures for people share the process's one OpenGL context."""
    small, large = World(TASKS[name], 32), World(TASKS[name], 128)
    state = starts(small, 1)[0]
    expected = small.render(state[None]), large.render(state[None])
    pretty = small.render_pretty(state)
    for _ in range(2):
        marked = large.render_pretty(state, state)
        assert (marked != pretty).any()  # the goal is drawn for people, but never for the agent
        assert_equal(small.render(state[None]), expected[0])
        assert_equal(large.render(state[None]), expected[1])
        assert_equal(small.render_pretty(state), pretty)
    assert_equal(World(TASKS[name], 32).render(state[None]), expected[0])


def test_someone_elses_opengl_context_is_no_hindrance():
    code = """
import mujoco, numpy as np
from mujepa.envs.registry import TASKS
from mujepa.envs.world import World
task = TASKS["reacher"]
theirs = mujoco.Renderer(task.compile(), 64, 64)
worlds = [World(task) for _ in range(3)]
state = worlds[0].state(worlds[0].model.qpos0)[None]
expected = worlds[0].render(state)
theirs.update_scene(mujoco.MjData(worlds[0].model))
theirs.render()
np.testing.assert_array_equal(worlds[1].render(state), expected)
theirs.close()
np.testing.assert_array_equal(worlds[2].render(state), expected)
assert expected.std() > 10
"""
    kept = {key: value for key, value in os.environ.items() if key != "LP_NUM_THREADS"}
    environment = {"MUJOCO_GL": "egl"} | kept
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


def test_a_slack_string_is_drawn_alike_whatever_was_drawn_before():
    """MuJoCo draws it with the quality that stands in the model, which pictures for people set."""
    world, other = World(TASKS["cup"]), World(TASKS["cup"])
    slack = world.state(np.array([0.0, 0.0, 0.1, 0.05]))
    before, pretty = world.render(slack[None]), world.render_pretty(slack)
    assert_array_equal(world.render(slack[None]), before)
    assert_array_equal(other.render_pretty(slack), pretty)
    assert_array_equal(other.render(slack[None]), before)


def test_smooth_edges_show_less_than_a_pixel_evenly():
    """Without, most small leans of a pole look alike, and a few flip a whole column."""
    leans = np.linspace(-0.05, 0.05, 101)  # the tip moves a fortieth of a pixel at a time

    def largest_change(antialias: bool) -> float:
        world = World(replace(TASKS["cartpole"], antialias=antialias))
        states = np.stack([world.state(np.array([0.0, lean])) for lean in leans])
        change = np.square(np.diff(world.render(states).astype(float), axis=0)).sum(axis=(1, 2, 3))
        return change.max() / np.median(change)

    assert largest_change(True) < 5
    assert largest_change(False) > 10


@pytest.mark.parametrize("size", [64, 128])
def test_a_projected_fingertip_lies_where_the_red_pixels_are(size):
    world = World(TASKS["reacher"], size)
    states = goals(world, 20)
    images = world.render(states).astype(float)
    for image, point in zip(images, world.achieved(states), strict=True):
        red = (image[..., 0] > 120) & (image[..., 0] > 1.8 * image[..., 1:].max(axis=-1))
        rows, columns = np.nonzero(red)
        assert len(rows) > 3
        seen = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        assert_allclose(world.project(point) * size, seen, atol=2 * size / 64)


@every_task
def test_points_are_projected_alike_whatever_was_done_before(name):
    fresh, used = World(TASKS[name]), World(TASKS[name])
    points = used.achieved(np.concatenate([starts(used, 1), goals(used, 1)]))[:, :3]
    used.render(starts(used, 1))
    expected = used.project(points)
    assert ((expected > 0) & (expected < 1)).all()
    assert_equal(fresh.project(points), expected)
    used.state(np.zeros(used.model.nq))
    assert_equal(used.project(points), expected)
    assert_allclose(used.project(points[0]), expected[0], atol=1e-15)


# --------------------------------------------------------------------------------- bad input


def test_an_unknown_camera_is_reported_with_those_that_there_are():
    world = World(TASKS["reacher"])
    with pytest.raises(UserError, match=r"no camera 'moon'.*observation, pretty"):
        Renderer(world.model, "moon", 64)
    with pytest.raises(UserError, match="moon"):
        World(replace(TASKS["reacher"], observation_camera="moon")).render(starts(world, 1))


@pytest.mark.parametrize(
    "text", [None, "<mujoco><worldbody><geom size=", "<mujoco><wordlbody/></mujoco>"]
)
def test_a_missing_or_invalid_model_is_reported_in_one_line_with_its_path(tmp_path, text):
    path = tmp_path / "broken.xml"
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.xml is not a valid MuJoCo model: .+") as caught:
        World(replace(TASKS["reacher"], mjcf=path))
    assert "\n" not in str(caught.value)
