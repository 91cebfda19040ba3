"""The lab: it finds what is there, and names what is broken."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.cli.main import main
from mujepa.envs.registry import find_task
from mujepa.envs.world import World
from mujepa.evaluation.lab.attribution import attribute, name_cause, swaps
from mujepa.evaluation.lab.expectation import film_events, judge_surprise, without_contacts
from mujepa.evaluation.lab.ranking import rank_bank
from mujepa.evaluation.lab.subject import Subject
from mujepa.evaluation.lab.sweeps import conditions, factors, farther, periods, quarters, run_all
from mujepa.evaluation.lab.world_model import open_loop, probe_states, state_names
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.protocol import lewm_manifest, lewm_task, solved_share
from mujepa.evaluation.sampling import Episodes, rollout_episodes
from mujepa.evaluation.statistics import interquartile_mean, paired

PRETRAINED = Path(__file__).parents[3] / "pretrained"


@pytest.fixture
def reacher():
    return load_checkpoint(PRETRAINED / "reacher", "cpu")


def streams(episodes):
    return [np.random.default_rng(index) for index in range(episodes)]


# ----------------------------------------------------------------------------- attribution


def shuffle_actions(networks):
    size = networks.jepa.action_size
    of_action = networks.jepa.predictor.change[0][0].weight[:, -size:]
    of_action.copy_(-of_action.flip(1))


def collapse_encoder(networks):
    networks.jepa.encoder.project.weight.zero_()


def flip_cost(networks):
    distance = networks.critic.distance
    networks.critic.distance = lambda reached, goal: -distance(reached, goal)


@pytest.mark.parametrize(
    ("broken", "cause"),
    [(shuffle_actions, "dynamics"), (collapse_encoder, "representation"), (flip_cost, "cost")],
)
def test_failures_are_put_down_to_the_part_that_was_broken(broken, cause, reacher, world):
    broken(reacher.networks)
    planner = replace(reacher.config.planner, horizon=4, samples=24, iterations=2, elites=5)
    agent, jepa = reacher.agent(planner, actor="planner"), reacher.networks.jepa
    manifest = make_manifest(world, 4, seed=1)
    outcome = run_episodes(world.task, 64, AgentPolicy(agent), manifest)
    usual = rollout_episodes(jepa, world, streams(8), 20)
    policies = swaps(reacher, world, agent, planner)
    found = attribute(policies, jepa, world, manifest, outcome, usual, failures=3)
    assert found["failures"] == 3
    assert found["cause"] == cause, found


@pytest.mark.parametrize(
    ("cause", "search", "cost", "dynamics", "both", "unfamiliar"),
    [
        ("search", 0.9, 0.1, 0.1, 0.1, 1),
        ("cost", 0.1, 0.8, 0.2, 0.9, 1),
        ("dynamics", 0.1, 0.2, 0.8, 0.9, 1),
        ("data", 0.1, 0.2, 0.8, 0.9, 10),
        ("dynamics", 0.1, 0.2, 0.4, 0.9, 1),  # neither alone, both together: the better one
        ("representation", 0.1, 0.2, 0.2, 0.3, 1),
    ],
)
def test_the_cause_is_the_swap_that_closes_half_of_the_gap(
    cause, search, cost, dynamics, both, unfamiliar
):
    rescued = {
        "luck": 0.1, "search": search, "cost": cost, "dynamics": dynamics,
        "dynamics and cost": both, "everything": 1.0,
    }  # fmt: skip
    assert name_cause(rescued, unfamiliar) == cause


def test_failures_that_other_noise_holds_are_put_down_to_luck():
    rescued = dict.fromkeys(["search", "cost", "dynamics", "dynamics and cost"], 0.9)
    assert name_cause(rescued | {"luck": 0.6, "everything": 1.0}, 1) == "luck"


def test_where_everything_true_does_not_help_the_search_is_left():
    assert name_cause(dict.fromkeys(["luck", "search", "everything"], 0.0), 1) == "search"


def test_without_failures_there_is_no_cause(reacher, world):
    manifest = make_manifest(world, 2, seed=0)
    agent = reacher.agent()
    outcome = run_episodes(world.task, 64, AgentPolicy(agent), manifest)
    usual = rollout_episodes(reacher.networks.jepa, world, streams(2), 5)
    found = attribute({}, reacher.networks.jepa, world, manifest, outcome, usual, failures=3)
    assert found == {"failures": 0, "rescued": {}, "cause": None}


# ------------------------------------------------------------- what the world model knows


def test_imagination_is_nearer_to_what_happens_than_a_frozen_world_or_wrong_actions(reacher, world):
    errors = open_loop(
        reacher.networks, rollout_episodes(reacher.networks.jepa, world, streams(16), 20)
    )
    model, frozen, wrong = (np.array(errors[name]) for name in errors)
    assert list(errors) == ["model", "frozen_world", "wrong_actions"]
    assert len(model) == len(frozen) == len(wrong) == 16
    assert (model[2:] < np.minimum(frozen, wrong)[2:] / 3).all()


def test_probes_read_what_is_there_and_speeds_only_from_more_than_one_frame(world):
    states = rollout_episodes(_Numbers(), world, streams(60), 20).states
    numbers = torch.from_numpy(world.proprioception(states)).float()
    positions = numbers[..., :3]  # cosine, sine, elbow; no speeds
    found = probe_states(2, world, Episodes(states, torch.zeros(60, 20, 2), positions))
    kinds = {name: probe["kind"] for name, probe in found.items()}
    assert kinds == dict(zip(*state_names(world), strict=True))
    for probe in found.values():
        if probe["kind"] == "angle":
            assert probe["linear"] > 0.999
        else:
            assert probe["linear"] < 0.5
            assert probe["mlp_memory"] > 0.7


class _Numbers(torch.nn.Module):
    """Reads no images: what is asked of it is the states alone."""

    observes = "observation"

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, observations):
        return observations


def test_every_number_of_a_state_has_a_name():
    for name in ("reacher", "two_room", "cartpole", "push_t", "cube"):
        world = World(find_task(name))
        names, kinds = state_names(world)
        width = world.proprioception(np.zeros(world.state_size)).shape[-1]
        assert len(names) == len(kinds) == len(set(names)) == width


def test_a_cost_that_knows_ranks_the_bank_and_one_that_does_not_does_not(reacher, world):
    episodes = make_manifest(world, 6, seed=0).episodes
    knows = rank_bank(reacher.agent(), world, episodes)
    blind = rank_bank(reacher.agent(cost="effort"), world, episodes)
    assert knows["bank"] == 300
    assert knows["rank"][1] > 0.7 > 0.3 > abs(blind["rank"][1])
    assert knows["regret"] < 0.5 * knows["regret_random"]
    assert knows["regret"] < blind["regret"]


# ------------------------------------------------------------------------------- surprise


def test_without_contacts_a_body_passes_through_a_wall():
    world = World(find_task("two_room"))
    episode = make_manifest(world, 8, seed=0).episodes
    starts = np.stack([one.start for one in episode])
    right = np.tile(world.action_high * np.array([1, 0]), (8, 60, 1))
    solid, _ = world.rollout(starts, right)
    ghost, _ = world.rollout(starts, right, variants=[without_contacts(world)] * 8)
    assert (ghost[:, -1, 1] > solid[:, -1, 1] + 0.1).any()
    again, _ = world.rollout(starts, right)
    np.testing.assert_array_equal(again, solid)


@pytest.mark.parametrize("name", ["reacher", "two_room"])
def test_the_impossible_surprises_and_the_possible_does_not(name):
    networks = load_checkpoint(PRETRAINED / name, "cpu").networks
    found = judge_surprise(film_events(World(find_task(name)), networks.jepa, 24, seed=0))
    impossible = {"teleport", "freeze"} | ({"ghost"} if name == "two_room" else set())
    assert found.keys() == impossible | {"colour", "possible"}
    for event in impossible:
        assert found[event]["auroc"] > 0.9
        assert found[event]["paired"]["p_value"] < 0.01
        half = len(found[event]["by_step"]) // 2
        before, usual = (found[key]["by_step"][:half] for key in (event, "possible"))
        assert max(before) < 3 * max(usual)  # nothing has happened yet


# ------------------------------------------------------- protocols, sweeps and comparisons


def test_the_published_protocol_takes_both_ends_from_one_trajectory():
    world = World(lewm_task(find_task("two_room")))
    manifest = lewm_manifest(world, 20, seed=0)
    assert world.task.budget_steps == 50
    assert manifest.digest == lewm_manifest(world, 20, seed=0).digest
    assert [e.goal[0] - e.start[0] for e in manifest.episodes] == pytest.approx(
        [25 * world.task.substeps * world.model.opt.timestep] * 20
    )  # a state's first number is its time
    ends = (np.stack([getattr(e, end) for e in manifest.episodes]) for end in ("start", "goal"))
    near = world.task.distance(*map(world.achieved, ends)) <= world.task.tolerance
    assert solved_share(world, manifest).rate == near.mean()


def test_quarters_go_from_the_nearest_goals_to_the_farthest(reacher, world):
    manifest = make_manifest(world, 9, seed=0)
    agent = reacher.agent(actor="reactive")
    outcome = run_episodes(world.task, 64, AgentPolicy(agent), manifest)
    found = quarters(world, manifest, outcome)
    assert [row["episodes"] for row in found] == [3, 2, 2, 2]
    assert sorted(row["remaining"] for row in found) == [row["remaining"] for row in found]


def test_only_factors_that_change_something_are_swept_over(world):
    names = {name for name, _ in conditions(world)}
    assert {"mass", "light", "gain"} <= names
    assert "gravity" not in names  # the reacher lies flat


def test_sweeps_find_in_other_processes_what_the_agent_does_here(reacher, world):
    planner = replace(reacher.config.planner, samples=8, iterations=1, horizon=2)
    subject = Subject(reacher, planner, actor="planner")
    manifest = make_manifest(world, 2, seed=0)
    runs = [*periods(world.task, manifest, 2), factors(world, 2, seed=0)[-1]]
    for run, outcome in zip(runs, run_all(subject, runs), strict=True):
        alone = run_episodes(world.task, 64, AgentPolicy(subject.agent(run.every)), run.manifest)
        np.testing.assert_array_equal(outcome.states, alone.states)


def test_goals_farther_ahead_have_a_budget_to_match():
    task = find_task("push_t")
    near, far = farther(World(task, 64), [25, 75], episodes=1, seed=0)
    assert (near.task.budget_steps, far.task.budget_steps) == (
        task.budget_steps,
        3 * task.budget_steps,
    )
    assert far.told(1) == (75, far.manifest, 1)


def test_an_agent_compared_with_itself_differs_by_exactly_nothing():
    held = np.random.default_rng(0).random(100) < 0.8
    found = paired(held, held)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_a_paired_difference_has_an_interval_of_its_own():
    one, other = np.array([1] * 60 + [0] * 40, bool), np.array([0] * 20 + [1] * 40 + [0] * 40, bool)
    found = paired(one, other)
    assert found.difference == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - 1.96 * 0.04, abs=0.01)  # sqrt(.2 * .8 / 100) = .04


def test_the_interquartile_mean_leaves_out_the_extremes():
    runs = [np.arange(100) < share for share in (0, 50, 60, 100)]
    found = interquartile_mean([runs])
    assert found.rate == pytest.approx(0.55)
    assert found.low < 0.5 < 0.6 < found.high
    alone = interquartile_mean([[np.arange(100) < 50]])
    assert alone.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)  # episodes count, too


# ------------------------------------------------------------------------ from the shell


TOY = "--episodes 4 --oracle-episodes 1 --planner samples=16,iterations=1,horizon=2 --device cpu"


@pytest.fixture(scope="module")
def looked_into(tmp_path_factory):
    out = tmp_path_factory.mktemp("lab")
    more = f"--full --out {out}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mujepa.evaluate.SWEEP_EPISODES", 1)
        patch.setattr("mujepa.evaluate.FAILURES", 1)
        assert main(f"evaluate {PRETRAINED / 'reacher'} {TOY} {more}".split()) == 0
    return json.loads((out / "result.json").read_text()), out


def test_the_lab_leaves_every_part_with_a_figure(looked_into):
    result, out = looked_into
    parts = {
        "paired", "open_loop", "representation", "ranking", "expectation", "distance", "replan",
        "factors", "lewm", "attribution",
    }  # fmt: skip
    assert result["lab"].keys() == parts
    assert result["lab"]["lewm"]["agent"]["episodes"] == 4
    figures = {path.stem for path in (out / "figures").glob("*.png")}
    assert figures - {"attribution"} == parts - {"representation", "attribution"} | {
        "probes", "distances"
    }  # fmt: skip
    page = (out / "report.html").read_text()
    for title in ("Looking less often", "Other worlds", "Surprised by the impossible"):
        assert page.count(f"<h2>{title}</h2>") == 1


def test_the_lab_says_the_same_twice(looked_into, tmp_path):
    more = f"--full --out {tmp_path}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mujepa.evaluate.SWEEP_EPISODES", 1)
        patch.setattr("mujepa.evaluate.FAILURES", 1)
        assert main(f"evaluate {PRETRAINED / 'reacher'} {TOY} {more}".split()) == 0
    again = json.loads((tmp_path / "result.json").read_text())
    assert again["lab"] == looked_into[0]["lab"]


@pytest.mark.parametrize(
    "flags",
    ["--vary mass=2", "--planner oracle", "--protocol lewm"],
)
def test_what_does_not_go_with_the_lab_is_refused(flags, tmp_path, capsys):
    command = f"evaluate {PRETRAINED / 'reacher'} --full {flags} --out {tmp_path / 'out'}"
    assert main(command.split()) == 2
    assert flags.split()[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_published_protocol_is_named_in_the_result(tmp_path):
    command = f"evaluate {PRETRAINED / 'reacher'} {TOY} --protocol lewm --no-oracle"
    assert main([*command.split(), "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["protocol"]["name"] == "lewm"
    assert result["protocol"]["already_solved"].keys() == {"rate", "low", "high"}
    assert result["budget_steps"] == 50


def test_evaluations_are_compared_from_their_files(looked_into, tmp_path, capsys):
    result, out = looked_into
    worse = result | {"success_at_end": result["success_at_end"] | {"rate": 0.0}}
    worse["by_episode"] = result["by_episode"] | {"held": [False] * 4}
    other = result | {"manifest": "0" * 64}
    for name, content in (("worse", worse), ("other", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    places = f"{out} {out / 'result.json'} {tmp_path / 'worse.json'} {tmp_path / 'other.json'}"
    assert main(f"compare {places} --out {tmp_path / 'comparison'}".split()) == 0
    found = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    first, same, worse, other = found["results"]
    assert first["paired"] is other["paired"] is None  # the latter has other episodes
    assert same["paired"]["difference"] == same["paired"]["low"] == same["paired"]["high"] == 0
    assert worse["paired"]["lost"] == sum(result["by_episode"]["held"])
    page = (tmp_path / "comparison" / "comparison.html").read_text()
    assert page.count(str(tmp_path / "worse.json")) >= 2
    assert "interquartile mean" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(looked_into, tmp_path, capsys):
    result, out = looked_into
    (tmp_path / "a.json").write_text(json.dumps(result | {"episodes": 5}))
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "c.json").write_text(json.dumps(result | {"planner": None}))
    for places, said in (
        (f"{out}", "at least two"),
        (f"{out} {tmp_path / 'none'}", "no result.json"),
        (f"{out} {tmp_path / 'a.json'}", "damaged"),
        (f"{out} {tmp_path / 'b.json'}", "is damaged"),
        (f"{out} {tmp_path / 'c.json'}", "is damaged"),
    ):
        assert main(f"compare {places} --out {tmp_path / 'comparison'}".split()) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "comparison").exists()


# ------------------------------------------------------------------------ what a browser shows


@contextmanager
def opened_offline(browser, path: Path):
    """Yield a page that is cut off from everything but its own file and may not complain."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.context.set_offline(True)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert all(url == path.as_uri() or url.startswith("data:") for url in asked)
    assert not complaints


def assert_legible(page) -> None:
    """Nothing is wider than the page, and every figure is drawn, near the size it was made for."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    for figure in page.locator("svg").all():
        shown = np.asarray(Image.open(io.BytesIO(figure.screenshot())).convert("L"), float)
        assert shown.std() > 5, "the figure is blank"
        scale = figure.evaluate("it => it.getBoundingClientRect().width / it.width.baseVal.value")
        assert scale > 0.8


def test_a_browser_shows_the_report_without_a_network_and_plays_its_episodes(looked_into, browser):
    result, out = looked_into
    with opened_offline(browser, out / "report.html") as page:
        headline = f"{100 * result['success_at_end']['rate']:.1f} %"
        assert page.locator(".headline").inner_text() == headline
        assert page.locator("svg").count() >= len(result["lab"])
        assert_legible(page)
        films = page.locator("video").all()
        assert len(films) > 1
        for film in films:
            film.evaluate("it => it.play()")
            page.wait_for_function("it => it.currentTime > 0.2", arg=film.element_handle())
            pixels = np.asarray(Image.open(io.BytesIO(film.screenshot())), float)
            assert pixels.std() > 5, "the film is blank"
            assert film.evaluate("it => it.videoWidth") > 100


def test_a_browser_shows_a_comparison_without_a_network(looked_into, tmp_path, browser):
    out = looked_into[1]
    places = f"{out} {PRETRAINED / 'reacher' / 'result.json'}"
    assert main(f"compare {places} --out {tmp_path}".split()) == 0
    with opened_offline(browser, tmp_path / "comparison.html") as page:
        assert page.locator("h1").inner_text() == "Comparison of 2 evaluations"
        assert page.locator("table").first.locator("tr").count() == 3
        assert_legible(page)
