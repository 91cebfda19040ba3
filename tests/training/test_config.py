"""A recipe changes what was not given; the command line has the flags that people need."""

from dataclasses import replace
from pathlib import Path

import pytest

from mujepa.envs.registry import TASKS
from mujepa.runtime.command import flag_names, read
from mujepa.runtime.errors import UserError
from mujepa.training.config import TrainConfig
from mujepa.training.recipes import RECIPES, apply_recipe, recipe_of


def test_recipes_are_of_our_tasks_and_change_something():
    assert RECIPES.keys() <= TASKS.keys()
    for task, recipe in RECIPES.items():
        plain = TrainConfig(task, Path("run"))
        assert apply_recipe(plain, recipe) != plain


def test_what_the_user_gives_has_the_last_word_even_if_it_is_a_default():
    config = read(TrainConfig, ["pendulum", "--out", "run", "--planner.horizon", "5"])
    assert (config.planner.horizon, config.critic.history) == (5, 2)
    assert config.resolved() == config


def test_in_python_the_recipe_replaces_defaults_alone():
    config = TrainConfig("cartpole", Path("run"), updates=7).resolved()
    assert (config.updates, config.critic_updates, config.planner.samples) == (7, 3000, 128)
    kept = TrainConfig("cartpole", Path("run"), recipe=False).resolved()
    assert kept.planner.samples == 64


def test_a_task_of_ones_own_can_hold_a_recipe():
    class Own(type(TASKS["reacher"])):
        recipe = {"planner": {"horizon": 9}}  # noqa: RUF012

    assert recipe_of(replace(Own(), name="own")) == {"planner": {"horizon": 9}}
    assert recipe_of(TASKS["reacher"]) == {}


def test_there_are_at_most_45_flags():
    assert len(list(flag_names(TrainConfig))) <= 45


def test_a_setting_without_a_flag_is_not_read_from_the_command_line():
    with pytest.raises(UserError, match="unknown flag --critic-batch"):
        read(TrainConfig, ["reacher", "--out", "run", "--critic-batch", "8"])


def test_a_critic_of_seen_steps_needs_some():
    loss = replace(TrainConfig("reacher", Path("run")).critic_loss, bellman=1.0)
    with pytest.raises(UserError, match="bellman needs starts that were seen"):
        TrainConfig("reacher", Path("run"), critic_loss=loss, imagined=1.0)
