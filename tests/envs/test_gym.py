"""Gymnasium's interface: spaces, resets, seeds, rewards and time limits, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_array_equal, assert_equal

from mujepa.envs import gym_id
from mujepa.envs.gym import GoalEnv, GoalVectorEnv
from mujepa.envs.registry import TASKS
from mujepa.envs.world import Episode, World
from mujepa.runtime.errors import UserError

every_task = pytest.mark.parametrize("name", TASKS)
some_tasks = pytest.mark.parametrize("name", ["reacher", "cup", "cube"])
FIXED = ("pendulum", "cartpole", "acrobot", "double_pendulum", "cup")  # swing-ups: one goal
BUILDERS = (GoalEnv, lambda name: GoalVectorEnv(2, name))


def random_actions(world: World, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    unit = np.random.default_rng(seed).uniform(-1, 1, (*shape, len(world.action_low)))
    return world.from_unit(unit).astype(np.float32)


def trajectory(env: GoalEnv, seed: int, steps: int = 6) -> list:
    env.action_space.seed(seed)
    seen: list = [env.reset(seed=seed)]
    return seen + [env.step(env.action_space.sample()) for _ in range(steps)]


def assert_stacked(observation: dict, singles: list[dict]) -> None:
    assert_equal(observation, {key: np.stack([one[key] for one in singles]) for key in observation})


# --------------------------------------------------------------------------------- interface


@every_task
@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is -?infinity")
def test_gymnasiums_own_checker_finds_no_fault(name):
    env = gymnasium.make(gym_id(name), render_mode="rgb_array", image_size=32)
    check_env(env.unwrapped)
    assert env.reset()[0]["pixels"].shape == (32, 32, 3)
    assert env.spec.max_episode_steps == TASKS[name].budget_steps


@every_task
def test_observations_and_actions_lie_in_the_declared_spaces(name):
    env, envs = GoalEnv(name), GoalVectorEnv(2, name)
    for each in (env, envs):
        assert each.reset(seed=0)[0] in each.observation_space
        assert each.step(each.action_space.sample())[0] in each.observation_space
    assert_array_equal(env.action_space.low, env.world.action_low)
    assert_array_equal(env.action_space.high, env.world.action_high)


@some_tasks
def test_make_vec_restarts_truncated_environments_at_the_next_step_with_a_new_goal(name):
    envs = gymnasium.make_vec(gym_id(name), num_envs=3)
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    assert envs.unwrapped.max_episode_steps == TASKS[name].budget_steps
    budget = envs.unwrapped.max_episode_steps = 4
    first, info = envs.reset(seed=0)
    old_goal = info["goal_pixels"]
    for step in range(1, budget + 1):
        last, _, terminated, truncated, info = envs.step(envs.action_space.sample())
        assert not terminated.any()
        assert (truncated == (step == budget)).all()
        assert "goal_pixels" not in info
    assert_array_equal(last["desired_goal"], first["desired_goal"])

    start, rewards, terminated, truncated, info = envs.step(envs.action_space.sample())
    assert not terminated.any()
    assert not truncated.any()
    assert_array_equal(rewards, 0)
    assert info["_goal_pixels"].all()
    changed = (info["goal_pixels"] != old_goal).any(axis=(1, 2, 3))
    assert_array_equal(changed, name not in FIXED)
    assert_array_equal((start["desired_goal"] != last["desired_goal"]).any(axis=1), changed)
    assert_array_equal(envs.unwrapped.get_state()[:, 0], 0)  # the clock
    assert "goal_pixels" not in envs.step(envs.action_space.sample())[-1]


@pytest.mark.parametrize(("name", "mode"), [("reacher", "sync"), ("cube", "async")])
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
    environment = {key: value for key, value in os.environ.items() if key != "LP_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


def test_without_autoreset_stepping_past_the_end_is_refused():
    envs = GoalVectorEnv(2, "reacher", max_episode_steps=1, autoreset=False)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    with pytest.raises(ValueError, match="2 episodes are over; call reset"):
        envs.step(envs.action_space.sample())
    envs.reset()
    envs.step(envs.action_space.sample())


def test_a_vector_reset_wants_one_seed_and_one_episode_for_each_environment():
    envs = GoalVectorEnv(3, "reacher")
    episode = envs.world.sample_episode(np.random.default_rng(0))
    with pytest.raises(ValueError, match="2 seeds"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="1 episodes for 3 environments"):
        envs.reset(options={"episodes": [episode]})


@some_tasks
def test_a_given_episode_is_played(name):
    env, envs = GoalEnv(name), GoalVectorEnv(2, name)
    rng = np.random.default_rng(0)
    one, two = env.world.sample_episode(rng), env.world.sample_episode(rng)
    observation, info = env.reset(options={"episode": one})
    both, infos = envs.reset(options={"episodes": [two, one]})
    assert_array_equal(env.get_state(), one.start)
    assert_array_equal(envs.get_state(), [two.start, one.start])
    goal = env.world.achieved(one.goal[None])[0]
    assert_array_equal(observation["desired_goal"], goal)
    assert_array_equal(both["desired_goal"][1], goal)
    assert_array_equal(infos["goal_pixels"][1], info["goal_pixels"])
    assert_array_equal(info["goal_pixels"], env.world.render(one.goal[None])[0])


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_is_refused_and_changes_nothing(bad):
    for build in BUILDERS:
        env = build("cup")
        env.reset(seed=0)
        before, action = env.get_state(), np.zeros(env.action_space.shape)
        action.flat[-1] = bad
        with pytest.raises(ValueError, match=f"{bad}.*not finite"):
            env.step(action)
        assert_array_equal(env.get_state(), before)


def test_an_unknown_task_or_render_mode_is_refused_by_name():
    with pytest.raises(ValueError, match="'human'"):
        GoalEnv("reacher", render_mode="human")
    with pytest.raises(UserError, match="unknown task 'xyzzy'; tasks: reacher"):
        GoalEnv("xyzzy")


def test_a_picture_for_people_is_drawn_only_where_it_is_asked_for():
    for mode in ("rgb_array", None):
        env = GoalEnv("reacher", render_mode=mode)
        env.reset(seed=0)
        picture = env.render()
        assert (picture is None) == (mode is None)
    assert GoalEnv("reacher").render_mode is None


# ------------------------------------------------------------------------------ bit for bit


@every_task
def test_the_same_seed_gives_the_same_trajectory_and_resets_vary(name):
    env = GoalEnv(name)
    assert_equal(trajectory(env, 7), trajectory(env, 7))
    assert_equal(trajectory(env, 7), trajectory(GoalEnv(name), 7))
    resets = [env.reset(seed=0), env.reset(), env.reset(seed=1), env.reset()]
    goal = () if name in FIXED else ("desired_goal",)
    for key in ("pixels", "observation", "achieved_goal", *goal):
        assert len({observation[key].tobytes() for observation, _ in resets}) == 4
    goals = 1 if name in FIXED else 4
    assert len({info["goal_pixels"].tobytes() for _, info in resets}) == goals


def test_resets_without_a_seed_differ_from_one_environment_to_the_next():
    one, other = GoalEnv("reacher").reset()[0], GoalEnv("reacher").reset()[0]
    assert (one["observation"] != other["observation"]).any()


@pytest.mark.parametrize("build", BUILDERS)
def test_no_array_is_shared_between_observations_nor_with_the_environment(build):
    env, untouched = build("reacher"), build("reacher")
    kept = [env.reset(seed=0), *(env.step(np.zeros(env.action_space.shape)) for _ in range(3))]
    for (one, *_), (other, *_) in pairwise(kept):
        assert not any(np.shares_memory(one[key], other[key]) for key in one)
    untouched.reset(seed=0)
    observation, info = env.reset(seed=0)
    for value in (*observation.values(), info["goal_pixels"], env.get_state()):
        value[...] = 0
    action = env.action_space.sample()
    assert_equal(env.step(action)[:4], untouched.step(action)[:4])


@pytest.mark.parametrize("name", [n for n in TASKS if n != "cube"])  # random actions do not turn it
def test_nothing_that_is_observed_is_constant(name):
    """Every number of the observation varies, but for coordinates in which the task is flat."""
    env = GoalEnv(name, image_size=8)
    seen = [step[0] for seed in range(4) for step in trajectory(env, seed, steps=5)]
    rng, world = np.random.default_rng(0), env.world
    goals = [world.state(world.task.sample_goal(world.model, rng)) for _ in range(50)]
    flat = np.ptp(world.achieved(np.stack(goals)), axis=0) == 0
    for key in ("observation", "achieved_goal", "desired_goal"):
        spread = np.ptp([observation[key] for observation in seen], axis=0)
        varies = ~flat if key != "observation" else np.ones_like(spread, bool)
        assert (spread[varies] > 0).all(), f"{key} is constant at {np.flatnonzero(spread == 0)}"


@some_tasks
def test_a_restored_state_continues_bit_for_bit(name):
    env, other, envs = GoalEnv(name), GoalEnv(name), GoalVectorEnv(3, name)
    trajectory(env, 3)
    state, actions = env.get_state(), random_actions(env.world, (4, 3))
    continued = [env.step(action) for action in actions[:, 0]]
    assert_equal(env.set_state(state), env.set_state(env.get_state()))
    assert_equal([env.step(action) for action in actions[:, 0]], continued)
    other.reset(seed=3)  # another instance, with the same goal
    other.set_state(state)
    assert_equal([other.step(action) for action in actions[:, 0]], continued)

    envs.reset(seed=3)
    states = envs.get_state()
    continued = [envs.step(action) for action in actions]
    envs.set_state(states)
    assert_equal([envs.step(action) for action in actions], continued)


@every_task
def test_a_vector_environment_equals_single_ones_with_consecutive_seeds_and_restarts_as_they_do(
    name,
):
    envs = GoalVectorEnv(2, name, image_size=32, max_episode_steps=4, threads=TASKS[name].substeps)
    singles = [GoalEnv(name, image_size=32) for _ in range(2)]
    observation, info = envs.reset(seed=11)
    alone = [env.reset(seed=11 + index) for index, env in enumerate(singles)]
    assert_stacked(observation, [one for one, _ in alone])
    assert_equal(info["goal_pixels"], np.stack([one["goal_pixels"] for _, one in alone]))
    for action in random_actions(envs.world, (4, 2)):
        observation, rewards, _, _, info = envs.step(action)
        steps = [env.step(one) for env, one in zip(singles, action, strict=True)]
        assert_stacked(observation, [step[0] for step in steps])
        assert_equal(rewards, np.array([step[1] for step in steps]))
        for key in ("distance", "is_success"):
            assert_equal(info[key], np.array([step[4][key] for step in steps]))
    observation, _, _, _, info = envs.step(action)  # the random streams go on
    alone = [env.reset() for env in singles]
    assert_stacked(observation, [one for one, _ in alone])
    assert_equal(info["goal_pixels"], np.stack([one["goal_pixels"] for _, one in alone]))


def test_skipped_pictures_repeat_the_last_one_and_change_nothing_else():
    every, fourth = GoalVectorEnv(2, "cup"), GoalVectorEnv(2, "cup", pixels_every=4)
    shown = every.reset(seed=0)[0]["pixels"]
    fourth.reset(seed=0)
    for step, action in enumerate(random_actions(every.world, (9, 2)), start=1):
        full, sparse = every.step(action), fourth.step(action)
        shown = full[0]["pixels"] if step % 4 == 0 else shown
        assert_equal(sparse[0]["pixels"], shown)
        assert_equal(sparse[0]["observation"], full[0]["observation"])
        assert_equal(sparse[1:], full[1:])


# ----------------------------------------------------------------------------------- reward


@every_task
def test_the_reward_is_that_of_compute_reward_for_one_goal_and_for_many(name):
    env = GoalEnv(name, image_size=8)
    goal = env.world.sample_episode(np.random.default_rng(0)).goal
    steps = trajectory(env, 0, steps=10)[1:]
    env.reset(options={"episode": Episode(goal, goal)})
    steps += [env.step(np.zeros(env.action_space.shape)) for _ in range(10)]
    assert steps[10][1] == 0  # standing on the goal is success
    achieved = np.stack([step[0]["achieved_goal"] for step in steps])
    desired = np.stack([step[0]["desired_goal"] for step in steps])
    rewards = np.array([step[1] for step in steps])
    assert set(rewards) == {-1.0, 0.0}
    assert_equal(env.compute_reward(achieved, desired, {}), rewards)
    shaped = env.compute_reward(achieved.reshape(2, 10, -1), desired.reshape(2, 10, -1), {})
    assert_equal(shaped, rewards.reshape(2, 10))
    assert env.compute_reward(achieved[0], desired[0], {}) == rewards[0]
    distance = np.array([step[4]["distance"] for step in steps])
    assert_equal(np.array([step[4]["is_success"] for step in steps]), rewards == 0)
    assert_equal(rewards == 0, distance <= TASKS[name].tolerance)
    assert not any(step[2] for step in steps)
    assert not env.compute_terminated(achieved, desired, {})
    assert not env.compute_truncated(achieved, desired, {})
