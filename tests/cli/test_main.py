"""Bad input is answered by exit code 2 and one line that names the value and the remedy."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import imageio.v3 as iio
import pytest

from mujepa.agent.checkpoint import AgentConfig, Networks, load_checkpoint, save_checkpoint
from mujepa.cli.main import COMMANDS, main
from mujepa.envs.registry import TASKS
from mujepa.envs.world import World
from mujepa.rollouts.collection import collect_shards, make_spec
from mujepa.runtime.parallel import Pool

TOY = """--updates 2 --critic-updates 2 --ensemble-updates 2 --actor-updates 2 --batch 4
--episodes 6 --threads 1"""


@pytest.fixture
def complaint(capfd):
    """Run a command line that has to be refused; return the one line that says why."""

    def run(command: str) -> str:
        capfd.readouterr()
        assert main(command.split()) == 2
        said, complained = capfd.readouterr()
        assert said == ""
        (line,) = complained.splitlines()
        assert line.startswith("mujepa: ")
        return line.removeprefix("mujepa: ")

    return run


@pytest.fixture(scope="module")
def original_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "data"
    assert list(collect_shards(folder, make_spec("reacher", 0, 12), 6, Pool(1))) == [6 * 13]
    return folder


@pytest.fixture(scope="module")
def original_run(original_data) -> Path:
    run = original_data.parent / "run"
    command = f"train reacher --out {run} --data {original_data} {TOY}"
    assert main(command.split()) == 0
    return run


@pytest.fixture
def data(original_data, tmp_path) -> Path:
    return shutil.copytree(original_data, tmp_path / "data")


@pytest.fixture
def run(original_run, tmp_path) -> Path:
    return shutil.copytree(original_run, tmp_path / "run")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """An untrained one."""
    config = AgentConfig("reacher", (64, 64, 3), (-1.0, -1.0), (1.0, 1.0), 3, 4)
    save_checkpoint(tmp_path / "agent", config, Networks(config), {})
    return tmp_path / "agent"


# -------------------------------------------------------------------------------- commands


def test_without_a_command_it_says_how_to_use_it(capsys):
    for arguments in ([], ["-h"], ["--help"], ["help"]):
        assert main(arguments) == 0
        usage = capsys.readouterr().out
        assert all(f"  {command} " in usage for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_each_of_its_options(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code in (0, None)
    text = capsys.readouterr().out
    assert text.startswith(f"usage: mujepa {command}")
    assert ("--watch" if command == "envs" else "--out") in text
    first = ("Name of the task", "Name of a task", "Folder of a checkpoint", "Each a result.json")
    first += ("Folder of the dataset",)
    assert any(words in text for words in first)


def test_an_unknown_command_is_answered_by_the_nearest(complaint):
    assert complaint("trian") == "unknown command 'trian'; did you mean 'train'?"
    assert complaint("xyzzy").endswith(
        "; commands: envs, collect, import, export, train, evaluate, compare, sweep, visualize"
    )


@pytest.mark.parametrize(
    "command",
    [
        "collect reacher",
        "collect --out data",
        "collect reacher --out data --episodes many",
        "train reacher --out run --mode magic",
        "evaluate",
        "evaluate run --episodes 1.5",
        "evaluate run --device toaster",
        "visualize run --every some",
    ],
)
def test_a_command_line_that_cannot_be_read_exits_with_2_and_no_traceback(
    command, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert f"mujepa {command.split()[0]} --help" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("collect reach --out data", "unknown task 'reach'; did you mean 'reacher'?"),
        ("train raecher --out run", "unknown task 'raecher'; did you mean 'reacher'?"),
        ("collect xyzzy --out data", "unknown task 'xyzzy'; tasks: reacher"),
        (
            "collect reacher --out data --colour red",
            "unknown flag --colour; did you mean --cluster?",
        ),
        ("collect reacher --out data --episodes 0", "--episodes must be at least 1, got 0"),
        ("collect reacher --out data --steps -3", "--steps must be at least 1, got -3"),
        ("collect reacher --out data --workers -1", "--workers must be at least 0, got -1"),
        ("train reacher --out run --minutes 0", "--minutes must be above 0, got 0.0"),
        ("train reacher --out run --minutes nan", "--minutes must be finite, got nan"),
        ("train reacher --out run --learning-rate -1", "--learning-rate must be above 0, got -1.0"),
        ("train reacher --out run --validation 1", "--validation must be below 1, got 1.0"),
        ("train reacher --out run --seed 4294967296", "--seed must be below 4294967296, got"),
        ("train reacher --out run --loss.sigreg nan", "--loss.sigreg must be finite"),
        ("train reacher --out run --jepa.encoder.dim 0", "--jepa.encoder.dim must be at least 1"),
        ("train reacher --out run --planner.samples 0", "--planner.samples must be at least 1"),
        ("train reacher --out run --cost gaol", "cost 'gaol': cannot read 'gaol'; write terms"),
        ("evaluate run --episodes 0", "--episodes must be at least 1, got 0"),
        ("evaluate run --oracle-episodes 0", "--oracle-episodes must be at least 1, got 0"),
        ("evaluate run --seed -1", "--seed must be at least 0, got -1"),
        ("evaluate run", "no checkpoint in run; train one with: mujepa train TASK --out FOLDER"),
        ("visualize run", "no checkpoint in run; train one with: mujepa train TASK --out FOLDER"),
        ("collect reacher --out data --vary mas=2", "unknown factor 'mas'; did you mean 'mass'?"),
        ("collect reacher --out data --vary mass", "'mass' is neither NAME=LOW:HIGH nor"),
        ("collect reacher --out data --vary gravity=2", "'reacher' has no gravity to change; "),
        ("train reacher --out run --vary mass=0", "mass=0:0: the range must go upwards and lie"),
        ("train reacher --out run --world-model there", "no checkpoint in there; train one with"),
        ("evaluate run --planner oracle --actor reactive", "--actor reactive is of the agent, "),
        ("evaluate run --planner oracle --cost goal", "--cost goal has no effect on --planner"),
        ("evaluate run --planner best", "'best' is neither a planner (cem, icem, mppi"),
        ("evaluate run --planner samples=many", "--planner samples=many: samples must be a number"),
        (
            "evaluate run --protocol ahead=0",
            "--protocol ahead=0 is not ours, lewm or ahead=N",
        ),
        ("evaluate run --vary light=2:1", "light=2:1: the range must go upwards and lie from 0"),
        ("visualize run --vary light=x", "'light=x' is neither NAME=LOW:HIGH nor NAME=VALUE"),
        ("envs reach", "unknown task 'reach'; did you mean 'reacher'?"),
        ("envs --watch a.mp4", "--watch a.mp4: name the task, as in: mujepa envs reacher"),
        ("envs reacher --vary mass=2", "--vary mass=2 is for --watch FILE; name a file"),
        ("envs reacher --watch a.avi", "a.avi: a video's name ends in .mp4 or .gif, not '.avi'"),
        ("envs reacher --watch a.gif --vary friction=2", "'reacher' has no friction to change; "),
        ("envs reacher --seed -1", "--seed must be at least 0, got -1"),
        ("visualize run --every 0", "--every must be at least 1, got 0"),
        ("visualize run --episode -1", "--episode must be at least 0, got -1"),
        ("visualize run --step -1", "--step must be at least 0, got -1"),
        ("visualize run --show plan --decoder-updates 0", "--show plan needs a decoder"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_leaves_nothing_behind(
    complaint, tmp_path, monkeypatch, command, answer
):
    monkeypatch.chdir(tmp_path)
    assert answer.rstrip() in complaint(command)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ tasks


def test_envs_lists_every_task(capsys):
    assert main(["envs"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["task", "actions", "observation", "horizon", "goal"]
    assert [row.split()[0] for row in rows[: len(TASKS)]] == list(TASKS)


def test_envs_lists_what_it_can_and_shows_a_task_that_cannot_be_built_by_why(
    capfd, monkeypatch, tmp_path
):
    broken = replace(TASKS["reacher"], mjcf=tmp_path / "nowhere.xml")
    monkeypatch.setitem(TASKS, "reacher", broken)
    assert main(["envs"]) == 0
    assert re.search(r"^reacher +-  ", capfd.readouterr().out, flags=re.MULTILINE)
    assert main(["envs", "reacher"]) == 2
    assert "nowhere.xml" in capfd.readouterr().err


@pytest.mark.parametrize("name", TASKS)
def test_envs_shows_a_task_with_the_factors_that_work_there(capsys, name):
    assert main(["envs", name]) == 0
    said = capsys.readouterr().out
    shown = {
        line.split()[0] for line in said.split("Factors of variation")[1].splitlines()[1:] if line
    }
    assert shown == set(World(TASKS[name]).factors)
    assert f"through the last {TASKS[name].hold_steps} of {TASKS[name].budget_steps} steps" in said


@pytest.mark.parametrize(("name", "every"), [("a.mp4", 1), ("a.gif", 2)])
def test_envs_writes_a_video_of_the_behaviour_policy(capsys, monkeypatch, tmp_path, name, every):
    monkeypatch.setattr(
        "mujepa.cli.envs.find_task", lambda name: replace(TASKS[name], budget_steps=16)
    )
    path = tmp_path / "new" / name
    command = f"envs reacher --watch {path} --seed 3 --vary distractors=3 mass=0.5:2"
    assert main(command.split()) == 0
    assert "0.6 s of reacher, distractors 3, mass " in capsys.readouterr().out
    assert iio.imread(path).shape == (16 // every + 1, 480, 480, 3)
    if every == 2:
        first = path.read_bytes()
        assert main(command.split()) == 0
        assert path.read_bytes() == first


# ------------------------------------------------------------------------------- data, runs


def test_another_recipe_in_the_folder_is_refused(complaint, data):
    answer = complaint(f"collect reacher --out {data} --episodes 6 --steps 12 --seed 1")
    assert "was collected with seed=0, not 1; choose another folder with --out" in answer
    assert "steps=12, not 50" in complaint(f"collect reacher --out {data} --episodes 6")


def test_a_folder_that_is_a_file_is_refused(complaint, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for command in ("collect", "train"):
        for folder in (f"{tmp_path}/file", f"{tmp_path}/file/data"):
            answer = complaint(f"{command} reacher --out {folder} --episodes 2")
            assert answer.startswith(f"cannot write {folder}/")


@pytest.mark.parametrize("text", ["", "{}", "[", '{"schema_version": 1}', '{"schema_version": 7}'])
def test_a_damaged_dataset_is_refused(complaint, data, tmp_path, text):
    (data / "meta.json").write_text(text)
    collecting, training = f"collect reacher --out {data}", f"train reacher --out {tmp_path}/r"
    for command in (collecting, f"{training} --data {data}"):
        answer = complaint(f"{command} --episodes 6")
        assert str(data) in answer
        assert f"delete {data} and collect it again with: mujepa collect" in answer


def test_a_dataset_of_another_size_of_episodes_is_learned_from_as_it_is(data, tmp_path):
    """Steps and seed of the data are its own."""
    before = (data / "meta.json").read_bytes()
    command = f"train reacher --out {tmp_path}/r --data {data} --seed 3 {TOY}"
    assert main(command.split()) == 0
    assert (data / "meta.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        ("--cost critic+magic", "cannot read 'magic'"),
        ("--validation 0.95", "6 episodes cannot be split"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(capfd, data, tmp_path, more, answer):
    run = tmp_path / "fresh"
    command = f"train reacher --out {run} --data {data} {TOY}"
    assert main([*command.split(), *more.split()]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("mujepa: ")
    assert answer.replace("DATA", str(data)) in last
    assert main(command.split()) == 0  # what failed before its first checkpoint is not in the way


def test_an_existing_run_is_not_overwritten(complaint, run, data):
    answer = complaint(f"train reacher --out {run} --data {data} {TOY}")
    assert answer == f"{run} holds a run already; continue it with --resume or choose another --out"


def test_resuming_with_other_settings_is_refused_by_name(complaint, run, original_data):
    command = f"train reacher --out {run} --data {original_data} {TOY} --resume"
    assert "begun with batch=4, not 5; resume it" in complaint(f"{command} --batch 5")
    answer = complaint(f"{command} --planner.horizon 3")
    assert f"{run} was begun with planner=" in answer


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "progress.json"])
def test_resuming_from_damage_is_refused(capfd, run, original_data, file):
    (run / "last" / "progress.json").write_text(json.dumps({"stage": 1, "update": 1}))
    path = run / "last" / file
    path.write_bytes(path.read_bytes()[:-9])
    command = f"train reacher --out {run} --data {original_data} {TOY} --resume"
    assert main(command.split()) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"mujepa: {path} is ")
    assert "damaged" in line


@pytest.mark.parametrize("command", ["evaluate", "visualize"])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_checkpoint_is_refused(complaint, checkpoint, command, file):
    content = bytearray((checkpoint / file).read_bytes())
    content[-20] ^= 0xFF
    (checkpoint / file).write_bytes(content)
    answer = complaint(f"{command} {checkpoint}")
    assert "damaged" in answer
    assert str(checkpoint) in answer
    assert answer.endswith("; train one with: mujepa train TASK --out FOLDER")


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"schema_version": 99}, "has checkpoint schema 99, this version reads 3"),
        ({"frame_skip": "four"}, "is damaged"),
        ({"surprise": 1}, "is damaged"),
        ({"task": "juggler"}, "unknown task 'juggler'"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(complaint, checkpoint, change, answer):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | change))
    assert answer in complaint(f"evaluate {checkpoint}")


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        ("--cost critic+magic", "cannot read 'magic'"),
        ("--planner samples=0", "samples"),
        ("--planner horizon=0", "horizon"),
        ("--planner replan-every=99", "replan_every must be from 1 to the horizon"),
        ("--device cuda", "device 'cuda' is not available here; use --device auto"),
    ],
)
def test_settings_that_the_planner_cannot_use_are_refused(
    complaint, checkpoint, monkeypatch, more, answer
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert answer in complaint(f"evaluate {checkpoint} {more}")


@pytest.mark.parametrize("name", ["film.avi", "film"])
def test_a_video_of_an_unknown_kind_is_refused_before_it_is_recorded(
    complaint, checkpoint, tmp_path, name, monkeypatch
):
    monkeypatch.setattr("mujepa.cli.visualize.record_episode", None)
    answer = complaint(f"visualize {checkpoint} --out {tmp_path / name}")
    assert "ends in .mp4 or .gif" in answer


# ------------------------------------------------------------------------ machine and disk


def test_a_machine_without_opengl_is_told_what_to_install(tmp_path, checkpoint):
    """In a process of its own, which has no context yet; workers that collect are others again."""
    code = f"""
import sys
import mujepa.envs.rendering
def nothing(library):
    raise ImportError(f"lib{{library}}.so.1: cannot open shared object file")
mujepa.envs.rendering._linux_context = nothing
from mujepa.cli.main import main
assert main(["visualize", {str(checkpoint)!r}, "--out", "a.gif"]) == 2
assert main(["evaluate", {str(checkpoint)!r}]) == 2
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={name: value for name, value in os.environ.items() if name != "MUJOCO_GL"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stderr.splitlines()
    assert first == second
    assert first.startswith("mujepa: no OpenGL library for off-screen rendering (egl: libegl.so.1")
    assert "apt-get install -y libegl1" in first


@pytest.mark.parametrize("library", ["glfw", "gles", "magic"])
def test_an_impossible_choice_of_opengl_is_one_line_that_names_it(tmp_path, library):
    """Also where workers collect, which load everything themselves."""
    command = f"collect reacher --out {tmp_path}/d --episodes 2"
    ran = subprocess.run(
        [sys.executable, "-m", "mujepa.cli", *command.split()],
        capture_output=True, text=True, timeout=120, env=os.environ | {"MUJOCO_GL": library},
    )  # fmt: skip
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("mujepa: ")
    assert "MUJOCO_GL" in line
    assert library in line


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder],
            check=True, capture_output=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_while_collecting_is_one_line(complaint, small_disk):
    answer = complaint(f"collect reacher --out {small_disk}/d --episodes 100")
    assert answer.startswith(f"cannot write {small_disk}/d/shard-00000: ")
    assert answer.endswith("; free space or choose another folder with --out")
    assert not list(small_disk.rglob("*.npy"))


def test_a_disk_that_fills_up_while_training_keeps_the_last_checkpoint(
    capfd, small_disk, original_data
):
    command = f"train reacher --out {small_disk}/r --data {original_data} {TOY}"
    assert main(command.split()) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"mujepa: cannot write {small_disk}/r/")
    assert line.endswith("; free space or choose another folder with --out")
    assert not list(small_disk.rglob("*.tmp"))
    load_checkpoint(small_disk / "r")


@pytest.mark.parametrize("command", ["collect", "train", "visualize"])
def test_a_full_disk_is_one_line_wherever_it_is_noticed(
    capfd, monkeypatch, tmp_path, checkpoint, original_data, command
):
    """Without root: the kernel's answer when data is forced onto the disk."""

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mujepa.runtime.files._sync", full)
    arguments = {
        "collect": f"reacher --out {tmp_path}/d --episodes 2 --workers 1",
        "train": f"reacher --out {tmp_path}/r --data {original_data} {TOY}",
        "visualize": f"{checkpoint} --out {tmp_path}/a.gif --every 50 --decoder-updates 0",
    }
    assert main([command, *arguments[command].split()]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("mujepa: cannot write ")
    assert "No space left on device; free space or choose another folder" in line
    assert not (tmp_path / "a.gif").exists()


# --------------------------------------------------------------------------------- imports


@pytest.mark.parametrize(
    "loads",
    [
        {
            "mujepa": ["torch", "mujoco", "wandb", "matplotlib"],
            "mujepa.cli.main": ["torch", "mujoco", "wandb", "tyro"],
            "mujepa.cli.collect": ["torch", "wandb", "matplotlib"],
            "mujepa.cli.envs": ["torch", "wandb", "matplotlib"],
            "mujepa.train": ["wandb", "matplotlib", "imageio"],
        },
        {"mujepa.planners": ["mujoco", "mujepa.agent", "mujepa.rollouts", "mujepa.evaluation"]},
    ],
    ids=["commands", "planners"],
)
def test_importing_loads_no_more_than_is_needed(loads):
    code = f"""
import importlib, sys
for module, absent in {loads}.items():
    importlib.import_module(module)
    print(*[f"{{module}} loads {{name}}" for name in absent if name in sys.modules], end="")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "", ran.stdout
    assert ran.returncode == 0, ran.stderr


def test_the_public_names_and_the_tasks_are_there():
    import mujepa

    assert {"load", "collect", "train", "evaluate", "UserError"} <= set(mujepa.__all__)
    assert "mujepa/Reacher-v0" in gymnasium.registry


def test_a_command_can_be_run_as_a_file(tmp_path):
    """`python train.py ...` is the same thing as `mujepa train ...`."""
    root = Path(sys.modules["mujepa"].__file__).parent
    ran = subprocess.run(
        [sys.executable, str(root / "train.py"), "reach", "--out", "agent"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr == "mujepa: unknown task 'reach'; did you mean 'reacher'?\n"


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mujepa 0.")
