"""Where tensors live: the one place that names accelerators."""

from __future__ import annotations

from typing import Literal

import torch

from mujepa.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(name: DeviceName = "auto") -> torch.device:
    """Return the device of a name; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: the device is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, available in there.items() if available))
    if not there.get(name, False):
        raise UserError(f"device {name!r} is not available here; use --device auto")
    return torch.device(name)
