"""The Python API: collect, train and evaluate return values, print nothing, and take settings."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mujepa

TINY = {
    "updates": 1, "ensemble_updates": 1, "critic_updates": 1, "actor_updates": 1, "batch": 4,
    "critic_batch": 4, "actor_batch": 4, "validation": 0.2, "threads": 1, "cost": "critic",
}  # fmt: skip
SCRIPT = """
import mujepa

data = mujepa.collect("reacher", out="data", episodes=6, steps=12, image_size=96)
print(len(data), data.spec.image_size)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset of 96x96 images, collected by a plain script without a main guard."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("6 96\n", "")
    return folder


def test_training_and_evaluation_return_their_results_and_print_nothing(folder, capfd):
    checkpoint = mujepa.train("reacher", folder / "run", data=folder / "data", **TINY)
    assert checkpoint.config.observation_shape == (96, 96, 3)
    result = mujepa.evaluate(checkpoint.folder, episodes=1, oracle=False)
    assert result.episodes == 1
    assert (folder / "run" / "best" / "evaluation" / "result.json").exists()
    assert capfd.readouterr() == ("", "")


def test_recipes_apply_to_settings_that_are_not_given():
    config = mujepa.TrainConfig.create(
        "cartpole", Path("run"), updates=2000, planner={"samples": 8}
    )
    assert (config.updates, config.critic_updates) == (2000, 3000)
    assert (config.planner.samples, config.planner.horizon) == (8, 15)


def test_functions_stay_callable_after_their_modules_are_imported(folder):
    import mujepa.train

    with pytest.raises(mujepa.UserError, match=r"updtes is no setting; did you mean 'updates'\?"):
        mujepa.train("reacher", folder / "other", updtes=3)
    with pytest.raises(mujepa.UserError, match="--updates must be at least 1, got 0"):
        mujepa.train("reacher", folder / "other", updates=0)


def test_images_and_actions_alone_train_an_agent_that_acts(tmp_path, capfd):
    random = np.random.default_rng(0)
    episodes = (
        {
            "pixels": random.integers(0, 256, (length, 32, 32, 3), dtype=np.uint8),
            "action": random.uniform(-2, 2, (length, 3)).astype(np.float32),
        }
        for length in (12, 15, 12, 20, 12, 13)
    )
    mujepa.write_dataset(tmp_path / "own", episodes)
    mujepa.train(f"data:{tmp_path / 'own'}", tmp_path / "run", verbose=True, **TINY)
    said = capfd.readouterr().out
    assert "left out: " in said
    agent = mujepa.load(tmp_path / "run")
    image = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    _, action = agent.act(agent.reset(image), image)
    assert action.shape == (3,)
    assert np.abs(action).max() <= 2


def test_every_public_name_is_there():
    for name in mujepa.__all__:
        assert getattr(mujepa, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mujepa.nothing  # noqa: B018
