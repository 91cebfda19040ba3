"""The peer's side of `peers.py`: what stable-worldmodel does, repeated on request.

It runs in the peer's own environment, imports nothing of ours but the protocol (`worker.py`), and
uses the peer as is fastest for it. What had to be done for that is told in docs/performance.md.
"""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

# The CUDA build of torchvision, the only one on PyPI, cannot load its operators beside a CPU build
# of torch, and then fails for want of these two names, which nothing here calls.
OPERATORS = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import stable_worldmodel as swm
from worker import serve

if TYPE_CHECKING:
    from worker import Work

PACKAGES = (
    *("stable-worldmodel", "torch", "torchvision", "transformers", "mujoco", "dm_control"),
    *("ogbench", "gymnasium", "numpy", "lancedb", "pylance", "h5py", "opencv-python-headless"),
)
WINDOWS = 256
"""Windows in a reading."""
HISTORY, PREDICTED = 3, 1
"""Frames that LeWM's predictor sees, and those after them in a window."""
ACTION = 10
"""Numbers in LeWM's action: five of the reacher's, one after the other."""


def imported() -> Work:
    """Import the package, which has happened."""
    return lambda: 1


def collection(env: str, steps: int, folder: str, options: dict[str, Any]) -> Work:
    """Count frames: an episode is simulated, drawn and written by `World.collect`.

    To HDF5, since Lance's writer takes the episodes on a thread of its own, where drawing fails.
    """
    world = swm.World(env, 1, image_shape=(64, 64), max_episode_steps=steps, **options)
    world.set_policy(swm.policy.RandomPolicy(seed=0))
    path = Path(folder) / "episode.h5"

    def work() -> int:
        path.unlink(missing_ok=True)
        world.collect(path, format="hdf5", episodes=1, seed=0, progress=False)
        return steps

    work()
    return work


def planning(environments: int, iterations: int, pixels: int) -> Work:
    """Count plans of CEM with 300 candidates and 30 elites, on tensors that are ready to use."""
    import gymnasium

    model = lewm(pixels).eval().requires_grad_(False)
    solver = swm.solver.CEMSolver(model, num_samples=300, topk=30, n_steps=1)
    box = gymnasium.spaces.Box(-1, 1, (environments, 2))
    plan = swm.PlanConfig(horizon=5, receding_horizon=5, action_block=5)
    solver.configure(action_space=box, n_envs=environments, config=plan)
    image = torch.randn(environments, 1, 3, pixels, pixels)
    goal, action = torch.randn_like(image), torch.zeros(environments, 1, 2)

    def work() -> int:
        solver.solve({"pixels": image, "goal": goal, "action": action})
        return 1

    work()
    solver.n_steps = iterations
    return work


def training(pixels: int, batch: int) -> Work:
    """Count frames that went through loss, gradient and optimiser, on tensors ready to use.

    The step of the published training (weights, optimiser, clipping), in 32-bit floats. All four
    frames of a window are embedded, and none is detached.
    """
    from stable_worldmodel.wm.loss import SIGReg

    model, sigreg = lewm(pixels).train(), SIGReg(knots=17, num_proj=1024)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=1e-3)
    frames = HISTORY + PREDICTED
    images, actions = (
        torch.randn(batch, frames, 3, pixels, pixels),
        torch.randn(batch, frames, ACTION),
    )

    def work() -> int:
        encoded = model.encode({"pixels": images, "action": actions})
        embeddings = encoded["emb"]
        predicted = model.predict(embeddings[:, :HISTORY], encoded["act_emb"][:, :HISTORY])
        loss = (predicted - embeddings[:, PREDICTED:]).square().mean()
        loss = loss + 0.09 * sigreg(embeddings.transpose(0, 1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return batch * frames

    work()
    return work


def reading(folder: str, frames: int, store: str) -> Work:
    """Count random windows of so many frames, read from a Lance table or an HDF5 file.

    Lance is asked for many windows at once, which is what its reader is fast at, and HDF5, which
    cannot be, for one after the other.
    """
    from stable_worldmodel.data import get_format

    path = Path(folder) / f"theirs.{'h5' if store == 'hdf5' else 'lance'}"
    if not path.exists():
        with get_format(store).open_writer(path) as writer:
            writer.write_episodes(_episodes(Path(folder)))
    if store == "lance":
        from stable_worldmodel.data.formats import lance

        lance._tv_decode_jpeg = _decode
    dataset = get_format(store).open_reader(path, num_steps=frames, keys_to_load=["pixels"])
    random = np.random.default_rng(0)

    def work() -> int:
        drawn = random.integers(len(dataset), size=WINDOWS).tolist()
        if store == "lance":
            return len(dataset.__getitems__(drawn))
        return len([dataset[index] for index in drawn])

    work()
    return work


def lewm(pixels: int) -> torch.nn.Module:
    """Return LeWM with random weights, in the sizes of its published configuration."""
    from stable_worldmodel.wm.lewm import LeWM
    from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
    from transformers import ViTConfig, ViTModel

    width = 192
    vit = ViTConfig(
        hidden_size=width, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768,
        image_size=pixels, patch_size=14,
    )  # fmt: skip
    predictor = Predictor(
        num_frames=HISTORY, depth=6, heads=16, dim_head=64, mlp_dim=2048, dropout=0.1,
        input_dim=width, hidden_dim=width, output_dim=width,
    )  # fmt: skip
    heads = [MLP(width, 2048, width, norm_fn=torch.nn.BatchNorm1d) for _ in range(2)]
    encoder = ViTModel(vit, add_pooling_layer=False, use_mask_token=False)
    return LeWM(encoder, predictor, Embedder(input_dim=ACTION, emb_dim=width), *heads)


def _episodes(folder: Path) -> Any:  # noqa: ANN401 - a generator of dictionaries
    """Yield the pixels of each episode that our side has collected, from its plain files."""
    for shard in sorted(folder.glob("shard-*")):
        pixels, start = np.load(shard / "pixels.npy", mmap_mode="r"), 0
        for length in json.loads((shard / "shard.json").read_text())["lengths"]:
            yield {"pixels": list(pixels[start : start + length])}
            start += length


def _decode(blobs: list[torch.Tensor], mode: object = None) -> list[torch.Tensor]:
    """Decode JPEGs by OpenCV, in the place of torchvision's decoder, which no CPU wheel brings."""
    import cv2

    images = [cv2.imdecode(blob.numpy(), cv2.IMREAD_COLOR_RGB) for blob in blobs]
    return [torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))) for image in images]


CASES = {
    "import": imported,
    "collection": collection,
    "planning": planning,
    "training": training,
    "reading": reading,
}

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    serve(CASES, {package: metadata.version(package) for package in PACKAGES})
