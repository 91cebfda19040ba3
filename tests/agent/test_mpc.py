"""The agent acts on what it sees, keeps its state in the caller's hands, and says what is wrong."""

import re
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

import mujepa  # noqa: F401 - registers the environments
from mujepa.envs.world import World
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import make_manifest
from mujepa.evaluation.policies import OraclePolicy, RandomPolicy, ZeroPolicy
from mujepa.planners import CEM, RandomShooting
from mujepa.runtime.errors import UserError


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def run(agent, goals, pictures, seed=0):
    """The actions of one episode, (T, ...)."""
    state, actions = agent.reset(goals, seed), []
    for picture in pictures:
        state, action = agent.act(state, picture)
        actions.append(action)
    return np.stack(actions)


def test_actions_stay_within_bounds_that_are_not_symmetric(untrained, tiny):
    agent = untrained(tiny(action_low=(0.0, -5.0), action_high=(0.5, -1.0))).agent()
    actions = run(agent, images(1)[0], images(12, seed=1))
    assert actions.dtype == np.float32
    assert (actions >= [0, -5]).all()
    assert (actions <= [0.5, -1]).all()


def test_an_action_is_held_for_frame_skip_steps_and_then_chosen_anew(untrained):
    actions = run(untrained().agent(), images(1)[0], images(12, seed=1)).reshape(3, 4, 2)
    assert (actions == actions[:, :1]).all()
    assert len(np.unique(actions[:, 0], axis=0)) == 3


def test_images_between_decisions_are_ignored(untrained):
    agent, pictures = untrained().agent(), images(8, seed=1)
    blind = pictures.copy()
    blind[[1, 2, 3, 5, 6, 7]] = 0
    np.testing.assert_array_equal(
        run(agent, images(1)[0], pictures), run(agent, images(1)[0], blind)
    )


def test_the_same_seed_gives_the_same_actions_and_another_gives_others(untrained):
    agent, goal, pictures = untrained().agent(), images(1)[0], images(8, seed=1)
    first = run(agent, goal, pictures, seed=5)
    np.testing.assert_array_equal(first, run(agent, goal, pictures, seed=5))
    assert (first != run(agent, goal, pictures, seed=6)).any()


def test_an_old_state_can_be_continued_again(untrained):
    agent, pictures = untrained().agent(), images(3, seed=1)
    state, _ = agent.act(agent.reset(images(1)[0]), pictures[0])
    state = replace(state, step=4)
    _, first = agent.act(state, pictures[1])
    agent.act(state, pictures[2])
    np.testing.assert_array_equal(first, agent.act(state, pictures[1])[1])


def test_a_batch_acts_as_its_members_do_alone(untrained):
    agent, goals = untrained().agent(), images(3)
    pictures = np.stack([images(3, seed=step) for step in range(1, 9)])
    together = run(agent, goals, pictures, seed=[7, 8, 9])
    for index, seed in enumerate((7, 8, 9)):
        alone = run(agent, goals[index], pictures[:, index], seed=seed)
        np.testing.assert_allclose(together[:, index], alone, atol=1e-5)


def test_between_plans_the_last_plan_is_followed(untrained, tiny):
    agent = untrained(tiny(replan_every=3)).agent()
    state, plans, actions = agent.reset(images(1)[0]), [], []
    for picture in images(24, seed=1):
        state, action = agent.act(state, picture)
        plans.append(state.plan)
        actions.append(action)
    assert plans[0] is plans[11]
    assert plans[12] is not plans[11]
    np.testing.assert_allclose(actions[8], plans[0].actions[0, 2], atol=1e-6)


def test_it_remembers_what_it_saw_and_what_it_did(untrained):
    agent, pictures = untrained().agent(), images(8, seed=1)
    state = agent.reset(images(1)[0])
    for picture in pictures:
        state, _ = agent.act(state, picture)
    seen = agent.jepa.encode(torch.from_numpy(pictures[[0, 4]]))
    torch.testing.assert_close(state.memory.embeddings[0], seen)
    first = run(agent, images(1)[0], pictures)[0]
    np.testing.assert_allclose(state.memory.actions[0, 0], first, atol=1e-6)


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros((64, 64, 3), np.uint8), r"\(64, 64, 3\).*\(32, 32, 3\)"),
        (np.zeros((32, 32), np.uint8), r"\(32, 32\)"),
        (np.zeros((32, 32, 3), np.float32), "float32.*uint8"),
        (np.zeros((2, 32, 32, 3), np.uint8), "2 images"),
    ],
)
def test_a_wrong_image_is_named(untrained, picture, says):
    agent = untrained().agent()
    with pytest.raises(UserError, match=says):
        agent.act(agent.reset(images(1)[0]), picture)


def test_a_wrong_goal_or_number_of_seeds_is_named(untrained):
    agent = untrained().agent()
    with pytest.raises(UserError, match="goal image of type float64"):
        agent.reset(np.zeros((32, 32, 3)))
    with pytest.raises(UserError, match="2 goal images but 3 seeds"):
        agent.reset(images(2), [1, 2, 3])


def test_replanning_later_than_the_horizon_is_refused(untrained, tiny):
    with pytest.raises(UserError, match="replan_every must be from 1 to the horizon 3, got 4"):
        untrained(tiny(replan_every=4)).agent()


def test_it_acts_in_a_plain_gymnasium_loop(untrained, tiny):
    agent = untrained(tiny(observation_shape=(64, 64, 3))).agent()
    env = gymnasium.make("mujepa/Reacher-v0")
    observation, info = env.reset(seed=1)
    state, steps, over = agent.reset(info["goal_pixels"]), 0, False
    while not over:
        state, action = agent.act(state, observation["pixels"])
        assert env.action_space.contains(action)
        observation, _, _, over, info = env.step(action)
        steps += 1
    assert steps == state.step == 100
    env.close()


def test_on_the_true_simulator_the_planner_solves_the_task(world):
    """Separates planner faults from model faults."""
    small, manifest = World(world.task, 32), make_manifest(world, 10, seed=1)
    planner = CEM(horizon=4, samples=48, iterations=3, elites=8)
    outcome = run_episodes(small, OraclePolicy(world, planner), manifest)
    assert outcome.held.sum() >= 9


def test_without_knowledge_goals_are_hardly_held(world):
    small, manifest = World(world.task, 32), make_manifest(world, 40, seed=1)
    assert run_episodes(small, RandomPolicy(world), manifest).held.mean() <= 0.1
    assert not run_episodes(small, ZeroPolicy(world), manifest).reached.any()


def test_it_plans_with_a_users_own_planner_and_cost(untrained):
    class Still(RandomShooting):
        def sample(self, state, bounds, generators):
            return torch.zeros(len(generators), self.samples, *state.mean.shape[1:])

    def cost(trajectory, goal):
        return (trajectory.actions - 0.5).square().mean(dim=(-1, -2))

    agent, goal, pictures = untrained().agent(cost=cost, actor="planner"), images(1)[0], images(4)
    assert agent.configurator.cost.expression == "cost"
    np.testing.assert_allclose(run(agent, goal, pictures), 0.5, atol=0.2)
    state, _ = agent.act(agent.reset(goal), pictures[0])
    by_step = agent.configurator.cost.by_step(agent.planned_trajectory(state), state.goal)
    assert by_step.shape == (1, 1, 3)
    agent.planner = Still(horizon=3)
    np.testing.assert_array_equal(run(agent, goal, pictures), 0)
    assert "planner=Still" in repr(agent)


def test_its_representation_names_task_size_and_device(untrained):
    said = repr(untrained().agent(actor="reactive"))
    assert re.fullmatch(
        r"Agent\(task='reacher', reactive, [\d,]+ parameters, device=cpu\)", said
    ), said


def test_a_seed_may_be_a_number_of_numpy(untrained):
    agent, goals, pictures = untrained().agent(), images(2), [images(2, seed=1)]
    np.testing.assert_array_equal(
        run(agent, goals, pictures, np.int64(5)), run(agent, goals, pictures, [5, 6])
    )
