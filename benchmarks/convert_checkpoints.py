"""Convert checkpoints of schema 2 to schema 3, in place; what they compute stays the same.

    python benchmarks/convert_checkpoints.py pretrained/*
    python benchmarks/convert_checkpoints.py runs/reacher        # its best and last

Schema 3 has no second level and no settings of losses, `mode` is called `actor_mode`, and the
layers of the CNN are numbered from 0. A checkpoint that needs what is gone is left as it is.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from mujepa.agent.checkpoint import SCHEMA_VERSION, load_checkpoint, save_tensors
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import replacing_folder, sha256, write_json

KEPT = {"critic": ("history", "width", "features"), "actor": ("width", "depth")}
"""Settings of networks that remain; those of their losses belong to training."""


def convert(folder: Path) -> None:
    """Convert one checkpoint folder, if it is of schema 2.

    Raises:
        UserError: the checkpoint uses a feature that no longer exists.
    """
    raw = json.loads((folder / "config.json").read_text())
    if raw.get("schema_version") != 2:
        return
    config, weights = convert_config(raw, folder), load_file(folder / "model.safetensors")
    with replacing_folder(folder) as new:
        shutil.copytree(folder, new, dirs_exist_ok=True)
        save_tensors(
            new / "model.safetensors", {convert_name(n, raw): w for n, w in weights.items()}
        )
        digest, result = sha256(new / "model.safetensors"), new / "result.json"
        write_json(new / "config.json", config | {"weights_sha256": digest})
        if result.exists():
            result.write_text(result.read_text().replace(raw["weights_sha256"], digest))
        load_checkpoint(new, "cpu")
    print(f"converted {folder}")  # noqa: T201


def convert_config(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings in schema 3."""
    if raw.get("strides", {}).get("ahead", 0) > 0:
        raise UserError(f"{folder} has a second level (--strides.ahead), which is gone; retrain it")
    config = {name: value for name, value in raw.items() if name not in ("strides", "mode")}
    config |= {"schema_version": SCHEMA_VERSION, "actor_mode": raw.get("mode", "proposing")}
    for part, names in KEPT.items():
        given = raw.get(part, {})
        config[part] = {name: given[name] for name in names if name in given}
    planner = {name: value for name, value in raw["planner"].items() if name != "gradient_steps"}
    if planner.get("kind") == "hybrid":
        planner["kind"] = "icem"
    return config | {"planner": planner}


def convert_name(name: str, raw: dict[str, Any]) -> str:
    """Return the name of a tensor in schema 3."""
    if raw.get("jepa", {}).get("encoder", {}).get("kind", "cnn") != "cnn":
        return name
    return re.sub(
        r"^(jepa\.encoder\.trunk\.)(\d+)", lambda match: f"{match[1]}{int(match[2]) - 2}", name
    )


def main(paths: Sequence[str]) -> int:
    """Convert the checkpoints in some folders, or in the runs that they are."""
    for path in map(Path, paths):
        folders = [path, path / "best", path / "last"]
        found = [folder for folder in folders if (folder / "config.json").exists()]
        if not found:
            print(f"no checkpoint in {path}", file=sys.stderr)  # noqa: T201
            return 2
        for folder in found:
            try:
                convert(folder)
            except UserError as error:
                print(error, file=sys.stderr)  # noqa: T201
                return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
