"""The tasks: starts, goals, distances and behaviour policies."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.task import Task
from mujepa.envs.world import World
from mujepa.rollouts.collection import behave
from mujepa.runtime.errors import UserError

every_task = pytest.mark.parametrize("name", TASKS)
two_links = pytest.mark.parametrize("name", ["acrobot", "double_pendulum"])


@every_task
def test_starts_and_goals_are_unsolved_at_rest_and_within_the_limits_of_the_joints(name):
    world, rng = World(TASKS[name]), np.random.default_rng(0)
    episodes = [world.sample_episode(rng) for _ in range(60)]
    starts, goals = (np.stack([getattr(e, end) for e in episodes]) for end in ("start", "goal"))
    distance = world.task.distance(world.achieved(starts), world.achieved(goals))
    assert (distance > world.task.tolerance).all()
    states = np.concatenate([starts, goals])
    limited = world.model.jnt_limited.astype(bool)
    joints = states[:, 1 + world.model.jnt_qposadr[limited]]
    low, high = world.model.jnt_range[limited].T
    assert ((joints > low - 0.01) & (joints < high + 0.01)).all()  # limits are a little soft
    np.testing.assert_array_equal(states[:, 0], 0)
    np.testing.assert_array_equal(states[:, 1 + world.model.nq :], 0)


@every_task
def test_the_numbers_of_a_goal_have_names_of_their_own(name):
    world = World(TASKS[name])
    assert len(set(world.quantities)) == len(world.quantities) == world.goal_size


def test_the_reachers_goals_are_uniform_over_the_area_that_it_reaches():
    world, rng = World(TASKS["reacher"]), np.random.default_rng(0)
    task = world.task
    states = np.stack([world.state(task.sample_goal(world.model, rng)) for _ in range(4000)])
    points = world.achieved(states)[:, :2]
    radius, angle = np.linalg.norm(points, axis=1), np.arctan2(points[:, 1], points[:, 0])
    reach = 0.16 + 0.14
    nearest = np.sqrt(0.16**2 + 0.14**2 + 2 * 0.16 * 0.14 * np.cos(2.7))
    assert radius.min() >= nearest - 1e-9
    assert radius.max() <= reach + 1e-9
    shares = np.linspace(0.05, 0.95, 19)
    area = (radius**2 - nearest**2) / (reach**2 - nearest**2)
    np.testing.assert_allclose(np.quantile(area, shares), shares, atol=0.03)
    turn = (angle + np.pi) / (2 * np.pi)
    np.testing.assert_allclose(np.quantile(turn, shares), shares, atol=0.03)
    assert 0.4 < (states[:, 2] > 0).mean() < 0.6  # the elbow bends to either side


@every_task
def test_an_unknown_task_is_reported_with_the_nearest_name(name):
    with pytest.raises(UserError, match=f"unknown task '{name[:-1]}'; did you mean {name!r}"):
        find_task(name[:-1])


def test_a_task_that_does_not_say_how_episodes_start_cannot_be_made():
    with pytest.raises(TypeError, match="sample_start"):
        Task("bare", TASKS["reacher"].mjcf, ("fingertip",), 0.05)  # pyright: ignore


def test_a_ball_that_dangles_in_the_middle_below_a_raised_cup_is_no_success():
    task = find_task("cup")
    world = World(task)
    goal = world.achieved(
        world.state(task.sample_goal(world.model, np.random.default_rng(0)))[None]
    )
    dangling = world.achieved(world.state(np.array([0.0, 0.25, 0.0, 0.01]))[None])
    np.testing.assert_allclose(dangling[:, :3], goal[:, :3])  # the ball is where it should be
    assert task.distance(dangling, goal)[0] == pytest.approx(0.25)


def test_cartpoles_experience_holds_poles_that_are_balanced_for_seconds():
    task = find_task("cartpole")
    world = World(task)
    rng = np.random.default_rng(0)
    starts = np.stack([world.state(*task.sample_anywhere(world.model, rng)) for _ in range(60)])
    noise = np.stack([task.behaviour.draw(rng, 60, 1 + task.extra_noise_dims) for _ in range(60)])
    states, _ = behave(world, starts, noise)
    lean = (states[..., 2] + np.pi) % (2 * np.pi) - np.pi
    upright = (np.abs(lean[:, -25:]) < 0.3).all(axis=1)  # the last 2 s
    assert upright.sum() >= 2


@two_links
def test_the_motors_are_too_weak_to_lift_two_links(name):
    """Neither stretched nor folded: what swings up has to swing."""
    world = World(TASKS[name])
    motors = [world.model.actuator(index) for index in range(world.model.nu)]
    torque = {motor.name: motor.gear[0] for motor in motors}
    data = mujoco.MjData(world.model)
    for elbow in (0.0, np.pi):
        data.qpos[:] = np.pi / 2, elbow
        mujoco.mj_forward(world.model, data)
        weight = np.abs(data.qfrc_bias)
        assert torque.get("shoulder", 0) < 0.7 * weight[0]
        assert name == "acrobot" or torque["elbow"] < 0.5 * weight[1]


@two_links
def test_a_tip_near_the_goal_on_a_bent_arm_is_no_success(name):
    task = TASKS[name]
    world = World(task)
    poses = np.stack([world.state(np.array([0.55, -0.95])), world.state(np.zeros(2))])
    bent, goal = world.achieved(poses)
    assert np.linalg.norm(bent[:3] - goal[:3]) < task.tolerance
    assert task.distance(bent, goal) == pytest.approx(np.linalg.norm(bent[3:] - goal[3:]))
    assert task.distance(bent, goal) > task.tolerance


@two_links
def test_two_links_that_are_balanced_stay_upright(name):
    task = TASKS[name]
    world = World(task)
    rng = np.random.default_rng(0)
    starts = np.stack([world.state(rng.uniform(-0.02, 0.02, 2)) for _ in range(20)])
    noise = np.ones((20, 100, len(world.action_low) + 1))  # the last one says: balance
    strength = {"acrobot": 0.05, "double_pendulum": 0.3}[name]  # pushed harder, an acrobot falls
    noise[..., :-1] = strength * rng.standard_normal(noise[..., :-1].shape)
    states, _ = behave(world, starts, noise)
    assert np.abs(states[:, :, 1:3]).max() < 0.8
    goal = world.achieved(world.state(np.zeros(2))[None])
    assert (task.distance(world.achieved(states[:, -1]), goal) < task.tolerance / 2).all()


@two_links
def test_experience_with_two_links_holds_some_that_are_balanced_for_a_second(name):
    task = TASKS[name]
    world = World(task)
    rng = np.random.default_rng(0)
    starts = np.stack([world.state(*task.sample_anywhere(world.model, rng)) for _ in range(200)])
    width = len(world.action_low) + task.extra_noise_dims
    noise = np.stack([task.behaviour.draw(rng, 60, width) for _ in range(200)])
    states, _ = behave(world, starts, noise)
    lean = (states[..., 1:3] + np.pi) % (2 * np.pi) - np.pi
    upright = (np.abs(lean[:, -17:]) < 0.3).all(axis=(1, 2))
    enough = {"acrobot": 1, "double_pendulum": 3}[name]  # an acrobot is pushed harder: most fall
    assert upright.sum() >= enough
