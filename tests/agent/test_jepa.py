"""The world model predicts consistently, reads what it was built for, and learns dynamics."""

import re

import pytest
import torch

from mujepa.agent.encoder import EncoderConfig, PatchEmbedding, make_encoder
from mujepa.agent.jepa import JEPA, JEPAConfig
from mujepa.agent.memory import Memory
from mujepa.agent.predictor import Predictor, PredictorConfig
from mujepa.agent.probe import LinearProbe
from mujepa.evaluation.diagnostics import effective_rank, open_loop_error
from mujepa.runtime.errors import UserError
from mujepa.training.losses import (
    InverseDynamics,
    LossConfig,
    encode_batch,
    weighted_sum,
)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 2, 3])
def jepa(request):
    torch.manual_seed(0)
    config = JEPAConfig(
        EncoderConfig(kind="mlp", dim=5, width=16),
        PredictorConfig(history=request.param, width=16),
    )
    return JEPA(config, (7,), 2).eval().requires_grad_(False)


def test_surprise_is_the_squared_error_of_the_prediction_of_one_step(jepa):
    memory, action, seen = memory_of(jepa, 3), randn(3, 2, seed=3), randn(3, 5, seed=4)
    expected = jepa.unroll(memory, action[:, None])[:, 0]
    found = jepa.surprise(memory, action, seen)
    torch.testing.assert_close(found, ((expected - seen) ** 2).mean(dim=1))
    assert jepa.surprise(memory, action, expected).max() < 1e-10


def memory_of(jepa, batch):
    return Memory(randn(batch, jepa.history, 5, seed=1), randn(batch, jepa.history - 1, 2, seed=2))


@pytest.mark.parametrize("past_actions", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("gradient", [True, False])
def test_a_rollout_is_step_by_step_prediction(jepa, gradient, depth, past_actions):
    jepa.predictor = Predictor(PredictorConfig(jepa.history, 16, depth, past_actions), 5, 2)
    memory, actions = memory_of(jepa, 3), randn(3, 6, 2, seed=3)
    with torch.set_grad_enabled(gradient):
        together = jepa.unroll(memory, actions)
    assert together.requires_grad == gradient
    for step in range(6):
        embedding = jepa.predictor(memory, actions[:, step])
        torch.testing.assert_close(together[:, step], embedding)
        memory = memory.push(actions[:, step], embedding)


def test_a_prediction_without_past_actions_depends_on_the_next_alone():
    config = JEPAConfig(
        EncoderConfig(kind="mlp", dim=5, width=16), PredictorConfig(3, 16, 2, False)
    )
    torch.manual_seed(0)
    jepa = JEPA(config, (7,), 2).eval().requires_grad_(False)
    memory, action = memory_of(jepa, 3), randn(3, 2, seed=3)
    other = Memory(memory.embeddings, memory.actions + 1)
    predicted = jepa.predictor(memory, action)
    torch.testing.assert_close(jepa.predictor(other, action), predicted)
    assert (jepa.predictor(memory, action + 1) != predicted).any()
    earlier = Memory(memory.embeddings + torch.eye(3)[0][None, :, None], memory.actions)
    assert (jepa.predictor(earlier, action) != predicted).any()


def test_candidates_do_not_see_each_other(jepa):
    memory, actions = memory_of(jepa, 2), randn(2, 4, 3, 2, seed=3)
    together = jepa.rollout(memory, actions)
    assert together.shape == (2, 4, 3, 5)
    for row in range(2):
        alone = Memory(memory.embeddings[row : row + 1], memory.actions[row : row + 1])
        for candidate in range(4):
            one = jepa.unroll(alone, actions[row, candidate][None])[0]
            torch.testing.assert_close(together[row, candidate], one)


def test_memory_forgets_the_oldest_and_keeps_actions_between_embeddings():
    memory = Memory.at_rest(torch.zeros(1, 4), history=3, action_size=2)
    assert memory.actions.shape == (1, 2, 2)
    for step in (1, 2, 3, 4):
        memory = memory.push(torch.full((1, 2), float(step)), torch.full((1, 4), float(step)))
    assert memory.embeddings[0, :, 0].tolist() == [2, 3, 4]
    assert memory.actions[0, :, 0].tolist() == [3, 4]


def test_memory_repeats_rows_in_succession():
    memory = Memory(torch.arange(2.0)[:, None, None], torch.zeros(2, 0, 1)).repeat(3)
    assert memory.embeddings.flatten().tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("kind", "shape"), [("cnn", (64, 64, 3)), ("cnn", (128, 128, 3)), ("vit", (32, 32, 3))]
)
def test_image_encoders_give_one_normal_embedding_an_image(kind, shape):
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(kind=kind, dim=6, width=16), shape)
    images = torch.randint(0, 256, (32, *shape), dtype=torch.uint8)
    embeddings = encoder(images)
    assert embeddings.shape == (32, 6)
    torch.testing.assert_close(embeddings.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    with torch.no_grad():
        twice = encoder.eval()(images), encoder(torch.cat([images, 255 - images]))[:32]
    torch.testing.assert_close(*twice, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("convolution", [(192, 16, 1), (3, 16, 8, 8)])
def test_an_embedding_of_patches_is_the_convolution_of_the_images(convolution):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    one, other = PatchEmbedding(*convolution), torch.nn.Conv2d(*convolution)
    other.load_state_dict(one.state_dict())
    pixels = images.permute(0, 3, 1, 2) / 255 - 0.5
    cut = torch.nn.functional.pixel_unshuffle(pixels, 8) if convolution[0] == 192 else pixels
    embedded, expected = one(images), other(cut)
    torch.testing.assert_close(embedded, expected)
    for output in (embedded, expected):
        output.square().sum().backward()
    torch.testing.assert_close(one.weight.grad, other.weight.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(one.bias.grad, other.bias.grad)


@pytest.mark.parametrize("width", [8, 72, 100])
def test_the_vit_can_be_built_at_any_width(width):
    config = EncoderConfig(kind="vit", dim=6, width=width, depth=1)
    encoder = make_encoder(config, (16, 16, 3)).eval()
    assert encoder(torch.zeros(2, 16, 16, 3, dtype=torch.uint8)).shape == (2, 6)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("cnn", (7,)), ("mlp", (64, 64, 3)), ("cnn", (40, 40, 3)), ("vit", (30, 30, 3)),
     ("cnn", (64, 32, 3)), ("cnn", (64, 64, 1)), ("cnn", (16, 16, 3)), ("vit", (64, 64, 4))],
)  # fmt: skip
def test_an_encoder_refuses_what_it_cannot_read(kind, shape):
    complaint = rf"the {kind} encoder reads .* shape {re.escape(str(shape))}$"
    with pytest.raises(UserError, match=complaint):
        make_encoder(EncoderConfig(kind=kind), shape)


def test_the_model_refuses_images_of_another_size(jepa):
    with pytest.raises(ValueError, match=r"\(9,\).*\(7,\)"):
        jepa.encode(torch.zeros(2, 9))


def linear_world(batch, time, seed):
    """Observe a point that is pushed and slowed, (B, T, 8), and the pushes (B, T - 1, 2)."""
    mix = randn(4, 8, seed=9)
    position, velocity = randn(batch, 2, seed=seed), randn(batch, 2, seed=seed + 1) * 0.3
    actions = torch.rand(batch, time - 1, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    frames = []
    for step in range(time):
        frames.append(torch.cat([position, velocity], dim=1) @ mix)
        if step < time - 1:
            velocity = 0.8 * velocity + 0.3 * actions[:, step]
            position = position + velocity
    return torch.stack(frames, dim=1), actions


def test_a_linear_world_is_learned():
    torch.manual_seed(0)
    encoder = EncoderConfig(kind="mlp", dim=6, width=48, depth=1)
    jepa = JEPA(JEPAConfig(encoder, PredictorConfig(width=48)), (8,), 2)
    inverse = InverseDynamics(6, 2, 2)
    config = LossConfig(directions=32)
    parameters = [*jepa.parameters(), *inverse.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3)
    for update in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 - update / 300)
        generator = torch.Generator().manual_seed(update)
        windows = linear_world(128, 6, 2 * update)
        terms = config.terms(encode_batch(config, jepa, inverse, *windows, generator))
        optimizer.zero_grad()
        weighted_sum(terms, config.weights()).backward()
        optimizer.step()
    jepa.eval()
    observations, actions = linear_world(256, 8, 10_001)
    with torch.no_grad():
        embeddings = jepa.encode_windows(observations)
        error, frozen = open_loop_error(jepa, embeddings, actions, horizon=4)
    assert error[3] < 0.1 * frozen[3]
    assert effective_rank(embeddings.flatten(0, 1)) > 3


def test_a_linear_probe_reads_what_is_linear_and_ignores_what_is_constant():
    embeddings = randn(200, 6)
    truth = embeddings @ randn(6, 3, seed=1) + 2
    truth[:, 2] = 5
    probe = LinearProbe(6, ("x", "y", "z"))
    probe.fit(embeddings, truth)
    torch.testing.assert_close(probe(embeddings), truth, atol=1e-3, rtol=1e-3)
    assert probe.r2(embeddings, truth) > 0.999
    assert probe.r2(embeddings, truth.flip(0)) < 0.5
