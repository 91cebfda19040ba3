"""A cost is a readable sum of small terms."""

import re
from itertools import pairwise

import pytest
import torch

from mujepa.agent.cost import Cost, Goal, Trajectory
from mujepa.agent.critic import Critic, CriticConfig
from mujepa.agent.memory import Memory
from mujepa.agent.probe import LinearProbe
from mujepa.runtime.errors import UserError


@pytest.fixture(params=[1, 2])
def critic(request):
    torch.manual_seed(0)
    return Critic(CriticConfig(history=request.param, width=16, features=4), dim=3)


@pytest.fixture
def trajectory():
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(2, 5, 4, 3, generator=generator)
    actions = torch.rand(2, 5, 4, 2, generator=generator)
    past = torch.randn(2, 2, 3, generator=generator)
    return Trajectory(embeddings, actions, Memory(past, torch.rand(2, 1, 2, generator=generator)))


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
        ("goal.max", lambda d: d.max(-1).values),
    ],
)
def test_an_expression_means_what_it_says(expression, reduce, critic, trajectory, goal):
    cost = Cost(expression, critic)(trajectory, goal)
    torch.testing.assert_close(cost, reduce(slow_distances(trajectory, goal)))


def test_the_cost_of_each_step_is_the_weighted_sum_of_the_terms_there(critic, trajectory, goal):
    by_step = Cost("2*goal.min + 0.5*goal.last", critic).by_step(trajectory, goal)
    torch.testing.assert_close(by_step, 2.5 * slow_distances(trajectory, goal))


def test_the_critic_term_is_the_critic_on_every_step(critic, trajectory, goal):
    with torch.no_grad():
        now = trajectory.memory.embeddings[:, -1:].expand(-1, 5, -1)
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
    "expression",
    [
        "", "gaol", "goal.median", "goal +", "two*goal", "-1*goal", "goal*2", "a-b", "avoid",
        "avoid()", "goal(x>1)", "1e400*goal", "avoid(x>1", "avoid(x>1)",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(expression, critic):
    with pytest.raises(UserError, match="cannot read") as caught:
        Cost(expression, critic)
    assert "goal, goal_l1, goal_cosine, critic, effort" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_other_distances_to_the_goal_and_smoothness_equal_slow_references(
    critic, trajectory, goal
):
    target = {"goal_l1": [], "goal_cosine": [], "smoothness": []}
    for row in range(2):
        for candidate in range(5):
            z, g = trajectory.embeddings[row, candidate], goal.embedding[row]
            target["goal_l1"].append(torch.stack([(e - g).abs().mean() for e in z]).mean())
            cosines = [e @ g / (e.norm() * g.norm()) for e in z]
            target["goal_cosine"].append(1 - torch.stack(cosines).mean())
            taken = [trajectory.memory.actions[row, -1], *trajectory.actions[row, candidate]]
            changes = [(b - a).square().mean() for a, b in pairwise(taken)]
            target["smoothness"].append(torch.stack(changes).mean())
    for name, values in target.items():
        got = Cost(name, critic)(trajectory, goal)
        torch.testing.assert_close(got, torch.stack(values).reshape(2, 5))


@pytest.fixture
def probe():
    """A probe that reads the three numbers of an embedding as they are."""
    probe = LinearProbe(3, ("tip.x", "tip.z", "grip"))
    probe.weight.copy_(torch.eye(3))
    return probe


@pytest.mark.parametrize(
    ("region", "depth"),
    [
        ("tip.x>0.1", lambda z: z[..., 0] - 0.1),
        ("x > 0.1", lambda z: z[..., 0] - 0.1),
        ("grip<-.2", lambda z: -0.2 - z[..., 2]),
        ("z<1e-1 & grip>0", lambda z: torch.minimum(0.1 - z[..., 1], z[..., 2])),
    ],
)
def test_avoid_counts_how_deep_in_the_region_each_step_is_and_reach_how_far_from_it(
    region, depth, critic, probe, trajectory, goal
):
    cost = Cost(f"2*avoid({region})", critic, probe)
    expected = 2 * depth(trajectory.embeddings).clamp(min=0).mean(-1)
    assert bool((expected > 0).any())
    torch.testing.assert_close(cost(trajectory, goal), expected)
    assert [one.text for one in cost.regions] == [region.replace(" ", "")]
    reach = Cost(f"2*reach({region})", critic, probe)
    missing = 2 * (-depth(trajectory.embeddings)).clamp(min=0).mean(-1)
    assert bool((missing > 0).any())
    torch.testing.assert_close(reach(trajectory, goal), missing)
    assert not reach.regions


def test_avoid_stands_beside_other_terms_and_has_an_aggregate(critic, probe, trajectory, goal):
    cost = Cost("goal.last + 5*avoid(x>0.1 & z<0).max + 0.1*effort", critic, probe)
    assert cost.weights == {"goal.last": 1.0, "avoid(x>0.1&z<0).max": 5.0, "effort.mean": 0.1}
    parts = cost.parts(trajectory, goal)
    total = parts["goal.last"] + 5 * parts["avoid(x>0.1&z<0).max"] + 0.1 * parts["effort.mean"]
    torch.testing.assert_close(cost(trajectory, goal), total)


@pytest.mark.parametrize(
    ("region", "complaint"),
    [
        ("y>0.1", "'y' is none of the quantities that can be read: tip.x, tip.z, grip"),
        ("x=0.1", "cannot read condition 'x=0.1'"),
        ("x>one", "cannot read condition 'x>one'"),
        ("x>1e999", "bound 1e999 is not finite"),
        ("x>1&", "cannot read condition ''"),
    ],
)
def test_a_region_that_cannot_be_read_is_named(region, complaint, critic, probe):
    with pytest.raises(UserError, match=re.escape(complaint)):
        Cost(f"avoid({region})", critic, probe)


def test_a_name_that_two_quantities_share_is_refused(critic):
    with pytest.raises(UserError, match=re.escape("'x' is several of the quantities")):
        Cost("avoid(x>0)", critic, LinearProbe(3, ("ball.x", "cup.x")))


def test_state_is_the_distance_in_what_the_probe_reads(critic, trajectory, goal):
    torch.manual_seed(3)
    probe = LinearProbe(3, ("tip.x", "tip.y", "ball.x"))
    probe.weight.normal_()
    read, target = probe(trajectory.embeddings), probe(goal.embedding)[:, None, None]
    for text, indices in (("tip", [0, 1]), ("tip.y, ball.x", [1, 2]), ("y", [1])):
        away = (read - target)[..., indices].square().sum(dim=-1).sqrt()
        cost = Cost(f"2*state({text}).min", critic, probe)(trajectory, goal)
        torch.testing.assert_close(cost, 2 * away.amin(dim=-1))
    for text in ("x", "nose"):
        with pytest.raises(UserError, match=f"{text!r} is (several|none)"):
            Cost(f"state({text})", critic, probe)


def test_what_takes_no_argument_or_needs_one_is_said(critic):
    probe = LinearProbe(3, ("tip.x", "tip.y", "ball.x"))
    for text in ("goal(tip)", "state", "state()", "avoid", "reach", "nothing(tip)"):
        with pytest.raises(UserError, match="cannot read"):
            Cost(text, critic, probe)
