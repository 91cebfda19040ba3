"""The second level learns where strides lead, and names a nearer goal where the goal is far."""

import numpy as np
import pytest
import torch

from mujepa.agent.configurator import Configurator
from mujepa.agent.cost import Cost
from mujepa.agent.critic import Critic, CriticConfig
from mujepa.agent.hierarchy import Guide, Strides, StridesConfig, strides_terms
from mujepa.runtime.errors import UserError

CONFIG = StridesConfig(ahead=3, macro=2, width=64, samples=64)


def walks(count, seed):
    """Strides in the plane: anywhere within a disc of radius 1 around where they began."""
    generator = torch.Generator().manual_seed(seed)
    begin = 4 * torch.rand(count, 2, generator=generator) - 2
    angle = 2 * torch.pi * torch.rand(count, generator=generator)
    far = torch.rand(count, generator=generator).sqrt()
    return begin, begin + far[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)


@pytest.fixture(scope="module")
def strides():
    torch.manual_seed(0)
    networks = Strides(CONFIG, dim=2)
    optimizer = torch.optim.Adam(networks.parameters(), 3e-3)
    for update in range(600):
        generator = torch.Generator().manual_seed(update)
        terms = strides_terms(networks, *walks(256, seed=update), generator)
        loss = terms["stride"] + CONFIG.divergence_weight * terms["divergence"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return networks.requires_grad_(requires_grad=False)


class Plane:
    """A world model whose embeddings are places; only the second level is asked."""

    history = 1


class Ruler(Critic):
    """A critic that knows how many model steps places are apart: a stride gets 1 far."""

    def features(self, embeddings, previous):
        return torch.cat([CONFIG.length * embeddings, torch.zeros_like(embeddings)], dim=-1)


@pytest.fixture
def guide(strides):
    critic = Ruler(CriticConfig(width=8, features=2), dim=2)
    return Guide(strides, Configurator(Plane(), critic, Cost("goal", critic)))  # pyright: ignore


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_macro_actions_tell_where_a_stride_ends(strides):
    begin, end = walks(500, seed=9999)
    told = strides(begin, strides.infer(begin, end)[0])
    assert (told - end).square().mean() < 0.05 * (begin - end).square().mean()


def test_macro_actions_drawn_at_random_lead_where_strides_lead(strides):
    begin, end = walks(500, seed=9999)
    drawn = strides(begin, torch.randn(500, 2, generator=torch.Generator().manual_seed(1)))
    step, real = (drawn - begin).norm(dim=1), (end - begin).norm(dim=1)
    assert step.mean().item() == pytest.approx(real.mean().item(), rel=0.25)
    assert step.quantile(0.99) < 1.6


def test_a_far_goal_is_replaced_by_a_place_one_stride_on_the_way(guide):
    start, goal = torch.tensor([[-1.5, 0.0]]), torch.tensor([[1.2, 0.0]])
    wanted = guide.subgoal(start, guide.configurator.wanted(goal), generators(0))
    moved = wanted.embedding - start
    assert moved[0, 0] > 0.4
    assert moved.norm() < 1.5
    features = guide.configurator.wanted(wanted.embedding).features
    torch.testing.assert_close(wanted.features, features)


@pytest.mark.parametrize("far", [0.1, 0.4, 0.7, 0.99])
def test_a_goal_within_a_stride_is_kept_however_close_more_strides_would_get(guide, far):
    start, goal = torch.tensor([[0.0, 0.0]]), far * torch.tensor([[0.8, -0.6]])
    wanted = guide.subgoal(start, guide.configurator.wanted(goal), generators(0))
    assert torch.equal(wanted.embedding, goal)
    assert torch.equal(wanted.features, guide.configurator.wanted(goal).features)


def test_a_batch_is_guided_as_its_rows_are(guide):
    start, goal = torch.tensor([[-1.5, 0.0], [1.0, 1.0]]), torch.tensor([[1.2, 0.0], [-1.0, 0.5]])
    together = guide.subgoal(start, guide.configurator.wanted(goal), generators(3, 4)).embedding
    for row in range(2):
        alone = guide.subgoal(
            start[row : row + 1],
            guide.configurator.wanted(goal[row : row + 1]),
            generators(3 + row),
        ).embedding
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_its_terms_are_the_error_and_the_divergence(strides):
    begin, end = walks(5, seed=1)
    terms = strides_terms(strides, begin, end, torch.Generator().manual_seed(0))
    mean, log_variance = strides.infer(begin, end)
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    told = strides(begin, mean + noise * torch.exp(0.5 * log_variance))
    torch.testing.assert_close(terms["stride"], ((told - end) ** 2).mean())
    gaussian = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    kl = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(terms["divergence"], kl.sum(dim=1).mean() / 2)


def test_impossible_strides_are_refused():
    with pytest.raises(ValueError, match="length, macro and width"):
        StridesConfig(length=0)


def test_a_second_level_refuses_to_be_asked_how_little_it_knows(untrained, tiny):
    checkpoint = untrained(tiny(strides=StridesConfig(ahead=2, width=16, samples=16)))
    with pytest.raises(UserError, match="knows no uncertainty"):
        checkpoint.agent(cost="goal + 0.1*uncertainty")


def test_an_agent_with_a_second_level_heads_for_what_it_names(untrained, tiny, monkeypatch):
    def halfway(guide, now, goal, generators):
        asked.append(len(generators))
        return guide.configurator.wanted((now + goal.embedding) / 2)

    asked = []
    monkeypatch.setattr(Guide, "subgoal", halfway)
    config = tiny(strides=StridesConfig(ahead=2, width=16, samples=16), replan_every=2)
    checkpoint = untrained(config)
    agent = checkpoint.agent()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    state, _ = agent.act(agent.reset(pictures[0]), pictures[1])
    between = (state.memory.embeddings[:, -1] + state.goal.embedding) / 2
    torch.testing.assert_close(state.wanted.embedding, between)
    judged = agent.configurator.cost_fn(state.memory, state.wanted)(state.plan.actions[:, None])
    torch.testing.assert_close(state.plan.cost, judged[:, 0], rtol=1e-4, atol=1e-5)
    for _ in range(2 * config.frame_skip):
        state, _ = agent.act(state, pictures[1])
    assert asked == [1, 1]  # for each plan, not for each look
    reactive = checkpoint.agent(mode="reactive")
    reactive.act(reactive.reset(pictures[0]), pictures[1])
    assert len(asked) == 2
    assert untrained().networks.strides is None
