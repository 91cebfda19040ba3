"""Other suites' environments: their physics, our goals, and what is refused and why."""

from __future__ import annotations

import json
import sys

import mujoco
import numpy as np
import pytest

from mujepa.cli.main import main
from mujepa.envs import suites
from mujepa.envs.gym import GoalEnv, GoalVectorEnv
from mujepa.envs.registry import find_task
from mujepa.envs.suites.simulator import STATE, UNSEEN_GROUP, ControlSimulator, Simulator
from mujepa.envs.suites.suite_task import SuiteTask
from mujepa.envs.world import World
from mujepa.rollouts.store import Dataset
from mujepa.runtime.errors import UserError

NAMES = (
    "gymnasium:Reacher-v5",
    "gymnasium:InvertedPendulum-v5",
    "dm_control:reacher-easy",
    "ogbench:visual-cube-single-v0",
    "ogbench:pointmaze-medium-v0",
    "ogbench:antmaze-medium-v0",
    "robotics:FetchReach-v4",
    "robotics:PointMaze_UMaze-v3",
)
every_name = pytest.mark.parametrize("name", NAMES)
TOY = """--updates 2 --critic-updates 2 --ensemble-updates 2 --actor-updates 2 --batch 4
--episodes 6 --threads 1"""


def suite_task(name: str) -> SuiteTask:
    task = find_task(name)
    assert isinstance(task, SuiteTask)
    return task


def actions(world: World, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    unit = np.random.default_rng(seed).uniform(-1, 1, (*shape, len(world.action_low)))
    return world.from_unit(unit).astype(np.float32)


# ------------------------------------------------------------------------------- adapters


@every_name
def test_observations_and_actions_lie_in_the_declared_spaces(name):
    envs = GoalVectorEnv(2, name)
    observation, info = envs.reset(seed=0)
    assert observation in envs.observation_space
    assert envs.step(envs.action_space.sample())[0] in envs.observation_space
    assert info["goal_pixels"].shape == (2, 64, 64, 3)
    assert not info["is_success"].any()


@every_name
def test_the_same_seed_gives_the_same_trajectory_bit_for_bit(name):
    def run() -> list[bytes]:
        env = GoalEnv(name)
        env.action_space.seed(3)
        seen = [env.reset(seed=3)[0]] + [env.step(env.action_space.sample())[0] for _ in range(4)]
        return [value.tobytes() for step in seen for value in step.values()]

    first = run()
    assert run() == first
    suites.load_suite_task.cache_clear()  # an environment made anew
    assert run() == first


@every_name
def test_a_restored_state_continues_bit_for_bit(name):
    env = GoalEnv(name)
    env.reset(seed=1)
    env.step(env.action_space.sample())
    state, several = env.get_state(), actions(env.world, (4,))
    continued = [env.step(action)[0] for action in several]
    env.task.sample_start(env.world.model, np.random.default_rng(0))  # the suite goes elsewhere
    env.set_state(state)
    again = [env.step(action)[0] for action in several]
    np.testing.assert_equal(again, continued)


@every_name
def test_its_steps_are_the_suites_own(name):
    """MuJoCo's threads, or steps from stored states, against the suite's own uninterrupted."""
    world, task = World(find_task(name)), suite_task(name)
    suite, several = task.simulator, actions(world, (1, 6)).astype(float)
    suite.reset(5)
    start = suite.state()
    ours = world.rollout(start[None], several)[0][0]
    mujoco.mj_setState(suite.model, suite.data, start, STATE)
    mujoco.mj_forward(suite.model, suite.data)
    for mine, action in zip(ours, several[0], strict=True):
        suite.act(action)
        seen = slice(None) if suite.plain else slice(1, 1 + world.model.nq)
        # OGBench's inverse kinematics reads body poses that are one physics step old
        atol = 2e-3 if "cube" in name else 1e-9
        np.testing.assert_allclose(mine[seen], suite.state()[seen], rtol=0, atol=atol)


@every_name
def test_images_show_the_episode_and_not_the_suites_own_goal(name):
    world, suite = World(find_task(name)), suite_task(name).simulator
    episode = world.sample_episode(np.random.default_rng(0))
    start, goal = world.render(np.stack([episode.start, episode.goal]))
    assert start.std() > 2
    assert (start != goal).any()
    suite.reset(9)  # moves the suite's markers
    again = world.render(np.stack([episode.start, episode.goal]))
    np.testing.assert_array_equal(again, [start, goal])
    drawn = [world.model.geom(i).name for i in range(world.model.ngeom)
             if world.model.geom_group[i] != UNSEEN_GROUP]  # fmt: skip
    assert not [geom for geom in drawn if "target" in geom]


@every_name
def test_goals_are_where_the_parts_are_that_count(name):
    world, task = World(find_task(name)), suite_task(name)
    episode = world.sample_episode(np.random.default_rng(0))
    achieved = world.achieved(episode.goal[None])[0]
    array, index = task.parts[0]
    np.testing.assert_array_equal(achieved[:3], getattr(world._at(episode.goal), array)[index])
    assert task.distance(achieved, achieved) == 0
    moved = achieved + np.eye(len(achieved))[0]
    assert task.distance(moved, achieved) == pytest.approx(1)


def test_the_behaviour_policy_of_the_cubes_moves_them():
    world = World(find_task("ogbench:visual-cube-single-v0"))
    ends = [world.sample_episode(np.random.default_rng(seed)) for seed in range(2)]
    start, goal = (world.achieved(np.stack([getattr(e, end) for e in ends])) for end in
                   ("start", "goal"))  # fmt: skip
    assert (np.linalg.norm((start - goal)[:, :3], axis=1) > 0.04).all()


# --------------------------------------------------------------------- through the command


@pytest.mark.parametrize("name", ["dm_control:reacher-easy", "ogbench:visual-cube-single-v0"])
def test_experience_is_collected(name, tmp_path):
    out = tmp_path / "data"
    assert main(f"collect {name} --out {out} --episodes 2 --steps 3 --workers 1".split()) == 0
    data = Dataset(out)
    assert (len(data), data.frames, data.spec.task) == (2, 8, name)
    assert data.episode("pixels", 0).std() > 2


def test_a_looped_world_is_trained_in_and_judged_without_the_oracle(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    name = "robotics:PointMaze_UMaze-v3"
    assert main(f"train {name} --out run {TOY}".split()) == 0
    assert (tmp_path / "data" / "robotics-PointMaze_UMaze-v3-seed0").is_dir()
    assert main(["evaluate", "run", "--episodes", "2", "--planner", "samples=8,iterations=1"]) == 0
    assert "too slow for the oracle" in capfd.readouterr().out
    result = json.loads((tmp_path / "run" / "evaluation" / "result.json").read_text())
    assert result["env"] == name
    assert "oracle" not in result["baselines"]


# -------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gymnasium:Reacher-v55", "unknown task 'gymnasium:Reacher-v55'; did you mean 'gymnasium:"),
        ("dm_control:reacher-eazy", "did you mean 'dm_control:reacher-easy'?"),
        ("dm_control:reacher", "did you mean 'dm_control:reacher-"),
        ("ogbench:antmaze-medium-navigate-v0", "did you mean 'ogbench:antmaze-medium-v0'?"),
        ("robotics:FetchReech-v4", "did you mean 'robotics:FetchReach-v4'?"),
        ("ogbench:scene-v0", "the states of its buttons and locks are outside of MuJoCo"),
        ("ogbench:puzzle-3x3-v0", "buttons"),
        ("ogbench:pointmaze-teleport-v0", "drawn at random"),
        ("robotics:FrankaKitchen-v1", "outside of MuJoCo"),
        ("robotics:FetchPush-v4", "random actions never move"),
        ("robotics:AdroitHandDoor-v1", "change the model itself (body_pos)"),
    ],
)  # fmt: skip
def test_what_is_unknown_or_not_supported_is_refused_in_one_line(name, reason, tmp_path, capfd):
    assert main(f"collect {name} --out {tmp_path / 'data'}".split()) == 2
    (line,) = [each for each in capfd.readouterr().err.splitlines() if each.startswith("mujepa: ")]
    assert reason in line


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("dm_control:cartpole-swingup", "dm_control"),
        ("ogbench:cube-single-v0", "ogbench"),
        ("robotics:FetchReach-v3", "gymnasium_robotics"),
    ],
)
def test_a_missing_extra_is_named(name, package, monkeypatch, tmp_path, capfd):
    for module in [each for each in sys.modules if each.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(f"collect {name} --out {tmp_path / 'data'}".split()) == 2
    said = capfd.readouterr().err
    assert f"need {package}; install it with: pip install 'mujepa[suites]'" in said
    assert len(said.splitlines()) == 1


class Forgetful(ControlSimulator):
    """An environment that keeps something beside the state."""

    count = 0

    def act(self, action):
        self.count += 1
        super().act(action * (1 - 0.1 * self.count))


class Unseeded(ControlSimulator):
    """An environment whose seed does not matter."""

    def reset(self, seed):
        super().reset(int(np.random.default_rng().integers(2**31)))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Forgetful, "a step depends on more than MuJoCo's state"), (Unseeded, "its seed does not")],
)
def test_an_environment_that_a_state_does_not_describe_is_refused(kind: type[Simulator], reason):
    from dm_control import suite

    env = suite.load("pendulum", "swingup")
    with pytest.raises(UserError, match=f"pendulum is not supported: {reason}"):
        kind("pendulum", env, plain=True).prepare()  # pyright: ignore
