"""README tells the truth: its code runs, its files exist, its figures were measured."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = [
    ROOT / "pretrained" / "reacher" / "result.json",
    *sorted((ROOT / "benchmarks" / "results").glob("reacher-seed*.json")),
]


def test_the_python_example_reaches_its_goal():
    code, _ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) < 5


def test_the_training_example_runs_at_a_small_size(tmp_path):
    _, code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    stages = ("updates", "critic_updates", "ensemble_updates", "actor_updates")
    small = "".join(f"{stage}=1, " for stage in stages) + "validation=0.2, cost='critic'"
    code = code.replace("episodes=2000", "episodes=6").replace("data=data", f"{small}, data=data")
    code = code.replace("episodes=200,", "episodes=1,")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) >= 0


def test_every_file_that_it_links_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize(
    "page", [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name
)
def test_every_file_that_a_page_links_is_there(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if not link.startswith("http")]
    assert [link for link in files if not (page.parent / link).exists()] == []


def test_every_make_target_that_it_names_is_there():
    targets = set(re.findall(r"make ([a-z]+)", README))
    known = set(
        re.findall(r"^([a-z]+)(?:-%)?:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    )
    assert targets <= known


def test_every_command_that_it_shows_is_understood():
    from mujepa.cli.main import COMMANDS

    shown = set(re.findall(r"^    mujepa ([a-z]+)", README, flags=re.MULTILINE))
    assert shown
    assert shown <= set(COMMANDS)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parts[-2] + path.stem)
def test_every_row_of_results_is_that_of_its_result_file(path):
    result = json.loads(path.read_text())
    (row,) = [line for line in README.splitlines() if f"({path.relative_to(ROOT)})" in line]
    rate = result["success_at_end"]
    assert f"**{rate['rate']:.3f}** [{rate['low']:.3f}, {rate['high']:.3f}]" in row
    for name in ("reactive", "latent_l2", "random"):
        assert f"| {result['baselines'][name]['success_at_end']['rate']:.3f} " in row


def test_what_it_says_of_the_region_to_be_avoided_was_measured():
    found = json.loads((ROOT / "benchmarks" / "results" / "avoid.json").read_text())
    section = README.partition("A cost can forbid a region")[2].partition("##")[0]
    assert f"the {found['episodes']} of 200 episodes" in section
    for row in found["weights"].values():
        assert f"{100 * row['steps']:.2f} %" in section
        assert f"{row['success_at_end']['rate']:.3f}" in section


def benchmark(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_tasks_says_what_was_measured():
    page, remedy = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8"), "run `make pages`"
    assert page == benchmark("tasks_page").page(ROOT), remedy


def test_every_equation_points_at_the_line_that_computes_it():
    text = (ROOT / "docs" / "derivations.md").read_text(encoding="utf-8")
    page = benchmark("derivations_page")
    assert len(page.LINK.findall(text)) > 20
    assert text == page.linked(text), "run `make pages`"
