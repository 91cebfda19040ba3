"""The ensemble agrees where the data were, and disagrees where nobody has been."""

import pytest
import torch

from mujepa.agent.cost import Cost, Goal, Trajectory
from mujepa.agent.critic import Critic, CriticConfig
from mujepa.agent.ensemble import Ensemble, EnsembleConfig
from mujepa.agent.memory import Memory
from mujepa.runtime.errors import UserError
from mujepa.training.frozen_losses import ensemble_terms


def steps(count, seed, low=-1.0, high=1.0):
    """Steps of a world that moves by the sine of where it is, and by the action."""
    generator = torch.Generator().manual_seed(seed)
    past = low + (high - low) * torch.rand(count, 2, 3, generator=generator)
    actions = torch.rand(count, 2, 2, generator=generator)
    change = torch.sin(past[:, 1]) + actions[:, 1].mean(dim=-1, keepdim=True)
    return Memory(past, actions[:, :1]), actions[:, 1], change


@pytest.fixture(scope="module")
def ensemble():
    torch.manual_seed(0)
    members = Ensemble(EnsembleConfig(members=4, width=32), history=2, dim=3, action_size=2)
    optimizer = torch.optim.Adam(members.parameters(), 3e-3)
    for update in range(250):
        memory, action, change = steps(4 * 64, seed=update)
        inputs = memory.inputs(action).unflatten(0, (4, 64))
        loss = ensemble_terms(members, inputs, change.unflatten(0, (4, 64)))["members"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return members.requires_grad_(requires_grad=False)


def test_members_learn_what_is_to_be_learned(ensemble):
    memory, action, change = steps(200, seed=999)
    error = (ensemble(memory.inputs(action)).mean(dim=0) - change).square().mean()
    assert error < 0.02 * change.var()


def test_they_disagree_where_nobody_has_been(ensemble):
    known, unknown = (
        ensemble.disagreement(*steps(200, seed=999, low=low, high=high)[:2])
        for low, high in ((-1, 1), (3, 5))
    )
    assert unknown.median() > 20 * known.median()


def test_members_are_those_of_a_loop(ensemble):
    memory, action, _ = steps(5, seed=3)
    inputs = memory.inputs(action)
    for member in range(4):
        w, b = ([part[member] for part in parts] for parts in (ensemble.weights, ensemble.biases))
        hidden = torch.nn.functional.silu(inputs @ w[0] + b[0])
        torch.testing.assert_close(ensemble(inputs)[member], hidden @ w[1] + b[1])


def test_a_single_member_cannot_disagree():
    with pytest.raises(UserError, match="--members must be at least 2, got 1"):
        EnsembleConfig(members=1)


@torch.no_grad()
@pytest.mark.parametrize("history", [1, 2, 3])
def test_the_cost_asks_what_the_model_was_asked(history):
    """The memory before each imagined step is the one from which the model predicted it."""
    torch.manual_seed(0)
    members = Ensemble(EnsembleConfig(members=3, width=8), history, dim=4, action_size=2)
    memory = Memory(torch.randn(2, history, 4), torch.rand(2, history - 1, 2))
    actions, imagined = torch.rand(2, 5, 6, 2), torch.randn(2, 5, 6, 4)
    critic = Critic(CriticConfig(width=8, features=2), dim=4)
    cost = Cost("uncertainty.max", critic, ensemble=members)
    goal = Goal(torch.zeros(2, 4), torch.zeros(2, 4))
    total = cost(Trajectory(imagined, actions, memory), goal)
    for row in range(2):
        for candidate in range(5):
            before = Memory(memory.embeddings[row : row + 1], memory.actions[row : row + 1])
            worst = 0.0
            for step in range(6):
                action = actions[row, candidate, step][None]
                worst = max(worst, float(members.disagreement(before, action)))
                before = before.push(action, imagined[row, candidate, step][None])
            assert float(total[row, candidate]) == pytest.approx(worst, rel=1e-4)


def test_what_a_step_depends_on_is_laid_out_oldest_first():
    memory, action, _ = steps(3, seed=0)
    inputs = memory.inputs(action)
    assert inputs.shape == (3, 2 * (3 + 2))
    torch.testing.assert_close(inputs[:, :3], memory.embeddings[:, 0])
    torch.testing.assert_close(inputs[:, -2:], action)
