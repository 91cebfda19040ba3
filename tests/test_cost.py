"""A cost is a readable sum of small terms."""

from itertools import pairwise

import pytest
import torch

from mujepa.agent.cost import Cost, Goal, Trajectory
from mujepa.agent.critic import Critic, CriticConfig
from mujepa.errors import UserError


@pytest.fixture(params=[1, 2])
def critic(request):
    torch.manual_seed(0)
    return Critic(CriticConfig(history=request.param, width=16, features=4), dim=3)


@pytest.fixture
def trajectory():
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(2, 5, 4, 3, generator=generator)
    actions = torch.rand(2, 5, 4, 2, generator=generator)
    return Trajectory(embeddings, actions, torch.randn(2, 3, generator=generator))


@pytest.fixture
def goal(critic):
    embedding = torch.randn(2, 3, generator=torch.Generator().manual_seed(2))
    return Goal(embedding, critic.features(embedding, embedding))


def slow_distances(trajectory, goal):
    """Mean squared difference, one embedding at a time, (B, N, H)."""
    batch, candidates, horizon, _ = trajectory.embeddings.shape
    rows = [
        ((trajectory.embeddings[b, n, h] - goal.embedding[b]) ** 2).mean()
        for b in range(batch)
        for n in range(candidates)
        for h in range(horizon)
    ]
    return torch.stack(rows).reshape(batch, candidates, horizon)


@pytest.mark.parametrize(
    ("expression", "reduce"),
    [
        ("goal", lambda d: d.mean(-1)),
        ("goal.mean", lambda d: d.mean(-1)),
        ("goal.last", lambda d: d[..., -1]),
        ("goal.min", lambda d: d.min(-1).values),
        ("0.5*goal.last", lambda d: 0.5 * d[..., -1]),
        ("goal.last + 2*goal.min", lambda d: d[..., -1] + 2 * d.min(-1).values),
        (" 1e-1 * goal ", lambda d: 0.1 * d.mean(-1)),
    ],
)
def test_an_expression_means_what_it_says(expression, reduce, critic, trajectory, goal):
    cost = Cost(expression, critic)(trajectory, goal)
    torch.testing.assert_close(cost, reduce(slow_distances(trajectory, goal)))


def test_the_critic_term_is_the_critic_on_every_step(critic, trajectory, goal):
    with torch.no_grad():
        now = trajectory.now[:, None].expand(-1, 5, -1)
        steps = [now, *trajectory.embeddings.unbind(2)]
        pairs = torch.stack([torch.stack(pair, -2) for pair in pairwise(steps)], dim=2)
        goals = goal.embedding[:, None, None, None].expand_as(pairs)
        expected = critic(pairs, goals).mean(-1)
        torch.testing.assert_close(Cost("critic", critic)(trajectory, goal), expected)


def test_effort_is_the_squared_action(critic, trajectory, goal):
    expected = (trajectory.actions**2).mean(-1).mean(-1)
    torch.testing.assert_close(Cost("effort", critic)(trajectory, goal), expected)


def test_parts_are_unweighted_and_weights_are_applied_once(critic, trajectory, goal):
    cost = Cost("3*goal + 0.2*effort", critic)
    parts = cost.parts(trajectory, goal)
    total = 3 * parts["goal.mean"] + 0.2 * parts["effort.mean"]
    torch.testing.assert_close(cost(trajectory, goal), total)


def test_a_repeated_term_counts_each_time(critic, trajectory, goal):
    twice = Cost("goal + goal", critic)(trajectory, goal)
    torch.testing.assert_close(twice, 2 * Cost("goal", critic)(trajectory, goal))


@pytest.mark.parametrize(
    "expression", ["", "gaol", "goal.median", "goal +", "two*goal", "-1*goal", "goal*2", "a-b"]
)
def test_what_cannot_be_read_is_named(expression, critic):
    with pytest.raises(UserError, match="cannot read") as caught:
        Cost(expression, critic)
    assert "goal, critic, effort" in str(caught.value)
    assert "\n" not in str(caught.value)
