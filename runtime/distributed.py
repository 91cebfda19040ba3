"""Several processes that train one model together, as `torchrun` starts them.

All draw the same batch, and each computes its share of it. A term that is a mean over rows is
computed by each over its own; what a term asks of the whole batch is summed over the processes
here, with its gradient. Then the mean of the processes' gradients is that of one process with the
whole batch. Alone, these functions return what they were given.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from mujepa.runtime import console
from mujepa.runtime.errors import UserError, explanation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PATIENCE = timedelta(days=1)
"""How long processes wait for one another, for example while the first collects experience."""


def count() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process; the first, 0, is the one that writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def local_rank() -> int | None:
    """Return the number of this process among those of its machine; None where it is alone."""
    return int(os.environ.get("LOCAL_RANK", rank())) if distributed.is_initialized() else None


def share() -> slice:
    """Return which rows of a batch are this process's: its own number, and every count-th after."""
    return slice(rank(), None, count())


class _Total(torch.autograd.Function):
    """The sum over the processes, whose gradient is the sum of theirs.

    `torch.distributed.nn` has it too, but deprecated in favour of a private one.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        return _Total.apply(*gradients)


def total(values: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes."""
    return values if count() == 1 else _Total.apply(values)


def average(values: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes."""
    return values if count() == 1 else total(values) / count()


def mean(rows: Tensor) -> Tensor:
    """Return the mean of (N,) over the rows of all processes; N may differ, and may be 0 -> ()."""
    if count() == 1:
        return rows.mean()
    rows_sum, rows_count = total(torch.stack([rows.sum(), rows.new_tensor(len(rows))]))
    return rows_sum / rows_count


def gathered(rows: Tensor) -> Tensor:
    """Return the rows of all processes in the order of the batch, (B / count, ...) -> (B, ...)."""
    if count() == 1:
        return rows
    batch = rows.new_zeros(count() * len(rows), *rows.shape[1:])
    batch[share()] = rows
    return total(batch)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes."""
    if count() == 1:
        return
    gradients = [it.grad for it in parameters if it.grad is not None]
    flat = average(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([it.numel() for it in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def averages(terms: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the means of scalars over the processes, without their gradients."""
    if count() == 1:
        return terms
    values = average(torch.stack([value.detach() for value in terms.values()]))
    return dict(zip(terms, values, strict=True))


def largest(value: float) -> float:
    """Return the largest of the processes' numbers, so that all decide alike."""
    if count() == 1:
        return value
    shared = torch.tensor(float(value), dtype=torch.float64)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return shared.item()


def wait() -> None:
    """Go on when all processes have come here."""
    largest(0)


def copy_first(*modules: nn.Module) -> None:
    """Copy weights and buffers of the first process to the others."""
    if count() == 1:
        return
    for module in modules:
        for tensor in module.state_dict().values():
            shared = tensor.contiguous()
            distributed.broadcast(shared, src=0)
            tensor.copy_(shared)


@contextmanager
def together() -> Iterator[None]:
    """Train with the processes that `torchrun` started with this one, or alone.

    Of the processes that find bad input, one says so, and all exit with code 2. So do those whose
    connection breaks because another one ended.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield
        return
    store, number, size = next(rendezvous("env://"))
    try:
        distributed.init_process_group(store=store, rank=number, world_size=size, timeout=PATIENCE)
        yield
    except (UserError, OSError) as error:
        _complain_once(store, explanation(error))
        _leave()
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).partition("] ")[2].partition(" [")[0] or str(error)
        _complain_once(
            store,
            f"training stopped: another of its processes ended ({reason}); the last checkpoint is "
            "kept, the same command with --resume goes on",
        )
        _leave()
    distributed.destroy_process_group()


def _leave() -> NoReturn:
    """End this process now: Gloo's threads would abort it, because the others have ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def _complain_once(store: distributed.Store, message: str) -> None:
    """Print a message if no other process has printed one; return when it is printed."""
    with suppress(RuntimeError):  # the store is gone with the process that held it
        if store.add("complaints", 1) > 1:
            store.wait(["complained"], timedelta(seconds=10))
            return
        console.error(message)
        store.set("complained", "")
