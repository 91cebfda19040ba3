"""The stages on frozen embeddings ask the right questions of the data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mujepa.agent.memory import Memory
from mujepa.cli.main import main
from mujepa.evaluation.manifest import make_manifest
from mujepa.runtime.errors import UserError
from mujepa.training import frozen_stages as frozen
from mujepa.training.config import TrainConfig
from mujepa.training.data import LatentDataset, load_training_data
from mujepa.training.frozen_losses import ActorLossConfig
from mujepa.training.losses import ExtraTerm
from mujepa.training.trainer import make_stage


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "reacher"
    command = f"collect reacher --out {folder} --episodes 12 --steps 9 --workers 1"
    assert main(command.split()) == 0
    return load_training_data(folder, 0.3, 0, torch.device("cpu"))


@pytest.fixture
def latents(data, untrained, tiny):
    networks = untrained(tiny(observation_shape=(64, 64, 3))).networks
    return LatentDataset(data, networks.jepa), networks


def distances(one, other):
    """Exact ones: cdist's default loses the small."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def stage_of(name, latents, networks, extra_terms=(), **more):
    batches = dict.fromkeys(("batch", "predictor_batch", "critic_batch", "actor_batch"), 30)
    config = TrainConfig("reacher", Path("run"), **batches | more)
    return make_stage(name, config, latents, networks, extra_terms)


def test_an_extra_term_is_learned_with_the_others_which_stay_what_they_are(latents):
    latents, networks = latents
    extra = ExtraTerm(
        "mirror", 2.0, lambda jepa: torch.nn.Linear(jepa.dim, jepa.dim),
        lambda head, batch: (head(batch.predicted) - batch.embeddings[:, 2:]).square().mean(),
    )  # fmt: skip
    stages = [
        stage_of("world model", latents, networks, more, batch=8, rollout=2)
        for more in ((), (extra,))
    ]
    assert [list(stage.modules()) for stage in stages] == [
        ["jepa", "inverse"], ["jepa", "inverse", "mirror"]
    ]  # fmt: skip
    plain, more = (stage.terms(3) for stage in stages)
    assert more.pop("mirror") > 0
    assert stages[1].weights["mirror"] == 2
    assert plain.keys() == more.keys()
    assert (plain["prediction"], plain["sigreg"]) == (more["prediction"], more["sigreg"])


def test_frames_are_numbered_through_the_episodes(latents):
    latents, networks = latents
    episodes = latents.data.split.train
    assert latents.lengths.tolist() == [10] * len(episodes)
    assert latents.first.tolist() == list(range(0, 10 * len(episodes), 10))
    seen = latents.data.observe_episode(int(episodes[2]))
    torch.testing.assert_close(latents.embeddings[20:30], networks.jepa.encode(seen))


def test_frames_are_drawn_with_enough_around_them(latents):
    latents = latents[0]
    within = latents.draw(np.random.default_rng(0), (4, 500), past=2, future=3) % 10
    assert (within.min(), within.max()) == (2, 6)


def test_frames_are_drawn_of_episodes_that_are_long_enough(latents, monkeypatch):
    latents = latents[0]
    whole = latents.draw(np.random.default_rng(0), (500,), past=2, future=3)
    monkeypatch.setitem(
        latents.__dict__, "lengths", np.where(np.arange(len(latents.first)) % 2, 10, 5)
    )
    drawn = latents.draw(np.random.default_rng(0), (500,), past=2, future=3)
    assert set(drawn // 10 % 2) == {1}
    assert len(set(whole // 10)) > len(set(drawn // 10))
    with pytest.raises(UserError, match=r"no episode of .* has 11 frames; collect with more"):
        latents.draw(np.random.default_rng(0), (5,), past=5, future=5)


def test_what_is_remembered_at_a_frame_is_what_came_before_it(latents):
    latents = latents[0]
    memory = latents.memory(np.array([13, 27]))
    torch.testing.assert_close(memory.embeddings[1], latents.embeddings[26:28])
    torch.testing.assert_close(memory.actions[1, 0], latents.actions[26])


def test_the_actor_is_asked_for_later_frames_any_frames_and_goals_of_the_task(latents, monkeypatch):
    latents, networks = latents
    stage = stage_of("actor", latents, networks, actor_loss=ActorLossConfig(horizon=2))
    asked = []
    monkeypatch.setattr(ActorLossConfig, "terms", lambda *arguments: asked.append(arguments) or {})
    stage.terms(0)
    batch = asked[0][1]
    memory, goals, actions, followed = batch.memory, batch.goals, batch.actions, batch.followed
    assert batch.horizon == 2

    def frames(embeddings, among):
        near = distances(embeddings, among)
        assert (near.min(dim=1).values < 1e-4).all()
        return near.argmin(dim=1)

    here = frames(memory.embeddings[:, -1], latents.embeddings)
    torch.testing.assert_close(actions, latents.actions[here])
    assert followed.tolist() == [True, False, False] * 10
    later = frames(goals[followed], latents.embeddings)
    assert (later > here[followed]).all()
    assert (later // 10 == here[followed] // 10).all()
    frames(goals[2::3], stage.goals)
    anywhere = frames(goals[1::3], latents.embeddings)
    assert (anywhere // 10 != here[1::3] // 10).any()


def test_goals_of_the_task_are_not_those_that_are_judged(latents):
    latents, networks = latents
    stage = stage_of("actor", latents, networks, actor_loss=ActorLossConfig(horizon=2))
    world = latents.data.world
    states = np.stack([episode.goal for episode in make_manifest(world, 200, 0).episodes])
    judged = networks.jepa.encode(torch.from_numpy(world.observe(states, "pixels")))
    assert stage.goals.shape == (len(latents.data.start_goal_pairs), networks.jepa.dim)
    assert distances(stage.goals, judged).min() > 0


def learn(stage, term, updates):
    """Diagnostics before and after N updates."""
    before = stage.validate()
    modules = stage.modules().requires_grad_(requires_grad=True)
    optimizer = torch.optim.Adam(modules.parameters(), 3e-3)
    for update in range(updates):
        loss = stage.terms(update)[term]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, stage.validate()


def test_the_actor_learns_to_expect_less_cost(latents):
    latents, networks = latents
    stage = stage_of(
        "actor", latents, networks, cost="goal", actor_batch=90,
        actor_loss=ActorLossConfig(horizon=3),
    )  # fmt: skip
    before, after = learn(stage, "imagined", updates=30)
    assert after["actor_cost"] < before["actor_cost"]
    assert after["score"] == -after["actor_cost"]


def test_the_predictor_goes_on_alone_and_imagines_better(latents):
    latents, networks = latents
    stage = stage_of("predictor", latents, networks, rollout=3)
    encoder = {name: value.clone() for name, value in networks.jepa.encoder.state_dict().items()}
    before, after = learn(stage, "prediction", updates=80)
    assert after["open_loop_1"] < 0.8 * before["open_loop_1"]
    assert after["score"] > before["score"]
    now = networks.jepa.encoder.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in encoder.items())


def test_each_member_of_the_ensemble_sees_other_steps(latents, monkeypatch):
    latents, networks = latents
    asked = []
    monkeypatch.setattr(frozen, "ensemble_terms", lambda *arguments: asked.append(arguments) or {})
    stage_of("ensemble", latents, networks).terms(0)
    _, inputs, changes = asked[0]
    members = networks.ensemble.config.members
    assert inputs.shape[:2] == changes.shape[:2] == (members, 30)
    assert all((inputs[0] != inputs[member]).any() for member in range(1, members))
    # The last embedding of the input and the change lead to a frame of the data.
    dim, history = networks.jepa.dim, networks.jepa.history
    after = inputs[..., (history - 1) * dim : history * dim] + changes
    assert distances(after.flatten(0, 1), latents.embeddings).min(dim=1).values.max() < 1e-4


@torch.no_grad()
def test_disagreement_is_on_average_the_error_of_the_world_model(latents):
    latents, networks = latents
    stage = stage_of("ensemble", latents, networks)
    stage.finish()
    held, jepa = latents.data.validation, networks.jepa
    embeddings = jepa.encode_windows(held.observations)
    errors, doubts = [], []
    for now in range(jepa.history - 1, embeddings.shape[1] - 1):
        past = slice(now + 1 - jepa.history, now + 1)
        memory = Memory(embeddings[:, past], held.actions[:, past][:, :-1])
        action = held.actions[:, now]
        predicted = jepa.predictor(memory, action)
        errors.append((predicted - embeddings[:, now + 1]).square().mean())
        doubts.append(networks.ensemble.disagreement(memory, action).mean())
    assert torch.stack(doubts).mean().item() == pytest.approx(torch.stack(errors).mean().item())
    assert -1 <= stage.validate()["uncertainty_ranking"] <= 1
