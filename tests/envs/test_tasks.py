"""Worlds: what Gymnasium asks, bit-for-bit repetition, starts, goals and pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mujepa.envs import gym_id
from mujepa.envs.gym import GoalEnv, GoalVectorEnv
from mujepa.envs.registry import TASKS, find_task
from mujepa.envs.rendering import Renderer
from mujepa.envs.task import Task
from mujepa.envs.world import STATE, Episode, World
from mujepa.rollouts.collection import behave
from mujepa.runtime.errors import UserError

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "LP_NUM_THREADS"}
every_task = pytest.mark.parametrize("name", TASKS)
two_links = pytest.mark.parametrize("name", ["acrobot", "double_pendulum"])
FIXED = ("pendulum", "cartpole", "acrobot", "double_pendulum", "cup")  # swing-ups: one goal
# Actions that are not aimed leave the cube lying: its turn is a constant.
moved_by_chance = pytest.mark.parametrize("name", [n for n in TASKS if n != "cube"])


def random_actions(world: World, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    unit = np.random.default_rng(seed).uniform(-1, 1, (*shape, len(world.action_low)))
    return world.from_unit(unit).astype(np.float32)


def assert_equal(one, other) -> None:
    """The same keys, and the same values bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        np.testing.assert_array_equal(one, other, strict=isinstance(one, np.ndarray))


def trajectory(env: GoalEnv, seed: int, steps: int = 12) -> list:
    env.action_space.seed(seed)
    seen: list = [env.reset(seed=seed)]
    return seen + [env.step(env.action_space.sample()) for _ in range(steps)]


# ------------------------------------------------------------------------------- Gymnasium


@every_task
@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is -?infinity")
def test_gymnasiums_own_checker_finds_no_fault(name):
    env = gymnasium.make(gym_id(name), render_mode="rgb_array")
    check_env(env.unwrapped)


@every_task
def test_an_episode_is_truncated_after_the_budget_and_never_terminated(name):
    env = gymnasium.make(gym_id(name))
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(TASKS[name].budget_steps)]
    assert ends == [(False, False)] * (TASKS[name].budget_steps - 1) + [(False, True)]


@every_task
def test_observations_and_actions_lie_in_the_declared_spaces(name):
    env, envs = GoalEnv(name), GoalVectorEnv(2, name)
    assert env.reset(seed=0)[0] in env.observation_space
    assert env.step(env.action_space.sample())[0] in env.observation_space
    assert envs.reset(seed=0)[0] in envs.observation_space
    assert envs.step(envs.action_space.sample())[0] in envs.observation_space
    np.testing.assert_array_equal(env.action_space.low, env.world.action_low)
    np.testing.assert_array_equal(env.action_space.high, env.world.action_high)


@every_task
def test_the_numbers_of_a_goal_have_names_of_their_own(name):
    world = World(TASKS[name])
    assert len(set(world.quantities)) == len(world.quantities) == world.goal_size


@every_task
def test_make_vec_restarts_truncated_environments_at_the_next_step_with_a_new_goal(name):
    envs = gymnasium.make_vec(gym_id(name), num_envs=3)
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    envs.action_space.seed(0)
    first, info = envs.reset(seed=0)
    old_goal = info["goal_pixels"]
    for step in range(1, TASKS[name].budget_steps + 1):
        last, _, terminated, truncated, info = envs.step(envs.action_space.sample())
        assert not terminated.any()
        assert (truncated == (step == TASKS[name].budget_steps)).all()
        assert "goal_pixels" not in info
    np.testing.assert_array_equal(last["desired_goal"], first["desired_goal"])

    start, rewards, terminated, truncated, info = envs.step(envs.action_space.sample())
    assert not terminated.any()
    assert not truncated.any()
    np.testing.assert_array_equal(rewards, 0)
    assert info["_goal_pixels"].all()
    new_goal = info["goal_pixels"]
    changed = [(new != old).any() for new, old in zip(new_goal, old_goal, strict=True)]
    moved = (start["desired_goal"] != last["desired_goal"]).any(axis=1)
    assert changed == [name not in FIXED] * 3
    assert moved.tolist() == changed
    np.testing.assert_array_equal(envs.unwrapped.get_state()[:, 0], 0)  # the clock

    _, _, _, truncated, info = envs.step(envs.action_space.sample())
    assert not truncated.any()
    assert "goal_pixels" not in info


@every_task
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasiums_own_vector_environments_give_the_same(name, mode):
    """Also where worker processes are forked from one that has drawn already."""
    code = f"""
import gymnasium, mujepa, numpy as np
ours = gymnasium.make_vec({gym_id(name)!r}, num_envs=2)
first = ours.reset(seed=3)
theirs = gymnasium.make_vec({gym_id(name)!r}, num_envs=2, vectorization_mode={mode!r})
pairs = [(first, theirs.reset(seed=3))]
pairs += [(ours.step(action), theirs.step(action)) for action in [ours.action_space.sample()] * 3]
for mine, other in pairs:
    np.testing.assert_equal(other[0], mine[0])
    np.testing.assert_equal(other[1:-1], mine[1:-1] if len(mine) > 2 else ())
np.testing.assert_array_equal(pairs[0][1][1]["goal_pixels"], first[1]["goal_pixels"])
theirs.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=ENVIRONMENT)


@every_task
def test_without_autoreset_stepping_past_the_end_is_refused(name):
    envs = GoalVectorEnv(2, name, max_episode_steps=1, autoreset=False)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    with pytest.raises(ValueError, match="2 episodes are over; call reset"):
        envs.step(envs.action_space.sample())
    envs.reset()
    envs.step(envs.action_space.sample())


@every_task
def test_a_vector_reset_wants_one_seed_and_one_episode_for_each_environment(name):
    envs = GoalVectorEnv(3, name)
    episode = envs.world.sample_episode(np.random.default_rng(0))
    with pytest.raises(ValueError, match="2 seeds"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="1 episodes for 3 environments"):
        envs.reset(options={"episodes": [episode]})


@every_task
def test_a_given_episode_is_played(name):
    env, envs = GoalEnv(name), GoalVectorEnv(2, name)
    rng = np.random.default_rng(0)
    one, two = env.world.sample_episode(rng), env.world.sample_episode(rng)
    observation, info = env.reset(options={"episode": one})
    both, infos = envs.reset(options={"episodes": [two, one]})
    np.testing.assert_array_equal(env.get_state(), one.start)
    np.testing.assert_array_equal(envs.get_state(), [two.start, one.start])
    goal = env.world.achieved(one.goal[None])[0]
    np.testing.assert_array_equal(observation["desired_goal"], goal)
    np.testing.assert_array_equal(both["desired_goal"][1], goal)
    np.testing.assert_array_equal(infos["goal_pixels"][1], info["goal_pixels"])
    np.testing.assert_array_equal(info["goal_pixels"], env.world.render(one.goal[None])[0])


@pytest.mark.parametrize("bad", [np.zeros(1), np.zeros(3), np.zeros((1, 2)), 0.0])
def test_an_action_of_the_wrong_shape_is_refused_by_name(bad):
    env, envs = GoalEnv("reacher"), GoalVectorEnv(3, "reacher")
    env.reset(seed=0)
    envs.reset(seed=0)
    for one, shape in ((env, "(2,)"), (envs, "(3, 2)")):
        with pytest.raises(ValueError, match="shape") as caught:
            one.step(bad)
        assert str(np.shape(bad)) in str(caught.value)
        assert shape in str(caught.value)


@every_task
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_is_refused_and_changes_nothing(name, bad):
    env, envs = GoalEnv(name), GoalVectorEnv(2, name)
    for one in (env, envs):
        one.reset(seed=0)
        before = one.get_state()
        action = np.zeros(one.action_space.shape)
        action.flat[-1] = bad
        with pytest.raises(ValueError, match=f"{bad}.*not finite"):
            one.step(action)
        np.testing.assert_array_equal(one.get_state(), before)


def test_another_render_mode_is_refused_by_name():
    with pytest.raises(ValueError, match="'human'"):
        GoalEnv("reacher", render_mode="human")


@every_task
def test_a_picture_for_people_is_drawn_only_where_it_is_asked_for(name):
    env = GoalEnv(name, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (480, 480, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 5
    silent = GoalEnv(name)
    silent.reset(seed=0)
    assert silent.render() is None


# ------------------------------------------------------------------------ bit for bit


@every_task
def test_the_same_seed_gives_the_same_trajectory_bit_for_bit(name):
    env = GoalEnv(name)
    assert_equal(trajectory(env, 7), trajectory(env, 7))
    assert_equal(trajectory(env, 7), trajectory(GoalEnv(name), 7))


@every_task
def test_resets_vary(name):
    env = GoalEnv(name)
    resets = [env.reset(seed=0), env.reset(), env.reset(seed=1), env.reset()]
    goal = () if name in FIXED else ("desired_goal",)
    for key in ("pixels", "observation", "achieved_goal", *goal):
        assert len({observation[key].tobytes() for observation, _ in resets}) == 4
    goals = 1 if name in FIXED else 4
    assert len({info["goal_pixels"].tobytes() for _, info in resets}) == goals
    observation, info = GoalVectorEnv(4, name).reset(seed=0)
    assert len({pixels.tobytes() for pixels in observation["pixels"]}) == 4
    assert len({pixels.tobytes() for pixels in info["goal_pixels"]}) == goals


@every_task
def test_resets_without_a_seed_differ_from_one_environment_to_the_next(name):
    one, other = GoalEnv(name).reset()[0], GoalEnv(name).reset()[0]
    assert (one["observation"] != other["observation"]).any()


@every_task
@pytest.mark.parametrize("build", [GoalEnv, lambda name: GoalVectorEnv(2, name)])
def test_what_was_returned_stays_as_it_was(name, build):
    """No array is shared between observations, nor with the environment."""
    env = build(name)
    kept = [env.reset(seed=0)]
    kept += [env.step(env.action_space.sample()) for _ in range(3)]
    copies = [{key: value.copy() for key, value in step[0].items()} for step in kept]
    for observation, *_ in kept:
        for other, *_ in kept:
            shared = observation is not other and any(
                np.shares_memory(observation[key], other[key]) for key in observation
            )
            assert not shared
    for observation, *_ in kept:
        for value in observation.values():
            value[...] = 0
    env.get_state()[...] = 0
    again = build(name)
    again.reset(seed=0)
    env.reset(seed=0)
    assert_equal(env.get_state(), again.get_state())
    assert_equal(env.reset(seed=0)[0], copies[0])


@every_task
def test_a_returned_observation_can_be_overwritten_without_changing_the_episode(name):
    for build in (GoalEnv, lambda name: GoalVectorEnv(2, name)):
        touched, untouched = build(name), build(name)
        for env in (touched, untouched):
            observation, info = env.reset(seed=0)
            if env is touched:
                for value in (*observation.values(), info["goal_pixels"]):
                    value[...] = 0
        action = touched.action_space.sample()
        assert_equal(touched.step(action)[:4], untouched.step(action)[:4])


@moved_by_chance
def test_nothing_that_is_observed_is_constant(name):
    """Every number of the observation varies, but for coordinates in which the task is flat."""
    env = GoalEnv(name)
    observations = []
    for seed in range(4):
        observations += [step[0] for step in trajectory(env, seed, steps=5)]
    for key in ("observation", "achieved_goal", "desired_goal"):
        spread = np.ptp([observation[key] for observation in observations], axis=0)
        flat = np.ptp(env.world.achieved(_goals(env.world, 50)), axis=0) == 0
        varies = ~flat if key != "observation" else np.ones_like(spread, bool)
        assert (spread[varies] > 0).all(), f"{key} is constant at {np.flatnonzero(spread == 0)}"
    for before, after in pairwise(observations):
        assert (before["observation"] != after["observation"]).any()


@every_task
def test_a_restored_state_continues_bit_for_bit(name):
    env, other = GoalEnv(name), GoalEnv(name)
    trajectory(env, 3)
    state = env.get_state()
    actions = random_actions(env.world, (8,))
    continued = [env.step(action) for action in actions]
    assert_equal(env.set_state(state), _seen(env))
    assert_equal([env.step(action) for action in actions], continued)

    other.reset(seed=3)  # another instance, with the same goal
    other.set_state(state)
    assert_equal([other.step(action) for action in actions], continued)


@every_task
def test_a_restored_vector_state_continues_bit_for_bit(name):
    envs = GoalVectorEnv(3, name)
    envs.reset(seed=3)
    actions = random_actions(envs.world, (10, 3))
    for action in actions[:4]:
        envs.step(action)
    state = envs.get_state()
    continued = [envs.step(action) for action in actions[4:]]
    envs.set_state(state)
    assert_equal([envs.step(action) for action in actions[4:]], continued)


@every_task
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_vector_environment_equals_single_ones_with_consecutive_seeds(name, threads):
    envs = GoalVectorEnv(3, name, threads=threads)
    singles = [GoalEnv(name) for _ in range(3)]
    observation, info = envs.reset(seed=11)
    alone = [env.reset(seed=11 + index) for index, env in enumerate(singles)]
    _assert_stacked(observation, [one for one, _ in alone])
    assert_equal(info["goal_pixels"], np.stack([one["goal_pixels"] for _, one in alone]))
    for action in random_actions(envs.world, (10, 3)):
        observation, rewards, _, _, info = envs.step(action)
        steps = [env.step(one) for env, one in zip(singles, action, strict=True)]
        _assert_stacked(observation, [step[0] for step in steps])
        assert_equal(rewards, np.array([step[1] for step in steps]))
        assert_equal(info["distance"], np.array([step[4]["distance"] for step in steps]))
        assert_equal(info["is_success"], np.array([step[4]["is_success"] for step in steps]))


@every_task
def test_an_environment_that_restarts_equals_a_single_one_that_is_reset(name):
    """The random stream goes on over the end of an episode, as that of a single one does."""
    envs = GoalVectorEnv(2, name, max_episode_steps=3)
    singles = [GoalEnv(name) for _ in range(2)]
    envs.reset(seed=5)
    for index, env in enumerate(singles):
        env.reset(seed=5 + index)
    for action in random_actions(envs.world, (4, 2)):
        observation, _, _, _, info = envs.step(action)
    alone = [env.reset() for env in singles]
    _assert_stacked(observation, [one for one, _ in alone])
    assert_equal(info["goal_pixels"], np.stack([one["goal_pixels"] for _, one in alone]))


@every_task
def test_skipped_pictures_repeat_the_last_one_and_change_nothing_else(name):
    every, fourth = GoalVectorEnv(2, name), GoalVectorEnv(2, name, pixels_every=4)
    shown = every.reset(seed=0)[0]["pixels"]
    fourth.reset(seed=0)
    for step, action in enumerate(random_actions(every.world, (9, 2)), start=1):
        full, sparse = every.step(action), fourth.step(action)
        shown = full[0]["pixels"] if step % 4 == 0 else shown
        assert_equal(sparse[0]["pixels"], shown)
        assert_equal(sparse[0]["observation"], full[0]["observation"])
        assert_equal(sparse[1:], full[1:])


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
        readings = [data.sensor(name).data for name in world.task.goal_sensors]
        sensors.append(np.concatenate(readings))
    return np.stack(states), np.stack(sensors)


@every_task
@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("hold", [1, 4])
def test_a_rollout_equals_a_plain_loop_over_mj_step(name, threads, hold):
    world = World(TASKS[name], threads=threads)
    starts = np.stack([world.sample_episode(np.random.default_rng(s)).start for s in range(6)])
    actions = 1.5 * random_actions(world, (6, 20))  # some beyond the actuators' limits
    states, achieved = world.rollout(starts, actions, hold)
    for index in range(6):
        expected = reference_rollout(world, starts[index], actions[index], hold)
        assert_equal((states[index], achieved[index]), expected)


@every_task
def test_a_rollout_equals_its_single_steps(name):
    world = World(TASKS[name], threads=2)
    states = np.stack([world.sample_episode(np.random.default_rng(s)).start for s in range(3)])
    actions = random_actions(world, (3, 15))
    at_once, _ = world.rollout(states, actions)
    for step in range(15):
        states = world.step(states, actions[:, step])
        assert_equal(states, at_once[:, step].copy())


@every_task
def test_a_rollout_leaves_its_inputs_alone(name):
    world = World(TASKS[name], threads=2)
    starts = world.sample_episode(np.random.default_rng(0)).start[None]
    actions = random_actions(world, (1, 5))
    copies = starts.copy(), actions.copy()
    world.rollout(starts, actions)
    assert_equal((starts, actions), copies)


@every_task
def test_a_world_remembers_nothing_between_calls(name):
    used, fresh = World(TASKS[name], threads=1), World(TASKS[name], threads=1)
    rng = np.random.default_rng(0)
    episode = used.sample_episode(rng)
    other = used.sample_episode(rng)
    used.rollout(other.start[None], random_actions(used, (1, 30)))
    used.render(other.goal[None])
    actions = random_actions(used, (1, 10), seed=1)
    start = episode.start[None]
    assert_equal(used.rollout(start, actions), fresh.rollout(start, actions))
    assert_equal(used.achieved(start), fresh.achieved(start))
    assert_equal(used.render(start), fresh.render(start))
    assert_equal(used.state(start[0, 1 : 1 + used.model.nq]), start[0])


@every_task
def test_units_of_the_bounds_convert_back_and_forth(name):
    world = World(TASKS[name])
    size = len(world.action_low)
    np.testing.assert_allclose(world.from_unit(-np.ones(size)), world.action_low)
    np.testing.assert_allclose(world.from_unit(np.ones(size)), world.action_high)
    actions = random_actions(world, (5, 3))
    np.testing.assert_allclose(world.from_unit(world.to_unit(actions)), actions, atol=1e-6)


@every_task
def test_joints_that_turn_freely_are_compared_on_the_circle(name):
    world = World(TASKS[name])
    rng = np.random.default_rng(0)
    one, other = (world.sample_episode(rng).start for _ in range(2))
    free = (world.model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE) & ~world.model.jnt_limited.astype(
        bool
    )
    turned = other.copy()
    turned[1 + world.model.jnt_qposadr[free]] += 6 * np.pi
    assert world.joint_distance(one, one) == 0
    assert world.joint_distance(one, other) == world.joint_distance(other, one) > 0
    np.testing.assert_allclose(
        world.joint_distance(one, turned), world.joint_distance(one, other), atol=1e-9
    )


# ---------------------------------------------------------------- reward, starts, goals


@every_task
def test_the_reward_is_that_of_compute_reward_for_one_goal_and_for_many(name):
    env = GoalEnv(name)
    steps = [step for seed in range(9) for step in trajectory(env, seed, steps=20)[1:]]
    goal = env.world.sample_episode(np.random.default_rng(0)).goal
    env.reset(options={"episode": Episode(goal, goal)})
    steps += [env.step(action) for action in random_actions(env.world, (20,))]
    achieved = np.stack([step[0]["achieved_goal"] for step in steps])
    desired = np.stack([step[0]["desired_goal"] for step in steps])
    rewards = np.array([step[1] for step in steps])
    assert set(rewards) == {-1.0, 0.0}
    assert_equal(env.compute_reward(achieved, desired, {}), rewards)
    shaped = env.compute_reward(achieved.reshape(10, 20, -1), desired.reshape(10, 20, -1), {})
    assert_equal(shaped, rewards.reshape(10, 20))
    assert env.compute_reward(achieved[0], desired[0], {}) == rewards[0]
    success = np.array([step[4]["is_success"] for step in steps])
    distance = np.array([step[4]["distance"] for step in steps])
    assert_equal(success, rewards == 0)
    assert_equal(success, distance <= TASKS[name].tolerance)
    assert not env.compute_terminated(achieved, desired, {})
    assert not env.compute_truncated(achieved, desired, {})


@every_task
def test_standing_on_the_goal_is_success(name):
    env = GoalEnv(name)
    episode = env.world.sample_episode(np.random.default_rng(0))
    env.reset(options={"episode": Episode(episode.goal, episode.goal)})
    _, reward, terminated, _, info = env.step(np.zeros(env.action_space.shape))
    assert reward == 0
    assert info["is_success"]
    assert not terminated


@every_task
def test_no_start_is_already_solved(name):
    world = World(TASKS[name])
    rng = np.random.default_rng(0)
    episodes = [world.sample_episode(rng) for _ in range(500)]
    starts = world.achieved(np.stack([episode.start for episode in episodes]))
    goals = world.achieved(np.stack([episode.goal for episode in episodes]))
    assert (world.task.distance(starts, goals) > world.task.tolerance).all()


def test_a_task_whose_every_start_is_solved_is_reported():
    world = World(replace(TASKS["reacher"], tolerance=10.0))
    with pytest.raises(UserError, match=r"'reacher'.*already solved; lower the tolerance"):
        world.sample_episode(np.random.default_rng(0))


@every_task
def test_starts_and_goals_keep_the_joints_within_their_limits_and_at_rest(name):
    world = World(TASKS[name])
    states = _goals(world, 200)
    rng = np.random.default_rng(1)
    states = np.concatenate([states, [world.sample_episode(rng).start for _ in range(200)]])
    limited = world.model.jnt_limited.astype(bool)
    joints = states[:, 1 + world.model.jnt_qposadr[limited]]
    low, high = world.model.jnt_range[limited].T
    assert (joints >= low - 1e-9).all()
    assert (joints <= high + 1e-9).all()
    np.testing.assert_array_equal(states[:, 0], 0)
    np.testing.assert_array_equal(states[:, 1 + world.model.nq :], 0)


def test_the_reachers_goals_are_uniform_over_the_area_that_it_reaches():
    world = World(TASKS["reacher"])
    points = world.achieved(_goals(world, 4000))[:, :2]
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


def test_the_reachers_goals_bend_the_elbow_to_either_side():
    world = World(TASKS["reacher"])
    elbow = _goals(world, 400)[:, 2]
    assert 0.4 < (elbow > 0).mean() < 0.6


@every_task
def test_an_unknown_task_is_reported_with_the_nearest_name(name):
    with pytest.raises(UserError, match=f"unknown task '{name[:-1]}'; did you mean {name!r}"):
        find_task(name[:-1])
    with pytest.raises(UserError, match=f"unknown task 'xyzzy'; tasks: .*{name}"):
        GoalEnv("xyzzy")


def test_a_task_that_does_not_say_how_episodes_start_cannot_be_made():
    with pytest.raises(TypeError, match="sample_start"):
        Task("bare", TASKS["reacher"].mjcf, ("fingertip",), 0.05)  # pyright: ignore


# ---------------------------------------------------------------------------- pictures


@every_task
@pytest.mark.parametrize("size", [32, 64, 128])
def test_pictures_have_the_size_asked_for_and_show_something(name, size):
    env = GoalEnv(name, image_size=size)
    observation, info = env.reset(seed=0)
    for image in (observation["pixels"], info["goal_pixels"]):
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8
        assert image.std() > 10
    assert (observation["pixels"] != info["goal_pixels"]).any()


@every_task
def test_different_states_look_different(name):
    world = World(TASKS[name])
    rng = np.random.default_rng(0)
    images = world.render(np.stack([world.sample_episode(rng).start for _ in range(30)]))
    assert len({image.tobytes() for image in images}) == 30


@every_task
def test_a_small_turn_of_any_joint_is_seen(name):
    world = World(TASKS[name])
    state = world.sample_episode(np.random.default_rng(0)).start
    before = world.render(state[None])[0].astype(int)
    for joint in range(world.model.nq):
        turned = state.copy()
        turned[1 + joint] += 0.1
        assert np.abs(world.render(turned[None])[0] - before).max() > 20


@every_task
def test_a_picture_does_not_depend_on_what_was_drawn_before(name):
    """Worlds of other sizes and pictures for people share the process's one OpenGL context."""
    small, large = World(TASKS[name], 32), World(TASKS[name], 128)
    state = small.sample_episode(np.random.default_rng(0)).start
    expected = small.render(state[None]), large.render(state[None])
    pretty = small.render_pretty(state)
    for _ in range(2):
        large.render_pretty(state, state)
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
    environment = {"MUJOCO_GL": "egl"} | ENVIRONMENT
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


@every_task
def test_the_goal_is_drawn_for_people_but_never_for_the_agent(name):
    world = World(TASKS[name])
    episode = world.sample_episode(np.random.default_rng(0))
    without, marked = world.render_pretty(episode.start), world.render_pretty(*_pair(episode))
    assert (without != marked).any()
    before = world.render(episode.start[None])
    world.render_pretty(*_pair(episode))
    assert_equal(world.render(episode.start[None]), before)


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
    states = _goals(world, 40)
    images = world.render(states).astype(float)
    for image, point in zip(images, world.achieved(states), strict=True):
        red = (image[..., 0] > 120) & (image[..., 0] > 1.8 * image[..., 1:].max(axis=-1))
        rows, columns = np.nonzero(red)
        assert len(rows) > 3
        seen = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        np.testing.assert_allclose(world.project(point) * size, seen, atol=2 * size / 64)


@every_task
def test_points_are_projected_alike_whatever_was_done_before(name):
    fresh, used = World(TASKS[name]), World(TASKS[name])
    episode = used.sample_episode(np.random.default_rng(0))
    points = used.achieved(np.stack([episode.start, episode.goal]))[:, :3]
    used.render(episode.start[None])
    expected = used.project(points)
    assert (expected > 0).all()
    assert (expected < 1).all()
    assert_equal(fresh.project(points), expected)
    used.state(np.zeros(used.model.nq))
    assert_equal(used.project(points), expected)
    np.testing.assert_allclose(used.project(points[0]), expected[0], atol=1e-15)


# ----------------------------------------------------------------------------- bad input


def test_an_unknown_camera_is_reported_with_those_that_there_are():
    world = World(TASKS["reacher"])
    with pytest.raises(UserError, match=r"no camera 'moon'.*observation, pretty"):
        Renderer(world.model, "moon", 64)
    env = GoalEnv(replace(TASKS["reacher"], observation_camera="moon"))
    with pytest.raises(UserError, match="moon"):
        env.reset()


@pytest.mark.parametrize(
    "text", ["<mujoco><worldbody><geom size=", "<mujoco><wordlbody/></mujoco>"]
)
def test_an_invalid_model_is_reported_in_one_line_with_its_path(tmp_path, text):
    path = tmp_path / "broken.xml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.xml is not a valid MuJoCo model: .+") as caught:
        World(replace(TASKS["reacher"], mjcf=path))
    assert "\n" not in str(caught.value)


def test_a_missing_model_is_reported_with_its_path(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.xml"):
        World(replace(TASKS["reacher"], mjcf=tmp_path / "nowhere.xml"))


# ------------------------------------------------------------------------------- helpers


def _goals(world: World, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([world.state(world.task.sample_goal(world.model, rng)) for _ in range(count)])


def _pair(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    return episode.start, episode.goal


def _seen(env: GoalEnv) -> dict:
    return env.set_state(env.get_state())


def _assert_stacked(observation: dict, singles: list[dict]) -> None:
    assert_equal(observation, {key: np.stack([one[key] for one in singles]) for key in observation})


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
