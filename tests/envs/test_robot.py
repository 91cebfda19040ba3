"""A world of one's own: from a MuJoCo file, or from ten lines of Python, through every command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mujoco
import numpy as np
import pytest

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.cli.main import main
from mujepa.envs.names import digest, folder_name
from mujepa.envs.registry import find_task
from mujepa.envs.robot import RobotTask, home_pose
from mujepa.envs.world import World
from mujepa.rollouts.store import Dataset
from mujepa.runtime.errors import UserError

TOY = """--updates 2 --critic-updates 2 --ensemble-updates 2 --actor-updates 2 --batch 4
--episodes 6 --threads 1"""
ARM = """
<mujoco>
  <compiler angle="radian" meshdir="shapes"/>
  <asset><mesh file="tip.obj"/></asset>
  <worldbody>
    <light pos="0 0 2"/>
    <camera name="above" pos="0 0 1.2"/>
    <camera name="side" pos="0 -1.2 0.2" xyaxes="1 0 0 0 0 1"/>
    <body>
      <joint name="shoulder" axis="0 0 1" damping="1"/>
      <geom type="capsule" fromto="0 0 0 0.3 0 0" size="0.03" rgba="0.9 0.3 0.2 1"/>
      <body pos="0.3 0 0">
        <joint name="elbow" axis="0 0 1" limited="true" range="-2 2" damping="1"/>
        <geom type="capsule" fromto="0.07 0 0 0.2 0 0" size="0.03" rgba="0.2 0.6 0.9 1"/>
        <geom type="mesh" mesh="tip" pos="0.2 0 0" contype="0" conaffinity="0"/>
        <site name="hand" pos="0.2 0 0"/>
      </body>
    </body>
    <geom name="post" type="cylinder" size="0.04 0.1" pos="0.1 0.3 0"/>
  </worldbody>
  <actuator>
    <position name="shoulder" joint="shoulder" kp="20" ctrllimited="true" ctrlrange="-3 3"/>
    <position name="elbow" joint="elbow" kp="20"/>
  </actuator>
  <keyframe><key name="home" qpos="0.2 0.5" ctrl="0.2 0.5"/></keyframe>
</mujoco>
"""
TIP = "v 0 0 0\nv .05 0 0\nv 0 .05 0\nv 0 0 .05\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
PYTHON = '''
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mujepa.envs.task import Task


@dataclass(frozen=True)
class Reach(Task):
    """Turn the arm's hand to where the goal image shows it."""

    name: str = "reach"
    mjcf: Path = Path(__file__).parent / "robot.xml"
    goal_sensors: tuple[str, ...] = ("hand",)
    tolerance: float = 0.05
    observation_camera: str = "above"
    pretty_camera: str = "side"

    def sample_start(self, model, rng):
        return rng.uniform(-1.0, 1.0, 2), np.zeros(2)

    def sample_goal(self, model, rng):
        return rng.uniform(-1.0, 1.0, 2)
'''


@pytest.fixture
def robot(tmp_path) -> Path:
    """A robot's file, and its mesh in a folder beside it."""
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "tip.obj").write_text(TIP)
    (tmp_path / "robot.xml").write_text(ARM)
    return tmp_path / "robot.xml"


@pytest.fixture
def complaint(capfd, monkeypatch, tmp_path):
    """Run a command line that has to be refused; return the one line that says why."""
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> str:
        capfd.readouterr()
        assert main(command.split()) == 2
        (line,) = capfd.readouterr().err.splitlines()
        return line.removeprefix("mujepa: ")

    return run


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def robot_task(*arguments) -> RobotTask:
    task = find_task(*(str(each) for each in arguments))
    assert isinstance(task, RobotTask)
    return task


# -------------------------------------------------------------------------------- commands


def test_a_robot_is_trained_judged_and_shown_from_its_checkpoint_alone(robot, complaint):
    options = "--goal-site hand --camera above"
    assert main(f"train robot.xml {options} --tolerance 0.1 --out run {TOY}".split()) == 0
    (data,) = Path("data").iterdir()
    assert data.name.startswith("robot-")
    name = load_checkpoint("run").config.task
    assert name.startswith(f"{robot}?goal_site=hand&camera=above&tolerance=0.1&digest=")

    quick = "--planner samples=8,iterations=1"
    assert main(f"evaluate run --episodes 2 --oracle-episodes 1 {quick}".split()) == 0
    result = json.loads(Path("run/evaluation/result.json").read_text())
    assert (result["env"], result["tolerance"]) == (name, 0.1)
    assert "oracle" in result["baselines"]
    film = "visualize run --every 50 --out episode.gif --decoder-updates 2"
    assert main(film.split()) == 0

    edit(robot, 'kp="20"', 'kp="30"')
    for command in ("evaluate run --episodes 2", "visualize run"):
        said = complaint(command)
        assert said.startswith(f"{robot}, or a file that it needs, has been edited since")
    said = complaint(f"train robot.xml {options} --tolerance 0.1 --out new --data {data} {TOY}")
    assert said == (
        f"{data} was collected with another version of {robot}; delete it, or choose another folder"
    )
    robot.unlink()
    assert "is not there" in complaint("evaluate run --episodes 2")


def test_collecting_continues_the_same_robot_and_refuses_another(robot, complaint):
    collect = "collect robot.xml --out data --episodes 2 --steps 3 --workers 1"
    assert main(f"{collect} --camera above".split()) == 0
    assert main(f"{collect} --camera above --goal-site hand".split()) == 0  # the only site
    assert Dataset(Path("data")).frames == 8
    assert "was collected with task=" in complaint(f"{collect} --camera side")
    edit(robot.parent / "shapes" / "tip.obj", "v .05 0 0", "v .06 0 0")
    assert "another version of" in complaint(f"{collect} --camera above")


def test_a_task_in_python_is_collected_and_watched_for_edits(robot, complaint, tmp_path):
    (tmp_path / "mine.py").write_text(PYTHON)
    edit(robot, "</actuator>", '</actuator><sensor><framepos name="hand" objtype="site" '
         'objname="hand"/></sensor>')  # fmt: skip
    edit(robot, 'joint="elbow" kp="20"', 'joint="elbow" kp="20" ctrlrange="-1 1"')
    collect = "collect mine.py:Reach --out data --episodes 2 --steps 3 --workers 1"
    assert main(collect.split()) == 0
    assert main(f"train mine.py:Reach --out run {TOY}".split()) == 0
    said = complaint("collect mine.py:Raech --out d")
    assert said.endswith("holds no task 'Raech'; it holds Reach")
    assert "is not there" in complaint("collect yours.py:Reach --out d")
    edit(robot, 'damping="1"', 'damping="2"')
    assert "another version of" in complaint(collect)
    assert "has been edited" in complaint("evaluate run --episodes 2")
    (tmp_path / "mine.py").write_text(PYTHON + "\nPath('it-ran').touch()\n")
    assert "mine.py, or a file that it needs, has been edited" in complaint("evaluate run")
    assert not (tmp_path / "it-ran").exists()


def test_a_task_in_python_may_name_its_model_by_a_string_and_has_to_have_it(robot, complaint):
    text = PYTHON.replace("Path(__file__).parent / ", "Path(__file__).parent.as_posix() + '/' + ")
    (robot.parent / "mine.py").write_text(text)
    assert find_task("mine.py:Reach").name.startswith(f"{robot.parent / 'mine.py'}:Reach?code=")
    robot.unlink()
    assert "robot.xml is not there" in complaint("collect mine.py:Reach --out data")


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("robot.xml --goal-site foot", "no site 'foot' in robot.xml; its sites: hand"),
        ("robot.xml --camera moon", "no camera 'moon' in robot.xml; its cameras: above, side"),
        ("robot.xml --tolerance 0", "--tolerance must be a positive distance [m], got 0"),
        ("robot.xml --tolerance nan", "--tolerance must be a positive distance [m], got nan"),
        ("other.xml", "other.xml is not there; put the file back, or give another"),
        ("robot.xml?colour=red", "unknown setting 'colour' in 'robot.xml?colour=red'"),
        ("reacher --goal-site hand", "--goal-site is for a MuJoCo file of your own"),
        ("gymnasium:Reacher-v5 --tolerance 1", "--tolerance is for a MuJoCo file of your own"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_with_what_there_is(command, answer, robot, complaint):
    assert answer in complaint(f"collect {command} --out data")
    assert answer in complaint(f"train {command} --out run")


@pytest.mark.parametrize(
    ("old", "new", "answer"),
    [
        ('<site name="hand"', '<site name="elbow"/><site name="hand"',
         "robot.xml has 2 sites; choose --goal-site: elbow, hand"),
        ('<site name="hand" pos="0.2 0 0"/>', "", "robot.xml has no site; add one"),
        ('<position name="elbow" joint="elbow" kp="20"/>', '<motor name="twist" joint="elbow"/>',
         'actuators of robot.xml without limits: twist; give them a ctrlrange'),
        ("<worldbody>", "<wordlbody>", "robot.xml is not a valid MuJoCo model: "),
        ('file="tip.obj"', 'file="lost.obj"', "robot.xml is not a valid MuJoCo model: "),
    ],
)  # fmt: skip
def test_a_file_that_leaves_something_open_says_what(old, new, answer, robot, complaint):
    edit(robot, old, new)
    assert answer in complaint("collect robot.xml --out data")


def test_a_robot_without_actuators_is_refused(robot):
    start, rest = robot.read_text().split("<actuator>")
    end = rest.split("</actuator>")[1].replace(' ctrl="0.2 0.5"', "")
    robot.write_text(start + end)
    with pytest.raises(UserError, match=r"robot\.xml has no actuators"):
        robot_task(robot)


# ------------------------------------------------------------------------- starts and goals


def test_goals_are_poses_that_servos_hold_without_touching_anything(robot):
    task = robot_task(robot)
    world, rng = World(task), np.random.default_rng(0)
    for _ in range(10):
        goal = world.sample_episode(rng).goal
        assert world._at(goal).ncon == 0
        targets = np.clip(goal[1:3], world.action_low, world.action_high)[None]
        held = goal[None]
        for _ in range(20):
            held = world.step(held, targets)
        assert task.distance(world.achieved(held), world.achieved(goal[None])) < task.tolerance


def test_servos_are_sent_around_the_home_pose_and_motors_to_their_limits(robot):
    world = World(robot_task(robot))
    np.testing.assert_allclose(home_pose(world.model), [0.2, 0.5])
    np.testing.assert_allclose(world.action_low, [-0.8, -0.5])
    np.testing.assert_allclose(world.action_high, [1.2, 1.5])
    edit(robot, '<position name="shoulder" joint="shoulder" kp="20"', '<motor joint="shoulder"')
    np.testing.assert_allclose(World(robot_task(robot)).action_low, [-3, -0.5])


def test_without_a_named_camera_all_of_the_robot_is_seen(robot):
    text = robot.read_text()
    robot.write_text("\n".join(line for line in text.splitlines() if "camera" not in line))
    world = World(robot_task(robot))
    episode = world.sample_episode(np.random.default_rng(0))
    start, goal = world.render(np.stack([episode.start, episode.goal]))
    assert (start != goal).any()
    corners = world.project(world.achieved(np.stack([episode.start, episode.goal])))
    assert ((corners > 0) & (corners < 1)).all()


def test_a_free_camera_projects_to_where_it_draws(robot):
    """A ball at a point is drawn where `project` says."""
    world = World(robot_task(robot))
    free = World(robot_task(_without_cameras(robot)))
    for each in (world, free):
        point = np.array([0.25, 0.2, 0.05])
        data = each._at(each.state(each.model.qpos0))
        seen = each._beauty.render(data, point).astype(int)
        there = np.abs(seen - each._beauty.render(data)).sum(axis=-1) > 30
        rows, columns = np.nonzero(there)
        middle = np.array([columns.mean(), rows.mean()]) / len(seen)
        np.testing.assert_allclose(middle, each.project(point), atol=0.02)


def _without_cameras(robot: Path) -> Path:
    folder = robot.parent / "blind"
    shutil.copytree(robot.parent / "shapes", folder / "shapes")
    lines = [line for line in robot.read_text().splitlines() if "camera" not in line]
    (folder / "robot.xml").write_text("\n".join(lines))
    return folder / "robot.xml"


def test_robots_that_cannot_be_posed_have_goals_that_their_actions_reach(robot):
    text = robot.read_text()
    text = text.replace('joint="elbow"', 'site="hand" gear="0 1 0 0 0 0" ctrlrange="-1 1"')
    text = text.replace('joint="shoulder"', 'site="hand" gear="1 0 0 0 0 0"').replace(
        ' kp="20"', ""
    )
    robot.write_text(text.replace("<position", "<general"))
    task = robot_task(robot)
    world = World(task)
    episode = world.sample_episode(np.random.default_rng(0))
    np.testing.assert_allclose(episode.start[1:3], home_pose(world.model))
    assert task.distance(*world.achieved(np.stack([episode.start, episode.goal]))) > task.tolerance


# ----------------------------------------------------------------------------------- names


def test_robots_of_the_same_name_in_two_folders_share_no_data(robot, tmp_path):
    other = _without_cameras(robot)
    folders = {folder_name(find_task(str(path)).name) for path in (robot, other)}
    folders |= {folder_name(find_task(str(robot), camera="side").name)}
    assert len(folders) == 3
    assert all(folder.startswith("robot-") for folder in folders)
    assert folder_name("dm_control:reacher-easy") == "dm_control-reacher-easy"


def test_the_checksum_covers_included_files_and_meshes(robot):
    parts = robot.parent / "parts.xml"
    parts.write_text('<mujoco><worldbody><geom name="box" size="0.1 0.1 0.1" type="box" '
                     'pos="1 1 0"/></worldbody></mujoco>')  # fmt: skip
    edit(robot, "<worldbody>", '<include file="parts.xml"/><worldbody>')
    sums = [digest(robot)]
    edit(parts, "0.1 0.1 0.1", "0.1 0.1 0.2")
    sums.append(digest(robot))
    edit(robot.parent / "shapes" / "tip.obj", "v .05 0 0", "v .06 0 0")
    sums.append(digest(robot))
    assert len(set(sums)) == 3
    assert mujoco.MjModel.from_xml_path(str(robot)).ngeom == 5


@pytest.mark.parametrize("place", ["shapes", "parts", "parts/deep"])
def test_the_checksum_covers_meshes_that_other_files_name_or_place(robot, place):
    """MuJoCo looks beside the file that names a mesh, too; its folder may be set by another."""
    folder = robot.parent / place
    (robot.parent / "parts" / "deep").mkdir(parents=True)
    mesh = folder / "tip.obj"
    (robot.parent / "shapes" / "tip.obj").rename(mesh)
    asset = '<asset><mesh file="tip.obj"/></asset>'
    inner = robot.parent / "parts" / "deep" / "mesh.xml"
    inner.write_text(f"<mujoco>{asset}</mujoco>")
    included = '<compiler angle="radian" meshdir="shapes"/><include file="deep/mesh.xml"/>'
    if place == "parts":
        included = f'<compiler angle="radian" meshdir="shapes"/>{asset}'
    (robot.parent / "parts" / "outer.xml").write_text(f"<mujoco>{included}</mujoco>")
    edit(robot, '<compiler angle="radian" meshdir="shapes"/>', '<include file="parts/outer.xml"/>')
    edit(robot, asset, "")
    assert mujoco.MjModel.from_xml_path(str(robot)).nmesh == 1
    before = digest(robot)
    edit(mesh, "v .05 0 0", "v .06 0 0")
    assert digest(robot) != before
