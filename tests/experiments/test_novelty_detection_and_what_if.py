"""What the experiments what_if and novelty_detection measure, where the answer is known."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from mujepa.agent.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(ROOT / "experiments"))
    yield importlib.import_module("what_if"), importlib.import_module("novelty_detection")
    sys.path.remove(str(ROOT / "experiments"))


@pytest.fixture(scope="module")
def what_if(modules):
    return modules[0]


@pytest.fixture(scope="module")
def novelty(modules):
    return modules[1]


@pytest.fixture
def answers(what_if, world):
    """Return the answers of a model that is wrong by some metres, to questions of random walks."""
    rng = np.random.default_rng(0)
    now = rng.normal(size=(6, 3))
    real = now[:, None, None] + rng.normal(size=(6, 8, 4, 3)).cumsum(axis=2)
    states = np.zeros((6, world.state_size))

    def build(wrong: float):
        imagined = real + wrong * rng.normal(size=real.shape)
        return what_if.Answers(now - 1, now, real, imagined, now, states, world)

    return build


def test_who_knows_the_truth_errs_by_nothing_and_knows_the_order(what_if, answers):
    found = what_if.errors(answers(0)) | what_if.orders(answers(0), np.random.default_rng(1))
    assert found["model share"] == found["model@4"] == 0
    assert found["model order"] == pytest.approx(1)
    assert found["model best"] == 1
    assert abs(found["others order"]) < 0.5
    assert found["still share"] == 1


def test_who_guesses_does_not(what_if, answers):
    found = what_if.errors(answers(50)) | what_if.orders(answers(50), np.random.default_rng(1))
    assert found["model share"] > 5
    assert found["model order"] < 0.5


def test_the_controls_stand_still_go_on_and_hear_of_other_acts(what_if, answers):
    asked = answers(0)
    guesses = what_if.guesses(asked)
    np.testing.assert_array_equal(guesses["still"][2, 5, 3], asked.now[2])
    np.testing.assert_allclose(guesses["linear"][2, 5, 3], asked.now[2] + 4)
    np.testing.assert_array_equal(guesses["others"][2, 5], asked.predicted[2, 4])


def test_the_order_is_spearmans(what_if):
    guess, real = np.random.default_rng(0).normal(size=(2, 5, 9, 2)).round(0)  # with ties
    expected = [
        spearmanr(guess[row, :, column], real[row, :, column]).statistic
        for row in range(5)
        for column in range(2)
    ]
    assert what_if.rank_correlation(guess, real) == pytest.approx(np.mean(expected))


def test_a_shipped_model_answers_and_its_alternatives_are_what_happens(what_if, world):
    checkpoint = load_checkpoint(ROOT / "pretrained" / "reacher", "cpu")
    config = what_if.Config(states=12, alternatives=6)
    asked, found = what_if.ask(checkpoint, config, seed=7)
    assert asked.real.shape == asked.predicted.shape == (12, 6, 5, 3)
    assert found["model share"] < 0.3
    assert found["had share"] < 0.5
    assert found["model order"] > 0.8


def test_alternatives_that_lead_to_the_same_place_are_not_ordered(what_if, answers):
    asked = answers(0)
    asked.real[0] = asked.real[0, :1]
    assert what_if.orders(asked, np.random.default_rng(1))["apart"] == pytest.approx(5 / 6)


def test_auroc_is_one_where_worlds_are_apart_and_a_half_where_they_are_not(novelty):
    usual = np.random.default_rng(0).normal(size=(40, 12))
    assert set(novelty.auroc(usual + 100, usual).values()) == {1.0}
    assert set(novelty.auroc(usual, usual).values()) == {0.5}
    later = usual.copy()
    later[:, 5:] += 100
    found = novelty.auroc(later, usual)
    assert (found["3"], found["10"]) == (0.5, 1.0)


def test_a_condition_is_called_strong_and_by_what_it_changes(novelty):
    assert novelty.strong(["mass 2", "mass 4", "colour 0.3"]) == ["mass 4", "colour 0.3"]
    kinds = [novelty.kind_of(name) for name in ("mass 4", "colour 0.3", "usual")]
    assert kinds == ["physical", "visual", "usual"]


def results(novelty, told: float, helped: float):
    """Return what one agent found, where all is told so well and an alarm helps so much."""
    looks = {str(n): told for n in (*novelty.DECISIONS, "look")}
    conditions = [novelty.named(condition) for condition in (None, *novelty.CHANGED)]
    held = {
        name: {
            mode: [True] * (10 + (0 if mode == "never" or name == "usual" else round(10 * helped)))
            + [False] * (10 - (0 if mode == "never" or name == "usual" else round(10 * helped)))
            for mode in novelty.MODES
        }
        for name in conditions
    }
    names = [
        novelty.named((name, value)) for name, values in novelty.LEVELS.items() for value in values
    ]
    return {
        "auroc": {name: dict.fromkeys(novelty.SIGNALS, looks) for name in names},
        "false alarms": 0.01,
        "held": held,
        "planned": {name: dict.fromkeys(novelty.MODES, 0.5) for name in conditions},
    }


@pytest.mark.parametrize(
    ("told", "helped", "verdict"),
    [(0.95, 0.5, "holds"), (0.95, 0.0, "holds in part"), (0.6, 0.0, "fails")],
)
def test_the_verdict_on_novelty_is_that_of_its_bar(novelty, told, helped, verdict):
    found = {"reacher": [results(novelty, told, helped)] * 3}
    rows = {"reacher": novelty.summarise(found["reacher"])}
    assert novelty.conclude(rows, found).verdict == verdict


def test_an_alarm_that_costs_success_in_the_usual_world_does_not_help(novelty):
    one = results(novelty, 0.95, 0.5)
    one["held"]["usual"]["slow"] = [True] * 9 + [False] * 11
    found = {"reacher": [one] * 3}
    finding = novelty.conclude({"reacher": novelty.summarise(found["reacher"])}, found)
    assert finding.verdict == "holds in part"
    assert not finding.figures["passes"]["slow on alarm helps"]
