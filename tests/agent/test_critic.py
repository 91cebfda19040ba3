"""The critic is a quasimetric, and learns how many steps lie between two frames."""

import pytest
import torch

from mujepa.agent.critic import Critic, CriticConfig, critic_terms


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return Critic(CriticConfig(width=32, features=8), dim=4)


@pytest.fixture
def points():
    """Three times 200 pairs of frames."""
    return torch.randn(3, 200, 2, 4, generator=torch.Generator().manual_seed(1))


def at_rest(frames):
    return torch.stack([frames, frames], dim=-2)


@torch.no_grad()
def test_it_is_zero_from_a_state_to_itself_and_positive_elsewhere(critic, points):
    torch.testing.assert_close(critic(points[0], points[0]), torch.zeros(200), atol=2e-4, rtol=0)
    assert (critic(points[0], points[1]) > 0).all()


@torch.no_grad()
def test_no_detour_is_shorter(critic, points):
    a, b, c = points
    assert (critic(a, c) <= critic(a, b) + critic(b, c) + 1e-4).all()


@torch.no_grad()
def test_only_a_history_of_two_sees_how_fast_a_state_moves(points):
    same_place = torch.stack([points[1][:, 0], points[0][:, 1]], dim=1)
    change = {}
    for history in (1, 2):
        torch.manual_seed(0)
        critic = Critic(CriticConfig(history=history, width=32, features=8), dim=4)
        change[history] = (critic(points[0], points[2]) - critic(same_place, points[2])).abs()
    assert change[1].max() == 0
    assert change[2].median() > 0.01


@torch.no_grad()
def test_there_and_back_may_differ(critic, points):
    assert (critic(points[0], points[1]) - critic(points[1], points[0])).abs().max() > 0.01


@torch.no_grad()
def test_features_of_a_goal_can_be_kept(critic, points):
    start, goal = (critic.features(end[:, 1], end[:, 0]) for end in points[:2])
    kept = critic.distance(start, goal)
    torch.testing.assert_close(kept, critic(points[0], points[1]))


def test_its_terms_are_the_expectile_loss_and_the_hinge(critic, points):
    a, b, c = points
    steps = torch.arange(200.0) / 20
    terms = critic_terms(critic, a, b, c, steps)
    config, squared, hinge = critic.config, [], []
    for i in range(200):
        error = critic(a[i], b[i]) - steps[i]
        weight = config.expectile if error > 0 else 1 - config.expectile
        squared.append(weight * error**2)
        hinge.append(max(config.apart_steps - critic(a[i], c[i]), torch.tensor(0.0)))
    torch.testing.assert_close(terms["temporal"], torch.stack(squared).mean())
    torch.testing.assert_close(terms["apart"], torch.stack(hinge).mean())


def test_it_learns_the_shortest_time_of_a_wandering_walk():
    """Walking a line back and forth: the time between places is their distance, no longer."""
    generator = torch.Generator().manual_seed(2)
    steps = torch.where(torch.rand(64, 60, generator=generator) < 0.7, 1, -1)
    places = steps.cumsum(dim=1).clamp(-15, 15) / 5
    walks = at_rest(torch.stack([places, places.square() / 3], dim=-1))
    torch.manual_seed(3)
    critic = Critic(CriticConfig(width=64, features=8, apart_weight=0.0), dim=2)
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(400):
        walk = torch.randint(64, (256,), generator=generator)
        moments = torch.randint(60, (2, 256), generator=generator).sort(dim=0).values
        start, goal = walks[walk, moments[0]], walks[walk, moments[1]]
        terms = critic_terms(critic, start, goal, goal, (moments[1] - moments[0]).float())
        optimizer.zero_grad()
        terms["temporal"].backward()
        optimizer.step()
    line = torch.linspace(-1.6, 1.6, 17)
    frames = at_rest(torch.stack([line, line.square() / 3], dim=-1))
    with torch.no_grad():
        near, far = critic(frames[8], frames[10]), critic(frames[4], frames[12])
    assert near < 5
    assert 6 < far < 16
    assert far > 2 * near


@pytest.mark.parametrize("expectile", [0.0, 1.0, -1.0])
def test_an_impossible_expectile_is_refused(expectile):
    with pytest.raises(ValueError, match=f"expectile must be between 0 and 1, got {expectile}"):
        CriticConfig(expectile=expectile)


def learn(critic, sample, updates):
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(updates):
        terms = critic_terms(critic, *sample())
        optimizer.zero_grad()
        terms["temporal"].backward()
        optimizer.step()


def test_it_learns_the_steps_apart_on_a_chain():
    torch.manual_seed(0)
    places, critic = at_rest(torch.randn(16, 4)), Critic(CriticConfig(width=32, features=8), dim=4)

    def sample():
        start, goal = torch.randint(16, (2, 128)).sort(dim=0).values
        return places[start], places[goal], places[start], (goal - start).float()

    learn(critic, sample, updates=500)
    start, goal = torch.triu_indices(16, 16)
    with torch.no_grad():
        error = (critic(places[start], places[goal]) - (goal - start)).abs()
    assert error.mean() < 0.5
    assert error.max() < 2


def test_of_two_times_it_learns_the_one_where_both_pulls_are_equal(critic, points):
    start, goal = points[0, :1].expand(64, -1, -1), points[1, :1].expand(64, -1, -1)
    steps = torch.tensor([4.0, 12.0]).repeat(32)
    learn(critic, lambda: (start, goal, goal, steps), updates=200)
    expectile = critic.config.expectile
    expected = expectile * 4 + (1 - expectile) * 12
    assert critic(start[0], goal[0]).item() == pytest.approx(expected, abs=0.1)


def test_its_gradient_at_the_goal_itself_is_finite(critic, points):
    state = points[0].clone().requires_grad_()
    critic(state, state.detach()).sum().backward()
    assert state.grad is not None
    assert state.grad.isfinite().all()


def test_another_history_is_refused():
    with pytest.raises(ValueError, match="1 or 2 frames, got 3"):
        CriticConfig(history=3)


@pytest.mark.parametrize("sizes", [{"width": 0}, {"features": 0}])
def test_a_critic_without_units_is_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        CriticConfig(**sizes)


@torch.no_grad()
def test_the_bellman_term_asks_for_one_step_more_than_from_the_next_frame(points):
    torch.manual_seed(0)
    critic = Critic(CriticConfig(width=32, features=8, bellman_weight=1.0), dim=4)
    a, b, c = points
    following = a[50:].flip(0)
    following[0] = a[50]  # the episode ends there
    terms = critic_terms(critic, a, b, c, torch.ones(200), following)
    squared = [torch.tensor(0.0)]
    for i in range(1, 150):
        error = critic(a[50 + i], c[50 + i]) - (1 + critic(following[i], c[50 + i]))
        weight = 0.9 if error > 0 else 1 - 0.9
        squared.append(weight * error**2)
    torch.testing.assert_close(terms["bellman"], torch.stack(squared).mean())


@torch.no_grad()
def test_the_contrastive_term_is_the_cross_entropy_of_the_own_goal(points):
    torch.manual_seed(0)
    weights = {"temporal_weight": 0.0, "apart_weight": 0.0, "contrastive_weight": 1.0}
    critic = Critic(CriticConfig(width=32, features=8, **weights), dim=4)
    a, b, c = points
    terms = critic_terms(critic, a, b, c, torch.ones(200))
    assert terms.keys() == {"contrastive"}
    away = torch.stack([critic(a[i].expand(200, 2, 4), b) for i in range(200)])
    rows, columns = (-torch.log_softmax(-away, dim=dim).diagonal().mean() for dim in (1, 0))
    torch.testing.assert_close(terms["contrastive"], (rows + columns) / 2)


def test_by_steps_alone_it_learns_a_chain_longer_than_any_walk_on_it():
    """Walks of two steps; the Bellman term joins them."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    places = at_rest(torch.randn(8, 4))
    config = CriticConfig(width=64, features=16, apart_weight=0.0, bellman_weight=1.0)
    critic = Critic(config, dim=4)
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(800):
        start = torch.randint(6, (128,), generator=generator)
        steps = torch.randint(3, (128,), generator=generator)
        goal = torch.randint(8, (128,), generator=generator)
        terms = critic_terms(
            critic, places[start], places[start + steps], places[goal], steps.float(),
            places[start + 1],
        )  # fmt: skip
        ahead = goal > start  # backwards nobody ever walked
        terms["bellman"] = critic_terms(
            critic, places[start][ahead], places[start][ahead], places[goal][ahead],
            steps[ahead].float(), places[start + 1][ahead],
        )["bellman"]  # fmt: skip
        optimizer.zero_grad()
        (terms["temporal"] + terms["bellman"]).backward()
        optimizer.step()
    with torch.no_grad():
        assert critic(places[0], places[7]).item() == pytest.approx(7, abs=1.5)


def test_a_critic_that_learns_from_nothing_is_refused():
    with pytest.raises(ValueError, match="some weight"):
        CriticConfig(temporal_weight=0.0, apart_weight=0.0)
