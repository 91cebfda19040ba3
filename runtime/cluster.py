"""Run jobs as Ray tasks, on this machine or on a cluster, with the interface of `Pool`.

Ray is imported only if a cluster is asked for. It pickles arguments and results, so that a cluster
must be trusted.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
import socket
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mujepa.runtime.errors import UserError
from mujepa.runtime.parallel import Pool

LOCAL, AUTO, CLIENT = "local", "auto", "ray://"
RETRIES = 5  # of a job whose worker was lost
PATIENCE = 30.0  # seconds to wait for a cluster, and for cancelled workers to end
STARTS = 3  # of Ray on this machine: on a busy one its own time limits are short
AT_ONCE = 1000  # jobs submitted, unless the number of workers is given
OBJECT_STORE = 2**28  # size of Ray's object store on this machine [bytes]; results are small
LOGS = "/tmp/ray/session_latest/logs"
QUIET = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}


def check_cluster(where: str | None) -> None:
    """Raise UserError unless a value of `--cluster` names a cluster."""
    if where not in (None, LOCAL, AUTO) and not re.fullmatch(r"ray://[^\s:/]+:\d{1,5}", where):
        raise UserError(f"--cluster {where} is not local, auto or ray://HOST:PORT")


@contextmanager
def connect(where: str | None, workers: int = 0) -> Iterator[Cluster | Pool]:
    """Yield a Ray cluster, or a pool of processes of this machine.

    Within a connection, another `connect` yields the same cluster. `where` is None for processes
    of this machine; `local` starts Ray on this machine, reachable from nowhere else;
    `auto` joins the cluster of RAY_ADDRESS or of this machine; `ray://HOST:PORT` is a client of
    one. `workers` are jobs at once, 0 for one per core.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached or used.
    """
    if where is None:
        yield Pool(workers)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the default Ray announces
    if where == LOCAL:  # keeps Ray on the loopback interface; read on import
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("--cluster needs Ray; pip install 'mujepa[cluster]'") from error
    if ray.is_initialized():
        yield Cluster(workers)
        return
    _init(where, workers)
    try:
        yield Cluster(workers)
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Cluster:
    """A connection to Ray; `workers` are jobs at once, 0 for one per core of the cluster."""

    workers: int = 0
    ticks = 0  # its jobs do not report steps of progress

    @property
    def cores(self) -> int:
        """The cores of its largest machine."""
        import ray

        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        return max(1, int(max(machine.get("CPU", 0) for machine in machines)))

    def accelerators(self, device: str) -> int:
        """Return how many accelerators a job needs that computes on `device`: 1 or 0."""
        import ray

        return int(device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1)

    def map(
        self,
        function: Callable[..., Any],
        jobs: Sequence[tuple[Any, ...]],
        *,
        cores: int = 1,
        accelerators: int = 0,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Generator[tuple[int, Any]]:
        """Run jobs as `Pool.map` does, each with its cores and accelerators.

        Workers change to the folder of this process first, so that relative paths hold.
        """
        import ray

        task = ray.remote(perform).options(
            name=function.__name__, num_cpus=cores, num_gpus=accelerators, max_retries=RETRIES
        )
        caller, waiting, running = Caller(), deque(enumerate(jobs)), {}
        try:
            while waiting or running:
                while waiting and len(running) < (self.workers or AT_ONCE):
                    index, arguments = waiting.popleft()
                    running[task.remote(caller, function, *arguments)] = index
                done, _ = ray.wait(list(running), num_returns=1, timeout=1)
                for reference in done:
                    yield running.pop(reference), _result(reference)
                if not done:
                    meanwhile()
        finally:
            if running and ray.is_initialized():
                for reference in running:
                    ray.cancel(reference)  # interrupts it as Ctrl-C does
                ray.wait(list(running), num_returns=len(running), timeout=PATIENCE)


@dataclass(frozen=True)
class Caller:
    """The process that submits jobs: its folder, command line and version of mujepa."""

    folder: str = field(default_factory=lambda: str(Path.cwd()))
    argv: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))
    version: str = field(default_factory=lambda: metadata.version("mujepa"))


def perform(caller: Caller, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
    """Run a function on a worker with the caller's working directory and command line."""
    here = metadata.version("mujepa")
    if here != caller.version:
        raise UserError(
            f"{platform.node()} has mujepa {here}, the caller has {caller.version}; "
            "install the same version on all machines of the cluster"
        )
    try:
        os.chdir(caller.folder)
    except OSError as error:
        raise UserError(
            f"{caller.folder} does not exist on {platform.node()}; "
            "it must be on a disk that all machines of the cluster share"
        ) from error
    sys.argv = list(caller.argv)  # provenance records it
    return function(*arguments)


def run_distributed(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    processes: int,
    cores: int,
    accelerators: int,
    scratch: Path,
) -> Any:  # noqa: ANN401
    """Run a function in processes of one `torch.distributed` group, by Ray Train.

    Ray Train's own files are in `scratch`, on a disk that all share; it is removed afterwards.

    Returns:
        What the function returned in the first process.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _run_process,
        train_loop_config={"call": (Caller(), function, *arguments)},
        torch_config=TorchConfig(backend="nccl" if accelerators else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=processes,
            use_gpu=bool(accelerators),
            resources_per_worker={"CPU": cores, "GPU": accelerators},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(scratch.absolute()),
            failure_config=FailureConfig(max_failures=RETRIES),
        ),
    )
    try:
        result = trainer.fit().return_value
    except TrainingFailedError as error:
        raise UserError(f"workers were lost again and again ({error}); --resume goes on") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if isinstance(result, UserError):
        raise result
    return result


def _run_process(config: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return what the function returns or refuses: Ray Train would try again what is raised."""
    try:
        return perform(*config["call"])
    except UserError as error:
        return error


def _init(where: str, workers: int) -> None:
    import ray

    if where == LOCAL:
        cores = max(workers, len(os.sched_getaffinity(0)))
        options = {"num_cpus": cores, "object_store_memory": OBJECT_STORE, **QUIET}
        address, problem, remedy = LOCAL, "Ray does not start on this machine", "see " + LOGS
    else:
        address = os.environ.get("RAY_ADDRESS", AUTO) if where == AUTO else where
        options = {} if address.startswith(CLIENT) else QUIET
        problem, remedy = f"no cluster can be reached at {address}", "start one: ray start --head"
        if address != AUTO:
            remedy = "is it up, is it Ray, does it ask for a token (RAY_AUTH_MODE=token)?"

    def start() -> None:
        if address not in (LOCAL, AUTO):
            host, _, port = address.removeprefix(CLIENT).rpartition(":")
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is in the error
            ray.init(address, **options)

    logging.disable(logging.WARNING)
    try:
        for attempt in reversed(range(STARTS if where == LOCAL else 1)):
            try:
                return start() if where == LOCAL else _within(2 * PATIENCE, start)
            except Exception as error:  # Ray raises plain ones here
                if not attempt:
                    raise UserError(f"{problem} ({_line(error)}); {remedy}") from error
                ray.shutdown()
    finally:
        logging.disable(logging.NOTSET)


def _within(seconds: float, function: Callable[[], None]) -> None:
    """Call a function that may never return; raise TimeoutError if it takes longer."""
    future: Future[None] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    future.result(seconds)


def _result(reference: Any) -> Any:  # noqa: ANN401
    import ray
    from ray import exceptions

    try:
        return ray.get(reference)
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | OSError):
            raise error.cause from None
        raise
    except exceptions.RayError as error:
        raise UserError(
            f"workers were lost {RETRIES + 1} times on the same job ({_line(error)}); "
            "run the same command again to continue where it stopped"
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
