"""Collectives for processes that train one model together, as `torchrun` starts them.

All processes draw the same batch, and each computes its share of the rows. Loss terms that are
means over rows stay local; batch statistics are all-reduced with their gradients. The average of
the gradients then equals that of one process with the whole batch. In a single process these
functions return their argument.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NoReturn

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from mujepa.runtime import console
from mujepa.runtime.errors import UserError, explanation

PATIENCE = timedelta(days=1)  # for one another, for example while rank 0 collects data


def count() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process; rank 0 writes the files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def local_rank() -> int | None:
    """Return the rank among the processes of this machine; None in a single process."""
    return int(os.environ.get("LOCAL_RANK", rank())) if distributed.is_initialized() else None


def share() -> slice:
    """Return the rows of a batch that belong to this process: rank, rank + count, ..."""
    return slice(rank(), None, count())


class _Total(torch.autograd.Function):
    """All-reduced sum with a gradient; that of `torch.distributed.nn` is deprecated."""

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
    """Return the mean over the rows of all processes, (N,) -> (); N may differ and may be 0."""
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
    """Return the largest of the processes' numbers, so that all make the same decision."""
    if count() == 1:
        return value
    shared = torch.tensor(float(value), dtype=torch.float64)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return shared.item()


def wait() -> None:
    """Wait until all processes have called this function."""
    largest(0)


def copy_first(*modules: nn.Module) -> None:
    """Copy weights and buffers of rank 0 to the other processes."""
    if count() == 1:
        return
    for module in modules:
        for tensor in module.state_dict().values():
            shared = tensor.contiguous()
            distributed.broadcast(shared, src=0)
            tensor.copy_(shared)


@contextmanager
def together() -> Iterator[None]:
    """Join the processes that `torchrun` started with this one, if it did.

    After bad input, one process prints the error and all exit with code 2; so do those whose
    connection breaks because another process ended.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield
        return
    store, number, size = next(rendezvous("env://"))
    try:
        distributed.init_process_group(store=store, rank=number, world_size=size, timeout=PATIENCE)
        yield
    except (UserError, OSError) as error:
        _print_once(store, explanation(error))
        _exit()
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).partition("] ")[2].partition(" [")[0] or str(error)
        _print_once(
            store,
            f"training stopped: another of its processes ended ({reason}); the last checkpoint is "
            "kept, the same command with --resume goes on",
        )
        _exit()
    distributed.destroy_process_group()


def _exit() -> NoReturn:
    """Exit at once: Gloo's threads would abort this process, because the others have ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def _print_once(store: distributed.Store, message: str) -> None:
    """Print an error unless another process has printed one; return when it is printed."""
    with suppress(RuntimeError):  # the store is gone with the process that held it
        if store.add("errors", 1) > 1:
            store.wait(["printed"], timedelta(seconds=10))
            return
        console.error(message)
        store.set("printed", "")
