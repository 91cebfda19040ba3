"""The terms of critic and actor are what their formulas say, and teach what they are meant to."""

import pytest
import torch

from mujepa.agent.actor import Actor, ActorConfig
from mujepa.agent.configurator import Configurator
from mujepa.agent.cost import Cost
from mujepa.agent.critic import Critic, CriticConfig
from mujepa.agent.memory import Memory
from mujepa.runtime.errors import UserError
from mujepa.training.frozen_losses import (
    ActorBatch,
    ActorLossConfig,
    CriticBatch,
    CriticLossConfig,
    imagined_cost,
)
from mujepa.training.losses import weighted_sum

LOSS = CriticLossConfig()


def make_critic(dim=4, width=32, features=8):
    torch.manual_seed(0)
    return Critic(CriticConfig(width=width, features=features), dim)


@pytest.fixture
def critic():
    return make_critic()


@pytest.fixture
def points():
    """Three times 200 pairs of frames."""
    return torch.randn(3, 200, 2, 4, generator=torch.Generator().manual_seed(1))


def at_rest(frames):
    return torch.stack([frames, frames], dim=-2)


def compute(batch):
    return batch.config.terms(batch)


def learn(module, sample, updates):
    """Train on the sum of some terms of samples."""
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(updates):
        optimizer.zero_grad()
        weighted_sum(found := compute(sample()), dict.fromkeys(found, 1.0)).backward()
        optimizer.step()
    return found


def squared_expectile(errors):
    weights = [LOSS.expectile if error > 0 else 1 - LOSS.expectile for error in errors]
    return sum(weight * error**2 for weight, error in zip(weights, errors, strict=True))


@torch.no_grad()
def test_the_critics_terms_are_the_expectile_loss_and_the_hinge(critic, points):
    a, b, c = points
    steps = torch.arange(200.0) / 20
    terms = compute(CriticBatch(LOSS, critic, a, b, c, steps))
    errors = [critic(a[i], b[i]) - steps[i] for i in range(200)]
    hinge = [max(LOSS.apart_steps - critic(a[i], c[i]), torch.tensor(0.0)) for i in range(200)]
    torch.testing.assert_close(terms["temporal"], squared_expectile(errors) / 200)
    torch.testing.assert_close(terms["apart"], torch.stack(hinge).mean())


@torch.no_grad()
def test_the_bellman_term_asks_for_one_step_more_than_from_the_next_frame(critic, points):
    a, b, c = points
    following = a[50:].flip(0)
    following[0] = a[50]  # the episode ends there
    loss = CriticLossConfig(bellman=1.0)
    terms = compute(CriticBatch(loss, critic, a, b, c, torch.ones(200), following))
    errors = [
        critic(a[50 + i], c[50 + i]) - (1 + critic(following[i], c[50 + i])) for i in range(1, 150)
    ]
    torch.testing.assert_close(terms["bellman"], squared_expectile(errors) / 150)


@torch.no_grad()
def test_the_contrastive_term_is_the_cross_entropy_of_the_own_goal(critic, points):
    a, b, c = points
    loss = CriticLossConfig(temporal=0.0, apart=0.0, contrastive=1.0)
    terms = compute(CriticBatch(loss, critic, a, b, c, torch.ones(200)))
    assert terms.keys() == {"contrastive"}
    away = torch.stack([critic(a[i].expand(200, 2, 4), b) for i in range(200)])
    rows, columns = (-torch.log_softmax(-away, dim=dim).diagonal().mean() for dim in (1, 0))
    torch.testing.assert_close(terms["contrastive"], (rows + columns) / 2)


def test_the_critic_learns_the_shortest_time_of_a_random_walk():
    """Walking a line back and forth: the time between places is their distance, no longer."""
    generator = torch.Generator().manual_seed(2)
    steps = torch.where(torch.rand(64, 60, generator=generator) < 0.7, 1, -1)
    places = steps.cumsum(dim=1).clamp(-15, 15) / 5
    walks = at_rest(torch.stack([places, places.square() / 3], dim=-1))
    critic, loss = make_critic(dim=2, width=64), CriticLossConfig(apart=0.0)

    def sample():
        walk = torch.randint(64, (256,), generator=generator)
        moments = torch.randint(60, (2, 256), generator=generator).sort(dim=0).values
        start, goal = walks[walk, moments[0]], walks[walk, moments[1]]
        return CriticBatch(loss, critic, start, goal, goal, (moments[1] - moments[0]).float())

    learn(critic, sample, updates=400)
    line = torch.linspace(-1.6, 1.6, 17)
    frames = at_rest(torch.stack([line, line.square() / 3], dim=-1))
    with torch.no_grad():
        near, far = critic(frames[8], frames[10]), critic(frames[4], frames[12])
    assert near < 5
    assert 6 < far < 16
    assert far > 2 * near


def test_of_two_times_it_learns_the_one_where_both_pulls_are_equal(critic, points):
    start, goal = points[0, :1].expand(64, -1, -1), points[1, :1].expand(64, -1, -1)
    steps, loss = torch.tensor([4.0, 12.0]).repeat(32), CriticLossConfig(apart=0.0)
    batch = CriticBatch(loss, critic, start, goal, goal, steps)
    learn(critic, lambda: batch, updates=200)
    expected = loss.expectile * 4 + (1 - loss.expectile) * 12
    assert critic(start[0], goal[0]).item() == pytest.approx(expected, abs=0.1)


def test_by_steps_alone_it_learns_a_chain_longer_than_any_walk_on_it():
    """Walks of two steps; the Bellman term joins them."""
    generator = torch.Generator().manual_seed(0)
    critic = make_critic(width=64, features=16)
    places, loss = at_rest(torch.randn(8, 4)), CriticLossConfig(apart=0.0, bellman=1.0)

    def sample():
        start = torch.randint(6, (128,), generator=generator)
        steps = torch.randint(3, (128,), generator=generator)
        goal = torch.randint(8, (128,), generator=generator)
        ends = places[start], places[start + steps], places[goal]
        # No walk went backwards: such pairs do not count, like the end of an episode.
        following = places[torch.where(goal > start, start + 1, start)]
        return CriticBatch(loss, critic, *ends, steps.float(), following)

    learn(critic, sample, updates=800)
    with torch.no_grad():
        assert critic(places[0], places[7]).item() == pytest.approx(7, abs=1.5)


# ------------------------------------------------------------------------------------ actor


class Drift:
    """A world model that is known: the embedding moves by a tenth of the action."""

    history = 2

    def predictor(self, memory, action):
        return memory.embeddings[:, -1] + 0.1 * action


@pytest.fixture
def configurator():
    critic = make_critic(dim=2, width=8, features=2)
    return Configurator(Drift(), critic, Cost("goal", critic))  # pyright: ignore


@pytest.fixture
def actor():
    torch.manual_seed(0)
    return Actor(ActorConfig(width=32), history=2, dim=2, action_size=2)


def problems(count=256, seed=1):
    """Problems in the plane: what is remembered, and goals."""
    here, goals = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(seed))
    return Memory.at_rest(here, 2, 2), goals


def to_the_right(loss, actor, configurator, followed=True, sign=1.0):
    """Problems in which the data's action was to the right."""
    right = torch.tensor([sign, 0.0]).expand(256, 2)
    there = torch.full((256,), followed)
    return ActorBatch(loss, actor, configurator, *problems(), 5, right, there)


def test_imagining_teaches_it_to_go_to_goals_that_it_was_not_taught(actor, configurator):
    batch = to_the_right(ActorLossConfig(), actor, configurator)
    learn(actor, lambda: batch, updates=300)
    others, there = problems(100, seed=2)
    with torch.no_grad():
        embeddings, _ = actor.rollout(Drift(), others, there, 12)
    ends = others.embeddings[:, -1], embeddings[:, -1]
    before, after = ((point - there).norm(dim=1) for point in ends)
    assert after.median() < 0.1 * before.median()


def test_the_data_teach_it_only_where_they_went_to_the_goal(actor, configurator):
    loss = ActorLossConfig(imagined=0.0, behaviour=1.0)
    batch = to_the_right(loss, actor, configurator)
    assert learn(actor, lambda: batch, updates=100).keys() == {"behaviour"}
    torch.testing.assert_close(actor(*problems()), batch.actions, atol=0.15, rtol=0)
    nobody = to_the_right(loss, actor, configurator, followed=False, sign=-1.0)
    assert compute(nobody)["behaviour"] == 0


@torch.no_grad()
def test_the_imagined_cost_is_that_of_the_planner(actor, configurator):
    memory, goals = problems()
    embeddings, _ = actor.rollout(Drift(), memory, goals, 4)
    cost = imagined_cost(actor, configurator, memory, configurator.goal_from_embedding(goals), 4)
    torch.testing.assert_close(cost, (embeddings - goals[:, None]).square().mean())


# --------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (CriticLossConfig, {"expectile": 0.0}, "--expectile must be above 0, got 0.0"),
        (CriticLossConfig, {"expectile": 1.0}, "--expectile must be below 1, got 1.0"),
        (CriticLossConfig, {"temporal": 0, "apart": 0}, "a loss needs a term of some"),
        (ActorLossConfig, {"imagined": 0.0}, "a loss needs a term of some weight"),
        (ActorLossConfig, {"horizon": -1}, "--horizon must be at least 0, got -1"),
    ],
)
def test_an_impossible_loss_is_refused(config, settings, message):
    with pytest.raises(UserError, match=message):
        config(**settings)
