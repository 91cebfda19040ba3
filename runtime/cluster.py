"""Many workers: functions run as Ray's tasks, on this machine or on a cluster.

Whoever has work in pieces asks `connect` for a cluster and gives the pieces to `Cluster.map`. A
piece whose worker was lost runs again on another; what is written must therefore be written whole
or not at all, and what is random must depend on the piece alone. Nothing here knows what a piece
is, and Ray is not imported unless a cluster is asked for.

A task runs in the main thread of its worker, one after the other, so that what belongs to a thread
(an OpenGL context) may be kept from one task to the next. Ray pickles what goes to and fro: a
cluster is trusted by those who use it.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mujepa.runtime.errors import UserError
from mujepa.runtime.parallel import Pool

LOCAL, AUTO, CLIENT = "local", "auto", "ray://"
RETRIES = 5
"""Times that a piece is tried again whose worker was lost."""
PATIENCE = 30.0
"""Seconds that a cluster is waited for, and that workers are given to end what they are doing."""
STARTS = 3
"""Times that Ray is started on this machine: beside other work its own time limits may be short."""
AT_ONCE = 1000
"""Pieces that a cluster is told of at once, unless it is told the number of workers."""
OBJECT_STORE = 2**28
"""Bytes for results on their way to here, on this machine: they are small."""


def check_cluster(where: str | None) -> None:
    """Check what was given as `--cluster`.

    Raises:
        UserError: it names no cluster.
    """
    if where in (None, LOCAL, AUTO) or re.fullmatch(r"ray://[^\s:/]+:\d{1,5}", where or ""):
        return
    raise UserError(f"--cluster {where} is not local, auto or ray://HOST:PORT")


@contextmanager
def connect(where: str | None, workers: int = 0) -> Iterator[Cluster | Pool]:
    """Yield a cluster, and leave it afterwards; processes of this machine if none is asked for.

    Within a connection, another `connect` yields the same cluster.

    Args:
        where: `local` starts Ray on this machine, reachable from nowhere else; `auto` joins the
            cluster of RAY_ADDRESS or of this machine; `ray://HOST:PORT` is a client of one.
        workers: tasks at once; 0 for as many as there are cores.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached or used.
    """
    if where is None:
        yield Pool(workers)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray announces
    if where == LOCAL:  # the switch by which Ray stays on the loopback interface; read on import
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("--cluster needs Ray; pip install 'mujepa[cluster]'") from error
    if ray.is_initialized():
        yield Cluster(workers)
        return
    if where == LOCAL:
        _start(workers)
    else:
        _join(where)
    try:
        yield Cluster(workers)
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Cluster:
    """A connection to Ray.

    Attributes:
        workers: tasks at once; 0 for as many as it has cores.
    """

    workers: int = 0
    ticks = 0
    """What pieces say while they run does not come from elsewhere."""

    @property
    def cores(self) -> int:
        """The cores of its largest machine."""
        import ray

        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        return max(1, int(max(machine.get("CPU", 0) for machine in machines)))

    def accelerators(self, device: str) -> int:
        """Return how many a task is to have that computes on `device`: one, if there are any."""
        import ray

        return int(device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1)

    def map(
        self,
        function: Callable[..., Any],
        pieces: Sequence[tuple[Any, ...]],
        *,
        cores: int = 1,
        accelerators: int = 0,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Generator[tuple[int, Any]]:
        """Call a function with each of the pieces, and yield index and result as they come.

        Paths mean there what they mean here: a worker goes to the folder of this process first.
        Close the iterator (`contextlib.closing`) if it may be left before its end.

        Args:
            function: of a module that the workers can import.
            pieces: the arguments of each call; they and the results are pickled.
            cores: cores that a call needs.
            accelerators: accelerators that it needs.
            meanwhile: called about every second while nothing comes.

        Raises:
            UserError: as the function raised it, or workers were lost again and again.
        """
        import ray

        task = ray.remote(perform).options(
            name=function.__name__, num_cpus=cores, num_gpus=accelerators, max_retries=RETRIES
        )
        waiting, running = deque(enumerate(pieces)), {}
        try:
            while waiting or running:
                while waiting and len(running) < (self.workers or AT_ONCE):
                    index, arguments = waiting.popleft()
                    reference = task.remote(str(Path.cwd()), sys.argv, function, *arguments)
                    running[reference] = index
                done, _ = ray.wait(list(running), num_returns=1, timeout=1)
                for reference in done:
                    yield running.pop(reference), _fetch(reference)
                if not done:
                    meanwhile()
        finally:
            _cancel(list(running))


def perform(folder: str, argv: list[str], function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
    """Call a function in a worker, as if it were called where the work was given out.

    Raises:
        UserError: the folder is not there.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"{folder} is not there on {platform.node()}; "
            "it must be on a disk that all machines of the cluster share"
        ) from error
    sys.argv = argv  # what is written says which command made it
    return function(*arguments)


def _start(workers: int) -> None:
    """Start Ray on this machine."""
    import ray

    for attempt in range(STARTS):
        try:
            ray.init(
                address=LOCAL, num_cpus=max(workers, len(os.sched_getaffinity(0))),
                object_store_memory=OBJECT_STORE, **_quietly(),
            )  # fmt: skip
        except Exception as error:  # Ray raises plain ones here
            ray.shutdown()
            if attempt + 1 == STARTS:
                raise UserError(
                    f"Ray does not start on this machine ({_line(error)}); "
                    "its logs are in /tmp/ray/session_latest/logs"
                ) from error
        else:
            return


def _join(where: str) -> None:
    """Join a cluster that is there, whose machines have this version of mujepa."""
    import ray
    from ray import exceptions

    address = os.environ.get("RAY_ADDRESS", AUTO) if where == AUTO else where
    remedy = "start one with: ray start --head"
    if address != AUTO:
        remedy = "is it up, is it Ray, does it ask for a token (RAY_AUTH_MODE=token)?"
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    logging.disable(logging.WARNING)
    try:
        if address != AUTO:
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        options = {} if address.startswith(CLIENT) else _quietly()
        _within(2 * PATIENCE, lambda: ray.init(address=address, **options))
    except Exception as error:  # as above
        raise UserError(
            f"no cluster can be reached at {address} ({_line(error)}); {remedy}"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    here = metadata.version("mujepa")
    asked = ray.remote(metadata.version).options(num_cpus=0).remote("mujepa")
    try:
        there = ray.get(asked, timeout=2 * PATIENCE)
    except exceptions.RayTaskError:
        there = "none"
    except exceptions.GetTimeoutError:
        there = "no answer"
    if there != here:
        ray.shutdown()
        raise UserError(
            f"the cluster at {address} has mujepa {there}, here is {here}; "
            "install the same version on all its machines"
        )


def _within(seconds: float, function: Callable[[], object]) -> None:
    """Call a function that may never return; what it raises is raised here.

    Raises:
        TimeoutError: it did not return in time.
    """
    raised: list[BaseException] = []

    def call() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they say is said in one line
                function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    if raised:
        raise raised[0]


def _quietly() -> dict[str, Any]:
    return {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}


def _fetch(reference: Any) -> Any:  # noqa: ANN401
    """Return a task's result, or raise what its function raised."""
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
            f"workers were lost {RETRIES + 1} times on the same piece ({_line(error)}); "
            "run the same command again to continue where it stopped"
        ) from error


def _cancel(references: list[Any]) -> None:
    """Interrupt tasks as Ctrl-C does, and let them end."""
    import ray

    if not references or not ray.is_initialized():
        return
    for reference in references:
        ray.cancel(reference)
    ray.wait(references, num_returns=len(references), timeout=PATIENCE)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
