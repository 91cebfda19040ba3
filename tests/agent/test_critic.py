"""The critic is a quasimetric, and learns how many steps lie between two frames."""

import pytest
import torch

from mujepa.agent.critic import Critic, CriticConfig
from mujepa.runtime.errors import UserError


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


def test_its_gradient_at_the_goal_itself_is_finite(critic, points):
    state = points[0].clone().requires_grad_()
    critic(state, state.detach()).sum().backward()
    assert state.grad is not None
    assert state.grad.isfinite().all()


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"history": 3}, "--history must be 1 or 2, got 3"),
        ({"width": 0}, "--width must be at least 1, got 0"),
        ({"features": 0}, "--features must be at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(sizes, complaint):
    with pytest.raises(UserError, match=complaint):
        CriticConfig(**sizes)
