"""Bad input ends in one clear line and exit code 2; nothing is imported or lost without need."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mujepa import cli
from mujepa.agent.checkpoint import save_checkpoint
from mujepa.envs import opengl
from mujepa.files import write_json


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.fixture
def complains(capfd):
    """Run a command line that must fail in one line on stderr, and return the line."""

    def run(*arguments):
        assert cli.main([str(argument) for argument in arguments]) == 2
        lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
        said = [line for line in lines if line.startswith("mujepa: ")]
        assert len(said) == 1
        assert "Traceback" not in "\n".join(lines)
        assert lines[-1] == said[0]
        return said[0]

    return run


@pytest.fixture
def checkpoint(tmp_path, untrained, tiny):
    made = untrained(tiny(observation_shape=(64, 64, 3)))
    save_checkpoint(tmp_path / "agent", made.config, made.networks, {})
    return tmp_path / "agent"


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    assert cli.main(["collect", "reacher", "--out", str(folder), "--episodes", "5"]) == 0
    return folder


@pytest.mark.parametrize("command", ["collect", "train"])
def test_an_unknown_task_suggests_the_nearest_name(complains, tmp_path, command):
    said = complains(command, "reachr", "--out", tmp_path / "new")
    assert "unknown task 'reachr'; did you mean 'reacher'?" in said
    assert not (tmp_path / "new").exists()


def test_an_unknown_command_suggests_the_nearest_name(complains):
    assert "unknown command 'trian'; did you mean 'train'?" in complains("trian", "reacher")


def test_a_missing_checkpoint_is_named(complains, tmp_path):
    assert str(tmp_path / "none") in complains("evaluate", tmp_path / "none")
    assert str(tmp_path / "none") in complains("visualize", tmp_path / "none")


def test_a_damaged_checkpoint_is_named(complains, checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "damaged" in complains("evaluate", checkpoint)


def test_a_damaged_dataset_is_named(complains, data, tmp_path):
    pixels = data / "shard-00000" / "pixels.npy"
    content = np.load(pixels, mmap_mode="r+")
    content[7] ^= 1
    content.flush()
    (data / "shard-00000" / "shard.json").write_text("{")
    write_json(data / "meta.json", json.loads((data / "meta.json").read_text()) | {"shards": 3})
    assert "damaged" in complains(
        "train", "reacher", "--out", tmp_path / "run", "--data", data, "--episodes", 5
    )


@pytest.mark.parametrize(
    "wrong",
    [
        ("collect", "reacher", "--episodes", 0),
        ("collect", "reacher", "--steps", -1),
        ("collect", "reacher", "--seed", -1),
        ("train", "reacher", "--updates", 0),
        ("train", "reacher", "--seed", -1),
        ("train", "reacher", "--minutes", 0),
        ("train", "reacher", "--imagined", 2),
        ("evaluate", "somewhere", "--episodes", 0),
        ("evaluate", "somewhere", "--seed", -1),
        ("visualize", "somewhere", "--every", 0),
    ],
    ids=lambda wrong: " ".join(map(str, wrong)),
)
def test_a_number_out_of_range_is_named_with_its_option(complains, tmp_path, wrong):
    said = complains(*wrong, "--out", tmp_path / "new")
    assert wrong[2] in said
    assert str(wrong[3]) in said
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_cost_or_planner_is_named(complains, checkpoint):
    assert "'gaol'" in complains("evaluate", checkpoint, "--cost", "gaol", "--episodes", 1)
    assert "horizon" in complains("evaluate", checkpoint, "--horizon", 0, "--episodes", 1)


def test_a_video_of_another_kind_is_named(complains, checkpoint, tmp_path):
    assert "'.avi'" in complains("visualize", checkpoint, "--out", tmp_path / "video.avi")


def test_a_run_is_not_overwritten(complains, tmp_path):
    write_json(tmp_path / "run" / "train.json", {})
    assert "--resume" in complains("train", "reacher", "--out", tmp_path / "run")


def test_a_run_is_not_resumed_with_other_settings(complains, tmp_path, data):
    run = ("train", "reacher", "--out", tmp_path / "run", "--data", data, "--episodes", 5)
    write_json(tmp_path / "run" / "train.json", {"batch": 7})
    assert "was begun with" in complains(*run, "--resume")


def test_the_wrong_dataset_is_not_mixed_in(complains, data):
    said = complains("collect", "reacher", "--out", data, "--episodes", 5, "--seed", 1)
    assert "seed=0, not 1" in said


def test_without_an_opengl_library_the_remedy_is_told(complains, checkpoint, monkeypatch):
    def absent(library):
        raise ImportError(f"cannot load {library}")

    opengl.gl_context.cache_clear()
    monkeypatch.setattr(opengl, "_linux_context", absent)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    try:
        said = complains("evaluate", checkpoint, "--episodes", 1)
    finally:
        opengl.gl_context.cache_clear()
    assert "egl: cannot load egl; osmesa: cannot load osmesa" in said
    assert "apt-get install -y libegl1" in said


@pytest.mark.parametrize("library", ["gles", "glfw"])
def test_an_unknown_opengl_library_is_named(library, checkpoint):
    command = [sys.executable, "-m", "mujepa.cli", "evaluate", checkpoint, "--episodes", "1"]
    environment = os.environ | {"MUJOCO_GL": library}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "MUJOCO_GL" in said
    assert library in said


def test_a_full_disk_is_named_and_leaves_nothing_half_written(
    complains, checkpoint, tmp_path, monkeypatch
):
    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    said = complains("visualize", checkpoint, "--out", tmp_path / "video.gif", "--every", 50)
    assert "No space left on device" in said
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def test_a_folder_that_cannot_be_made_is_named(complains, tmp_path):
    (tmp_path / "file").write_text("")
    said = complains("collect", "reacher", "--out", tmp_path / "file", "--episodes", 2)
    assert str(tmp_path / "file") in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "reacher"],
        ["train", "reacher", "--out", "x", "--updates", "many"],
        ["train", "reacher", "--out", "x", "--no-such-option"],
        ["train", "reacher", "--out", "x", "--planner.horizon", "0"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_parsed_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_reads_like_a_manual(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: mujepa {command}")
    assert "--out" in said


def test_usage_names_every_command(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in cli.COMMANDS)


def test_importing_it_registers_the_tasks_and_touches_neither_torch_nor_mujoco():
    done = python(
        "import sys, mujepa, gymnasium; assert 'mujepa/Reacher-v0' in gymnasium.registry\n"
        "print(sorted({'torch', 'mujoco', 'matplotlib', 'wandb'} & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]", done.stderr
