"""The wheel works where the checkout is not: installed in a fresh venv, used from elsewhere."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A fresh venv with the built wheel; the dependencies are borrowed from the running one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, so that the build leaves nothing in the checkout
    others = shutil.ignore_patterns(
        ".*", "build", "dist", "data", "runs", "*.egg-info", "__pycache__"
    )
    shutil.copytree(ROOT, source, ignore=others)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python, folder, *arguments):
    return subprocess.run([python, *arguments], cwd=folder, capture_output=True, text=True)


def test_the_wheel_is_imported_from_its_own_place(python, tmp_path):
    done = run(python, tmp_path, "-c", "import mujepa; print(mujepa.__file__)")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1])


def test_every_module_of_the_wheel_imports(python, tmp_path):
    code = (
        "import importlib, pkgutil, mujepa\n"
        "for module in pkgutil.walk_packages(mujepa.__path__, 'mujepa.'):\n"
        "    importlib.import_module(module.name); print(module.name)\n"
    )
    done = run(python, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "mujepa.agent.jepa" in done.stdout
    assert "tests" not in done.stdout


def test_the_wheel_carries_its_worlds_and_its_page(python, tmp_path):
    code = (
        "import gymnasium, mujepa; env = gymnasium.make('mujepa/Reacher-v0'); env.reset(seed=0)\n"
        "from importlib.resources import files\n"
        "assert files('mujepa.evaluation').joinpath('report.html').is_file()\n"
        "assert files('mujepa.visual.whatif').joinpath('page.css').is_file()\n"
        "env.close()\n"
    )
    done = run(python, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_console_command_answers(python, tmp_path):
    done = subprocess.run(
        [python.with_name("mujepa"), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout
