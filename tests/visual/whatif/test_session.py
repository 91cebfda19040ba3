"""The what-if session: what a change of the state does to both futures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.evaluation.manifest import make_manifest
from mujepa.runtime.errors import UserError
from mujepa.visual.whatif.joints import joint_sliders
from mujepa.visual.whatif.session import Session
from mujepa.visual.whatif.whatif_state import write_state

REACHER = Path(__file__).parents[3] / "pretrained" / "reacher"


@pytest.fixture(scope="module")
def session(world):
    return Session(load_checkpoint(REACHER, "cpu"), world)


@pytest.fixture(scope="module")
def state(session):
    return session.plan(session.step(session.plan(session.episode(3))))


def test_a_changed_action_changes_both_futures_from_its_step_on_and_not_before(session, state):
    changed = session.set_action(state, 1, 0, -0.9)
    assert changed.sequence[1, 0] == np.float32(-0.9)
    one, other = session.futures(state), session.futures(changed)
    np.testing.assert_array_equal(one.states[:2], other.states[:2])
    for kind in ("real", "imagined"):
        now, then = getattr(one, kind), getattr(other, kind)
        assert (now.embeddings[:2] == then.embeddings[:2]).all()
        assert (now.distance[:2] == then.distance[:2]).all()
        for step in range(2, session.horizon + 1):
            assert (now.embeddings[step] != then.embeddings[step]).any()
            assert now.distance[step] != then.distance[step]
            assert (now.path[step] != then.path[step]).any()
        assert now.costs[0] == then.costs[0]
        assert now.cost != then.cost


def test_an_action_is_clipped_to_the_bounds_and_an_invalid_one_is_refused(session, state):
    assert session.set_action(state, 0, 1, 7.0).sequence[0, 1] == 1
    for step, action, value in ((9, 0, 0.0), (-1, 0, 0.0), (0, 2, 0.0), (0, 0, float("nan"))):
        with pytest.raises(UserError, match="steps"):
            session.set_action(state, step, action, value)


def test_the_real_future_is_the_simulators_and_a_step_leads_to_its_next_state(session, state):
    expected, last = session.futures(state).states, state.current[None]
    for action in state.sequence:
        for _ in range(session.checkpoint.config.frame_skip):
            last = session.world.step(last, session.world.from_unit(action)[None])
    np.testing.assert_array_equal(expected[-1], last[0])
    after = session.step(state)
    np.testing.assert_array_equal(after.current, expected[1])
    np.testing.assert_array_equal(after.sequence[:-1], state.sequence[1:])
    np.testing.assert_array_equal(after.taken[-1], state.sequence[0])
    np.testing.assert_array_equal(session.futures(after).states[:-1], expected[1:])
    assert after.step == state.step + 1


def test_the_memory_is_the_agents_own(session):
    state, agent, world = session.episode(0), session.checkpoint.agent(), session.world
    agent_state = agent.reset(world.render(state.goal[None])[0])
    for _ in range(4):
        image = world.render(state.current[None])[0]
        for _ in range(agent.frame_skip):
            agent_state, _ = agent.act(agent_state, image)
        memory, expected = session._memory(state), agent_state.memory
        torch.testing.assert_close(memory.embeddings, expected.embeddings, atol=1e-4, rtol=0)
        torch.testing.assert_close(memory.actions, expected.actions, atol=0, rtol=0)
        for action, value in enumerate(agent_state.action[0]):
            state = session.set_action(state, 0, action, float(value))
        state = session.step(state)


def test_a_plan_costs_no_more_than_the_sequence_before(session):
    for number in range(3):
        state = session.set_action(session.episode(number), 0, 0, 0.3)
        planned = session.plan(state)
        futures = session.futures(planned)
        assert futures.imagined.cost <= futures.before.cost
        assert futures.before.cost == session.futures(state).imagined.cost
        np.testing.assert_array_equal(planned.before, state.sequence)


def test_a_perturbation_changes_one_velocity_of_the_current_state_and_nothing_else(session, state):
    pushed = session.perturb(state, 1, 2.5)
    velocity = 1 + session.world.model.nq + 1
    difference = pushed.states - state.states
    assert difference[-1, velocity] == pytest.approx(2.5)
    assert np.count_nonzero(difference) == 1
    np.testing.assert_array_equal(pushed.sequence, state.sequence)
    one, other = session.futures(state), session.futures(pushed)
    assert (one.states[1] != other.states[1]).any()
    assert (one.imagined.embeddings == other.imagined.embeddings).all()  # no image showed it yet
    one, other = (session.futures(session.step(each)) for each in (state, pushed))
    assert (one.imagined.embeddings != other.imagined.embeddings).any()


def test_an_invalid_cost_is_refused_and_another_one_changes_the_costs_by_step(session, state):
    with pytest.raises(UserError, match="cannot read 'nonsense'"):
        session.set_cost(state, "critic + nonsense")
    future = session.futures(session.set_cost(state, "0.5*goal + 2*effort")).imagined
    assert future.cost != session.futures(state).imagined.cost
    assert future.costs.mean() == pytest.approx(future.cost, rel=1e-5)
    last = session.futures(session.set_cost(state, "goal.last")).imagined
    assert last.costs[-1] == pytest.approx(last.cost, rel=1e-6)


def test_the_start_can_be_posed_and_the_goal_set_to_the_current_pose(session, state):
    sliders = {slider.name: slider for slider in joint_sliders(session.world)}
    assert sliders.keys() == {"shoulder", "elbow"}
    assert sliders["elbow"].high == pytest.approx(2.7)
    posed = session.set_start_position(state, sliders["elbow"].index, 1.25)
    assert posed.current[1 + sliders["elbow"].index] == 1.25
    assert posed.step == 0
    reached = session.set_goal_to_current(state)
    assert session.futures(reached).real.distance[0] == pytest.approx(0, abs=1e-9)


def test_episodes_are_those_of_the_evaluation(session):
    for number, episode in enumerate(make_manifest(session.world, 3, 0).episodes):
        np.testing.assert_array_equal(session.episode(number).start, episode.start)
        np.testing.assert_array_equal(session.episode(number).goal, episode.goal)
    with pytest.raises(UserError, match="no episode -1"):
        session.episode(-1)


def test_a_state_written_and_read_is_the_same_with_the_same_futures_and_plan(session, state):
    written = json.loads(json.dumps(write_state(state, "reacher")))
    again = session.read(written)
    assert write_state(again, "reacher") == written
    one, other = session.futures(state), session.futures(again)
    np.testing.assert_array_equal(one.states, other.states)
    assert (one.imagined.embeddings == other.imagined.embeddings).all()
    np.testing.assert_array_equal(session.plan(state).sequence, session.plan(again).sequence)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 0), ("task", "cube"), ("sequence", [[0, 0]]), ("sequence", [[2, 0]] * 5),
        ("states", []), ("states", [["x"] * 5]), ("start", [1e999] * 5), ("goal", {}),
        ("step", -1), ("step", True), ("cost", "nonsense"), ("cost", 3), ("taken", [[0, 0]] * 9),
        ("taken", [[0], [0, 0]]), ("before", 7),
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused(session, state, key, value):
    with pytest.raises(UserError):
        session.read(write_state(state, "reacher") | {key: value})
    for nothing in (None, [], "text", {}):
        with pytest.raises(UserError, match="no what-if state"):
            session.read(nothing)
