"""The loss terms are what their formulas say, and together they learn without collapsing."""

import math

import pytest
import torch

from mujepa.agent.encoder import EncoderConfig
from mujepa.agent.jepa import JEPA, JEPAConfig
from mujepa.agent.memory import Memory
from mujepa.agent.predictor import PredictorConfig
from mujepa.training import losses
from mujepa.training.losses import (
    InverseDynamics,
    LossConfig,
    covariance_penalty,
    encode_batch,
    prediction_error,
    sigreg,
    temporal_similarity,
    variance_hinge,
    weighted_sum,
)

ALL = LossConfig(variance=1.0, covariance=1.0, temporal_similarity=1.0, directions=16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(count=512, dim=8):
    return torch.randn(count, dim, generator=generator(1))


def test_sigreg_is_small_for_a_gaussian_and_large_for_anything_else():
    good = sigreg(gaussian(), 256, generator())
    assert good < 2
    bad = {
        "collapsed": torch.zeros(512, 8),
        "collapsed to a line": gaussian()[:, :1].expand(-1, 8),
        "too wide": 3 * gaussian(),
        "too narrow": 0.3 * gaussian(),
        "shifted": gaussian() + 1,
        "on the corners of a cube": gaussian().sign(),
    }
    for name, embeddings in bad.items():
        assert sigreg(embeddings, 256, generator()) > 2 * good, name


def test_sigreg_is_the_epps_pulley_integral():
    """Against the integral over [-3, 3] on a fine grid, one projection at a time."""
    embeddings = 1.5 * gaussian(64, 3)
    directions = torch.randn(3, 5, generator=generator(4))
    directions /= directions.norm(dim=0)
    knots = torch.linspace(-3, 3, 6001)
    target, total = torch.exp(-(knots**2) / 2), 0.0
    for direction in directions.T:
        projected = embeddings @ direction
        phases = projected[:, None] * knots
        empirical = torch.complex(phases.cos().mean(0), phases.sin().mean(0))
        total += torch.trapezoid((empirical - target).abs() ** 2 * target, knots).item()
    slow = 64 * total / 5
    assert sigreg(embeddings, 5, generator(4)).item() == pytest.approx(slow, rel=0.02)


def test_sigreg_pulls_a_collapsing_cloud_apart():
    embeddings = (0.1 * gaussian()).requires_grad_()
    sigreg(embeddings, 64, generator()).backward()
    assert embeddings.grad is not None
    assert (embeddings.grad * embeddings).sum() < 0


def test_the_variance_hinge_is_zero_from_one_on():
    assert variance_hinge(2 * gaussian()) == 0
    spread = 0.5 * gaussian()
    slow = sum(1 - math.sqrt(spread[:, d].var().item() + 1e-4) for d in range(8)) / 8
    assert variance_hinge(spread).item() == pytest.approx(slow, rel=1e-5)


def test_the_covariance_penalty_sums_what_is_off_the_diagonal():
    embeddings = gaussian(64, 4) @ torch.randn(4, 4, generator=generator(5))
    matrix = torch.cov(embeddings.T)
    slow = sum(matrix[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    torch.testing.assert_close(covariance_penalty(embeddings), slow)


def test_temporal_similarity_is_the_squared_step():
    line = torch.arange(5.0)[None, :, None].expand(3, 5, 2)
    assert temporal_similarity(2 * line) == 4


def test_the_prediction_error_reaches_both_sides():
    predicted, target = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(2))
    prediction_error(predicted, target).backward()
    assert predicted.grad is not None
    assert target.grad is not None
    torch.testing.assert_close(predicted.grad, -target.grad)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = JEPAConfig(EncoderConfig(dim=6, width=8), PredictorConfig(history=2, width=16))
    return JEPA(config, (32, 32, 3), 2), InverseDynamics(6, 2, 2)


def windows(batch=4, time=6):
    pictures = torch.randint(0, 256, (batch, time, 32, 32, 3), generator=generator(2))
    actions = torch.rand(batch, time - 1, 2, generator=generator(3)) * 2 - 1
    return pictures.to(torch.uint8), actions


def compute(*arguments):
    return arguments[0].terms(encode_batch(*arguments))


def test_only_terms_of_some_weight_are_computed(model):
    config = LossConfig(sigreg=0.0, inverse_dynamics=0.0)
    assert set(compute(config, *model, *windows(), generator())) == {"prediction"}
    assert set(compute(ALL, *model, *windows(), generator())) == set(ALL.weights())


def test_what_has_no_weight_costs_no_time(model, monkeypatch):
    def forbidden(*_):
        raise AssertionError("a term of weight 0 was computed")

    for name in ("sigreg", "variance_hinge", "covariance_penalty", "prediction_error"):
        monkeypatch.setattr(losses, name, forbidden)
    monkeypatch.setattr(JEPA, "unroll", forbidden)
    monkeypatch.setattr(InverseDynamics, "forward", forbidden)
    config = LossConfig(prediction=0, sigreg=0, inverse_dynamics=0, temporal_similarity=2.0)
    terms = compute(config, *model, *windows(), generator())
    assert list(terms) == ["temporal_similarity"]


@torch.no_grad()
def test_frames_and_actions_are_matched_in_time(model):
    """Against predictions and readings made one step at a time."""
    jepa, inverse = model
    pictures, actions = windows()
    terms = compute(ALL, jepa, inverse, pictures, actions, generator())
    embeddings = jepa.encode_windows(pictures)
    past, predicted, read = [embeddings[:, 0], embeddings[:, 1]], [], []
    for step in range(1, 5):
        memory = Memory(torch.stack(past[-2:], dim=1), actions[:, step - 1 : step])
        past.append(jepa.predictor(memory, actions[:, step]))
        predicted.append((past[-1] - embeddings[:, step + 1]).square().mean())
        around = embeddings[:, step - 1 : step + 2]
        read.append((inverse(around) - actions[:, step]).square().mean())
    torch.testing.assert_close(terms["prediction"], torch.stack(predicted).mean())
    torch.testing.assert_close(terms["inverse_dynamics"], torch.stack(read).mean())


@pytest.mark.parametrize("term", sorted(ALL.weights()))
def test_every_term_reaches_the_encoder(model, term):
    terms = compute(ALL, *model, *windows(), generator())
    terms[term].backward()
    weight = model[0].encoder.project.weight
    assert weight.grad is not None
    if term == "variance":  # batch normalisation keeps the variance at one by itself
        return
    assert weight.grad.abs().max() > 0


def test_the_loss_is_the_weighted_sum_of_its_terms():
    terms = {"prediction": torch.tensor(2.0), "sigreg": torch.tensor(10.0)}
    total = weighted_sum(terms, {"prediction": 1.0, "sigreg": 0.05})
    assert total.item() == pytest.approx(2.5)


def test_the_inverse_dynamics_head_learns_the_actions_it_is_given(model):
    _, inverse = model
    embeddings, actions = torch.randn(256, 3, 6, generator=generator(6)), torch.zeros(256, 2)
    actions[:, 0] = embeddings[:, 2, 0] - embeddings[:, 1, 0]
    optimizer = torch.optim.Adam(inverse.parameters(), lr=3e-3)
    for _ in range(200):
        error = (inverse(embeddings) - actions).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error < 0.1 * actions.var()
