"""The stepping loop, its episodes, and what counts as success."""

import numpy as np

from mujepa.evaluation import loop
from mujepa.evaluation.loop import Outcome, run_episodes, step_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import AgentPolicy, RandomPolicy
from mujepa.evaluation.trace import trace_episode


def test_success_at_the_end_has_to_be_held():
    distance = np.full((4, 6), 1.0)
    distance[0] = 0.1  # always at the goal
    distance[1, -1] = 0.1  # at the last moment only
    distance[2, :3] = 0.1  # at first, but not at the end
    nothing = np.zeros((4, 6, 1), np.float32)
    outcome = Outcome(distance, np.zeros((4, 7, 1)), nothing, tolerance=0.1, hold_steps=2)
    assert outcome.held.tolist() == [True, False, False, False]
    assert outcome.reached.tolist() == [True, True, True, False]
    summary = outcome.summary()
    assert (summary.success_at_end.rate, summary.success_any.rate) == (0.25, 0.75)


def test_more_episodes_of_a_seed_only_append_and_another_seed_gives_others(world):
    four, six, other = (make_manifest(world, *args) for args in ((4, 0), (6, 0), (4, 1)))
    assert len({four.digest, six.digest, other.digest}) == 3
    assert (four.seeds, four.digests) == (six.seeds[:4], six.digests[:4])
    assert not set(four.digests) & set(other.digests)
    assert [states.tolist() for states in four.ends] == [s.tolist() for s in six.first(4).ends]


def test_the_size_of_batches_does_not_change_what_a_policy_without_networks_does(
    world, monkeypatch
):
    world = type(world)(world.task, 8)
    manifest, policy, steps = make_manifest(world, 3, 0), RandomPolicy(world), []
    whole = run_episodes(world, policy, manifest, lambda: steps.append(1))
    monkeypatch.setattr(loop, "BATCH", 2)
    parts = run_episodes(world, policy, manifest, lambda: steps.append(1))
    np.testing.assert_array_equal(whole.states, parts.states)
    np.testing.assert_array_equal(whole.distance, parts.distance)
    assert len(steps) == 3 * world.task.budget_steps


def test_a_trace_holds_the_episode_that_the_loop_runs(untrained, world):
    agent, manifest = untrained().agent(cost="goal"), make_manifest(world, 1, 3)
    small = type(world)(world.task, 32)
    run = list(step_episodes(small, AgentPolicy(agent), manifest, steps=9))
    traced = trace_episode(agent, small, manifest.episodes[0], manifest.seeds[0], steps=9)
    np.testing.assert_array_equal(traced.states[1:], np.stack([s.states[0] for s in run]))
    np.testing.assert_array_equal(traced.distance(traced.states)[1:], [s.distance[0] for s in run])
    assert len(traced.agent_states) == 9
    assert len(traced.decisions) == len(traced.embeddings) == len(traced.actions) == 3
    assert traced.goal_image.shape == traced.images(traced.states[:1])[0].shape == (32, 32, 3)
