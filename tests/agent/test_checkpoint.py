"""A checkpoint acts alone, and is never read when it is not whole."""

import json
import pickle
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mujepa.agent.checkpoint import (
    AgentConfig,
    Networks,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_tensors,
)
from mujepa.agent.encoder import EncoderConfig
from mujepa.agent.jepa import JEPAConfig
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import sha256


@pytest.fixture
def config():
    return AgentConfig(
        task="reacher",
        observation_shape=(32, 32, 3),
        action_low=(-1.0, -2.0),
        action_high=(1.0, 2.0),
        goal_size=3,
        frame_skip=4,
        jepa=JEPAConfig(encoder=EncoderConfig(dim=8, width=16)),
    )


@pytest.fixture
def networks(config):
    torch.manual_seed(0)
    return Networks(config).eval()


@pytest.fixture
def folder(tmp_path, config, networks):
    save_checkpoint(tmp_path / "agent", config, networks, {"seed": 3})
    return tmp_path / "agent"


def test_what_is_loaded_computes_what_was_saved(folder, networks, config):
    images = torch.randint(0, 255, (4, 32, 32, 3), dtype=torch.uint8)
    loaded = load_checkpoint(folder, "cpu")
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.networks.jepa.encode(images), networks.jepa.encode(images), rtol=0, atol=0
        )
    assert loaded.config == config
    assert loaded.provenance == {"seed": 3}


def test_a_loaded_agent_acts_within_the_bounds_of_its_checkpoint(folder):
    agent = load_checkpoint(folder, "cpu").agent()
    image = np.zeros((32, 32, 3), np.uint8)
    _, action = agent.act(agent.reset(image), image)
    assert (np.abs(action) <= [1, 2]).all()


def test_saving_again_replaces_the_whole(folder, config, networks):
    for parameter in networks.parameters():
        parameter.data.zero_()
    save_checkpoint(folder, config, networks, {"seed": 4})
    loaded = load_checkpoint(folder, "cpu")
    assert loaded.provenance == {"seed": 4}
    assert all(not value.any() for value in loaded.networks.parameters())
    assert [path.name for path in folder.parent.iterdir()] == ["agent"]


def flip_a_byte(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def remove_weights(folder):
    (folder / "model.safetensors").unlink()


def poison(folder):
    weights = load_file(folder / "model.safetensors")
    weights["critic.embed.0.bias"][0] = torch.nan
    save_tensors(folder / "model.safetensors", weights)
    edit(folder, weights_sha256=sha256(folder / "model.safetensors"))


def tear_config(folder):
    (folder / "config.json").write_text('{"task": "reac')


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = {
    "flipped byte": flip_a_byte,
    "truncated": truncate,
    "no weights": remove_weights,
    "torn config": tear_config,
    "infinite bounds": lambda folder: edit(folder, action_high=[1.0, float("inf")]),
    "weights that are not finite": poison,
    "newer schema": lambda folder: edit(folder, schema_version=99),
    "unknown field": lambda folder: edit(folder, colour="red"),
    "wrong type": lambda folder: edit(folder, frame_skip="four"),
    "other sizes": lambda folder: edit(folder, goal_size=7),
    "torn provenance": lambda folder: (folder / "provenance.json").write_text('{"seed": '),
    "no frame skip": lambda folder: edit(folder, frame_skip=0),
    "bounds without room": lambda folder: edit(folder, action_low=[1.0, 1.0]),
    "bounds of two sizes": lambda folder: edit(folder, action_high=[1.0]),
    "impossible planner": lambda folder: edit(folder, planner={"horizon": 0}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_one_clear_error(folder, damage):
    damage(folder)
    with pytest.raises(UserError, match="train one with") as caught:
        load_checkpoint(folder, "cpu")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def age(folder):
    """Turn a checkpoint into one of schema 2, whose CNN has its layers numbered from 2."""
    path, trunk = folder / "model.safetensors", r"(jepa\.encoder\.trunk\.)(\d)"
    named = {
        re.sub(trunk, lambda match: f"{match[1]}{int(match[2]) + 2}", name): value
        for name, value in load_file(path).items()
    }
    save_tensors(path, named)
    raw = json.loads((folder / "config.json").read_text())
    raw |= {"schema_version": 2, "weights_sha256": sha256(path), "mode": raw.pop("actor_mode")}
    raw |= {"strides": {"ahead": 0}, "critic": raw["critic"] | {"expectile": 0.9}}
    raw["planner"] |= {"kind": "hybrid", "gradient_steps": 2}
    (folder / "config.json").write_text(json.dumps(raw))


def test_a_checkpoint_of_schema_2_names_the_script_that_converts_it(folder, config, capsys):
    whole = load_checkpoint(folder, "cpu")
    age(folder)
    with pytest.raises(UserError, match=r"convert it with: python benchmarks/convert_checkpoints"):
        load_checkpoint(folder, "cpu")
    convert = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/convert_checkpoints.py"))
    assert convert["main"]([str(folder)]) == 0
    again = load_checkpoint(folder, "cpu")
    assert again.config == config
    for name, value in whole.networks.state_dict().items():
        assert torch.equal(again.networks.state_dict()[name], value)
    assert convert["main"]([str(folder / "nowhere")]) == 2
    age(folder)
    edit(folder, strides={"ahead": 2})
    assert convert["main"]([str(folder)]) == 2
    assert "second level" in capsys.readouterr().err


def test_an_agent_of_own_data_has_neither_a_task_nor_quantities(tmp_path, config):
    own = replace(config, task=None, goal_size=0)
    save_checkpoint(tmp_path / "own", own, Networks(own).eval(), {})
    checkpoint = load_checkpoint(tmp_path / "own", "cpu")
    image = np.zeros((32, 32, 3), np.uint8)
    agent = checkpoint.agent()
    agent.act(agent.reset(image), image)
    assert repr(agent).startswith("Agent(task=None")
    with pytest.raises(UserError, match="trained on data without a simulator"):
        _ = checkpoint.task_name
    with pytest.raises(UserError, match="'x' is none of the quantities"):
        checkpoint.agent(cost="avoid(x>0)")


def test_a_missing_checkpoint_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint in .*nowhere"):
        load_checkpoint(tmp_path / "nowhere", "cpu")


def test_a_run_means_its_best_checkpoint_and_else_its_last(tmp_path, config, networks):
    save_checkpoint(tmp_path / "last", config, networks, {})
    assert find_checkpoint(tmp_path) == tmp_path / "last"
    save_checkpoint(tmp_path / "best", config, networks, {})
    assert find_checkpoint(tmp_path) == tmp_path / "best"


def test_a_crash_between_the_renames_leaves_the_old_checkpoint(folder, config, networks):
    folder.rename(folder.with_name(".agent.previous"))
    assert load_checkpoint(folder, "cpu").provenance == {"seed": 3}
    save_checkpoint(folder, config, networks, {"seed": 5})
    assert load_checkpoint(folder, "cpu").provenance == {"seed": 5}


def test_an_interrupted_save_keeps_the_old_checkpoint(folder, config, networks):
    def crash(temporary):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        save_checkpoint(folder, config, networks, {"seed": 6}, crash)
    assert load_checkpoint(folder, "cpu").provenance == {"seed": 3}
    assert [path.name for path in folder.parent.iterdir()] == ["agent"]


def test_nothing_is_pickled(folder):
    for path in folder.iterdir():
        assert path.suffix in (".json", ".safetensors")
        assert not path.read_bytes().startswith((b"\x80", b"PK"))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_place_of_the_weights_is_refused_and_never_run(folder, tmp_path):
    weights, trace = folder / "model.safetensors", tmp_path / "exploded"
    weights.write_bytes(pickle.dumps(Bomb(trace)))
    edit(folder, weights_sha256=sha256(weights))
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(folder, "cpu")
    assert not trace.exists()
    pickle.loads(weights.read_bytes())
    assert trace.exists()


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_crash_at_any_renaming_leaves_the_old_checkpoint(
    folder, config, networks, monkeypatch, moment
):
    rename, count = Path.replace, 0

    def crash(path, target):
        nonlocal count
        count += 1
        if count == moment:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(folder, config, networks, {"seed": 6})
    assert load_checkpoint(folder, "cpu").provenance == {"seed": 3}
    save_checkpoint(folder, config, networks, {"seed": 7})
    assert load_checkpoint(folder, "cpu").provenance == {"seed": 7}


def test_an_unknown_device_is_named(folder):
    with pytest.raises(UserError, match="'cuda:7' is not available"):
        load_checkpoint(folder, "cuda:7")
