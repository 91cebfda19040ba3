"""Where tensors live: the one place that names accelerators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from mujepa.runtime.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def choose_device(name: DeviceName = "auto", process: int | None = None) -> torch.device:
    """Return the device of a name; `auto` takes CUDA, then MPS, then the CPU.

    Args:
        name: of the kind of device.
        process: number of this process among several on the machine, which then share its GPUs out.

    Raises:
        UserError: the device is not there, or not for so many processes.
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
        raise UserError("device 'mps' serves one process alone; use --device cpu")
    if process >= torch.cuda.device_count():
        raise UserError(
            f"process {process} finds {torch.cuda.device_count()} GPUs on its machine; start one "
            "process for each (--nproc-per-node), or use --device cpu"
        )
    torch.cuda.set_device(process)
    return torch.device(name, process)


def device_name(device: torch.device) -> str:
    """Return the name of the hardware, `cpu` or `mps` where torch knows no better."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def full_precision(
    function: Callable[Concatenate[Tensor, Rest], Result],
) -> Callable[Concatenate[Tensor, Rest], Result]:
    """Have a function of a tensor keep its precision where others are computed in less.

    What is summed over a batch or kept for later stages would lose too much (--precision).
    """

    @functools.wraps(function)
    def precise(tensor: Tensor, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        with torch.autocast(tensor.device.type, enabled=False):
            return function(tensor, *args, **kwargs)

    return precise
