"""The alarm: what sets it off, what the agent then does, and that it is not there by default."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mujepa.agent.alarm import Alarm, surprise
from mujepa.agent.memory import Memory
from mujepa.cli.main import main
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy
from mujepa.evaluation.watching import EPISODES, listen, usual_threshold
from mujepa.runtime.errors import UserError

ALWAYS, NEVER = 0.0, math.inf


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def act(agent, goals, films, seed=0):
    """The states at the looks and the actions of an episode; films are (looks, ...) images."""
    state, states, actions = agent.reset(goals, seed), [], []
    for film in films:
        for _ in range(agent.frame_skip):
            state, action = agent.act(state, film)
        states.append(state)
        actions.append(action)
    return states, np.stack(actions)


@pytest.fixture
def agent(untrained, tiny):
    """Return an agent that follows its plans for three steps, with an alarm."""
    checkpoint = untrained(tiny(replan_every=3))
    return lambda *alarm, **other: checkpoint.agent(alarm=Alarm(*alarm) if alarm else None, **other)


def test_surprise_is_the_squared_error_of_what_was_predicted(untrained):
    jepa = untrained().networks.jepa
    torch.manual_seed(0)
    memory = Memory(torch.randn(3, 2, 8), torch.randn(3, 1, 2))
    action, seen = torch.randn(3, 2), torch.randn(3, 8)
    expected = jepa.unroll(memory, action[:, None])[:, 0]
    torch.testing.assert_close(
        surprise(jepa, memory, action, seen), ((expected - seen) ** 2).mean(dim=1)
    )
    assert surprise(jepa, memory, action, expected).max() == 0


def test_an_agent_remembers_its_surprise_about_the_latest_image(agent):
    states, _ = act(agent(NEVER, "slow"), images(1)[0], images(3, seed=1))
    assert states[0].surprise is None  # nothing led to the first image
    before, after = states[:2]
    found = surprise(agent().jepa, before.memory, before.action, after.memory.embeddings[:, -1])
    torch.testing.assert_close(after.surprise, found)


@pytest.mark.parametrize("response", ["slow", "replan"])
def test_an_alarm_that_never_rings_changes_nothing(agent, response):
    films = images(7, seed=1)
    _, without = act(agent(), images(1)[0], films)
    _, silent = act(agent(NEVER, response), images(1)[0], films)
    np.testing.assert_array_equal(silent, without)


def test_without_an_alarm_nothing_is_predicted_beside_the_plan(agent):
    states, _ = act(agent(), images(1)[0], images(3, seed=1))
    assert all(state.surprise is None for state in states)


def test_replanning_always_is_planning_at_every_step(agent, untrained, tiny):
    films = images(7, seed=1)
    _, often = act(untrained(tiny()).agent(), images(1)[0], films)
    _, alarmed = act(agent(ALWAYS, "replan"), images(1)[0], films)
    np.testing.assert_array_equal(alarmed, often)


def test_a_surprise_brings_a_new_plan_before_its_time_and_no_other(agent):
    goal, films = images(1)[0], images(4, seed=1)
    heard = float(act(agent(NEVER, "slow"), goal, films[:2])[0][1].surprise)
    wary, calm = agent(0.999 * heard, "replan", 1), agent(1.001 * heard, "replan", 1)
    states, _ = act(wary, goal, films)
    assert states[1].planned_at == 1
    assert states[3].planned_at == 3  # the usual time, which the alarm does not move
    states, _ = act(calm, goal, films[:2])
    assert states[1].plan is states[0].plan


def test_it_stays_set_off_for_so_many_looks_after_the_last_surprise():
    alarm, left, seen = Alarm(1.0, looks=3), None, []
    for surprises in ([0.5, 2.0], [0.5, 0.5], [2.0, 2.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]):
        left = alarm.next(left, torch.tensor(surprises))
        seen.append((left > 0).tolist())
    assert list(zip(*seen, strict=True)) == [
        (False, False, True, True, True, False), (True, True, True, True, True, False)
    ]  # fmt: skip


def test_a_slow_step_is_half_of_the_action_towards_what_does_nothing(untrained, tiny):
    bounds = {"action_low": (0.0, -1.0), "action_high": (0.5, 1.0)}  # 0 is a bound of the first
    checkpoint = untrained(tiny(**bounds))
    goal, films = images(1)[0], images(2, seed=1)
    _, fast = act(checkpoint.agent(), goal, films)
    states, slow = act(checkpoint.agent(alarm=Alarm(ALWAYS, "slow")), goal, films)
    np.testing.assert_array_equal(slow[0], fast[0])
    np.testing.assert_allclose(slow[1], fast[1] / 2, atol=1e-6)
    unit = 2 * (slow[1] - [0, -1]) / np.array([0.5, 2]) - 1
    np.testing.assert_allclose(states[1].action[0], unit, atol=1e-6)  # what it will remember


@pytest.mark.parametrize("response", ["slow", "replan"])
def test_an_alarm_in_one_environment_leaves_the_others_alone(agent, response):
    goals = images(3)
    films = np.stack([images(3, seed=step) for step in range(1, 6)])
    heard = torch.cat(
        [s.surprise for s in act(agent(NEVER, "slow"), goals, films, [7, 8, 9])[0][1:]]
    )
    wary = agent(float(heard.median()), response)  # rings in some of them, some of the time
    _, together = act(wary, goals, films, seed=[7, 8, 9])
    for index, seed in enumerate((7, 8, 9)):
        _, alone = act(wary, goals[index], films[:, index], seed=seed)
        np.testing.assert_allclose(together[:, index], alone, atol=1e-5)


def test_a_reactive_agent_can_slow_down_but_has_no_plan_to_renew(agent):
    _, fast = act(agent(mode="reactive"), images(1)[0], images(2, seed=1))
    _, slow = act(agent(ALWAYS, "slow", mode="reactive"), images(1)[0], images(2, seed=1))
    np.testing.assert_allclose(slow[1], fast[1] / 2, atol=1e-6)
    with pytest.raises(UserError, match="needs a planner"):
        agent(NEVER, "replan", mode="reactive")


def test_an_alarm_that_cannot_change_anything_is_refused(untrained):
    with pytest.raises(UserError, match="replan_every above 1; got replan_every 1"):
        untrained().agent(alarm=Alarm(1.0, "replan"))


@pytest.mark.parametrize(
    "changes", [{"threshold": -1.0}, {"threshold": math.nan}, {"share": 2.0}, {"looks": 0}]
)
def test_an_impossible_alarm_is_refused(changes):
    with pytest.raises(ValueError, match="threshold must not be negative"):
        replace(Alarm(1.0), **changes)


def test_a_threshold_is_what_one_usual_look_in_so_many_is_above(untrained, tiny, world):
    checkpoint = untrained(tiny(observation_shape=(64, 64, 3)))
    agent = checkpoint.agent(mode="reactive", alarm=Alarm(NEVER, "slow"))
    low, high = (usual_threshold(agent, world, 0, share) for share in (0.5, 0.1))
    assert 0 < low < high
    policy, heard = listen(agent)
    run_episodes(world.task, 64, policy, make_manifest(world, EPISODES, seed=0))
    assert float((torch.cat(heard) > high).float().mean()) == pytest.approx(0.1, abs=0.03)


def test_listening_changes_nothing(untrained, tiny, world):
    checkpoint = untrained(tiny(observation_shape=(64, 64, 3)))
    manifest = make_manifest(world, 2, seed=0)
    policy, heard = listen(checkpoint.agent(alarm=Alarm(NEVER, "slow")))
    watched = run_episodes(world.task, 64, policy, manifest)
    alone = run_episodes(world.task, 64, AgentPolicy(checkpoint.agent()), manifest)
    np.testing.assert_array_equal(watched.states, alone.states)
    assert len(heard) == world.task.budget_steps // world.task.frame_skip - 1


def test_evaluate_sets_the_threshold_and_says_how_often_it_was_set_off(tmp_path, capsys):
    pretrained = Path(__file__).parents[2] / "pretrained" / "reacher"
    toy = "--episodes 4 --no-oracle --samples 8 --iterations 1 --device cpu --actor reactive"
    command = f"evaluate {pretrained} {toy} --replan-every 3 --alarm slow --vary colour=1"
    assert main([*command.split(), "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["planner"]["replan_every"] == 3
    assert result["alarm"]["response"] == "slow"
    assert result["alarm"]["rang"] > 0.5  # it has never seen such colours
    assert "alarm: set off at" in capsys.readouterr().out
