"""The actor acts within the bounds, proposes to the planner, or replaces it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mujepa.agent.actor import Actor, ActorConfig
from mujepa.agent.memory import Memory
from mujepa.runtime.errors import UserError


class Drift:
    """A world model that is known: the embedding moves by a tenth of the action."""

    history = 2

    def predictor(self, memory, action):
        return memory.embeddings[:, -1] + 0.1 * action


@pytest.fixture
def problems():
    """256 problems in the plane: memories and goals."""
    generator = torch.Generator().manual_seed(1)
    here, goals = torch.rand(2, 256, 2, generator=generator)
    return Memory.at_rest(here, 2, 2), goals


@pytest.fixture
def actor():
    return planar()


def planar():
    torch.manual_seed(0)
    return Actor(ActorConfig(width=32), history=2, dim=2, action_size=2)


def test_actions_are_within_the_bounds(actor, problems):
    memory, goals = problems
    far = Memory(100 * memory.embeddings, memory.actions)
    assert actor(far, 100 * goals).abs().max() <= 1


def test_its_rollout_is_what_the_model_predicts_for_its_actions(actor, problems):
    memory, goals = problems
    embeddings, actions = actor.rollout(Drift(), memory, goals, 3)
    torch.testing.assert_close(actions[:, 0], actor(memory, goals))
    path = memory.embeddings[:, -1:] + 0.1 * actions.cumsum(dim=1)
    torch.testing.assert_close(embeddings, path)


# ------------------------------------------------------------------------------ in the whole agent


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_a_reactive_agent_does_as_its_actor_says(untrained):
    checkpoint = untrained()
    agent, goal, image = checkpoint.agent(actor="reactive"), images(1)[0], images(1, seed=1)[0]
    state, action = agent.act(agent.reset(goal), image)
    assert state.plan is None
    said = checkpoint.networks.actor(state.memory, state.goal.embedding)
    np.testing.assert_allclose(action, said[0], atol=1e-6)


def test_a_prediction_is_what_the_plan_or_the_actor_leads_to(untrained):
    checkpoint, goal, image = untrained(), images(1)[0], images(1, seed=1)[0]
    for mode in ("reactive", "proposing"):
        agent = checkpoint.agent(actor=mode)
        state, _ = agent.act(agent.reset(goal), image)
        embeddings, cost = agent.predict(state)
        if mode == "reactive":
            _, actions = agent.actor.rollout(agent.jepa, state.memory, state.goal.embedding, 3)
        else:
            actions = state.plan.actions
        torch.testing.assert_close(embeddings, agent.jepa.unroll(state.memory, actions))
        judged = agent.configurator.cost_fn(state.memory, state.goal)(actions[:, None])[:, 0]
        torch.testing.assert_close(cost, judged, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="not seen an image"):
        agent.predict(agent.reset(goal))


@pytest.mark.parametrize("kind", ["icem", "gradient", "random"])
def test_a_plan_is_never_worse_than_what_the_actor_proposes(untrained, tiny, kind):
    few = tiny(planner=replace(tiny().planner, kind=kind, samples=4, iterations=1))
    checkpoint = untrained(few)
    agent, goals, pictures = checkpoint.agent(), images(4), images(4, seed=1)
    state, _ = agent.act(agent.reset(goals), pictures)
    alone = checkpoint.agent(actor="reactive")
    _, proposed = alone.predict(replace(state, plan=None))
    assert (state.plan.cost <= proposed + 1e-5).all()
    without, _ = checkpoint.agent(actor="planner").act(agent.reset(goals), pictures)
    assert (state.plan.trace.median != without.plan.trace.median).any()  # one more was looked at


def test_an_unknown_mode_and_a_reactive_agent_without_an_actor_is_refused(untrained):
    from mujepa.agent.mpc import Agent
    from mujepa.planners import make_planner

    checkpoint = untrained()
    with pytest.raises(UserError, match="no actor 'reactiv'; there are: planner, proposing, react"):
        checkpoint.agent(actor="reactiv")
    bounds = np.ones(2)
    with pytest.raises(UserError, match="needs an actor"):
        Agent(
            checkpoint.agent().configurator,
            make_planner(checkpoint.config.planner),
            -bounds,
            bounds,
            4,
            reactive=True,
        )


def test_a_cost_with_an_unknown_term_or_without_effect_is_refused(untrained):
    for cost in ("nothing", ""):
        with pytest.raises(UserError, match="cannot read"):
            untrained().agent(cost=cost)
    with pytest.raises(UserError, match="cost 'goal' does not affect a reactive actor"):
        untrained().agent(cost="goal", actor="reactive")


def test_between_plans_the_rest_of_the_plan_is_predicted(untrained, tiny):
    agent = untrained(tiny(replan_every=3)).agent()
    state = agent.reset(images(1)[0])
    for step, image in enumerate(images(12, seed=1)):
        state, _ = agent.act(state, image)
        embeddings, cost = agent.predict(state)
        left = state.plan.actions[:, step // 4 :]
        torch.testing.assert_close(embeddings, agent.jepa.unroll(state.memory, left))
        judged = agent.configurator.cost_fn(state.memory, state.goal)(left[:, None])[:, 0]
        torch.testing.assert_close(cost, judged, rtol=1e-4, atol=1e-5)
