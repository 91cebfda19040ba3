"""The choice of a device; no other module names accelerators."""

from __future__ import annotations

from typing import Literal

import torch

from mujepa.runtime.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(name: DeviceName = "auto", process: int | None = None) -> torch.device:
    """Return the device of a name; `auto` prefers CUDA, then MPS, then the CPU.

    `process` is the local rank if several processes train together, each on its own GPU.

    Raises:
        UserError: the device is not available, or there are too few for all processes.
    """
    there: dict[DeviceName, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there.get(name, False):
        raise UserError(f"device {name!r} is not available here; use --device auto")
    if process is None or name == "cpu":
        return torch.device(name)
    if name == "mps":
        raise UserError("device 'mps' runs one process only; use --device cpu")
    if process >= torch.cuda.device_count():
        raise UserError(
            f"process {process} finds {torch.cuda.device_count()} GPUs on its machine; start one "
            "process for each (--nproc-per-node), or use --device cpu"
        )
    torch.cuda.set_device(process)
    return torch.device(name, process)


def device_name(device: torch.device) -> str:
    """Return the name of the hardware, or `cpu` or `mps`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
