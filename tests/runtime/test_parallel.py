"""Processes that work on pieces: what they give, what they say on the way, and how they end."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from mujepa.runtime.errors import UserError
from mujepa.runtime.parallel import Pool, tick


def square(number: int) -> tuple[int, int]:
    for _ in range(number):
        tick()
    return number**2, os.getpid()


def last(number: int) -> None:
    if number:
        raise UserError(f"{number} is none; take another")


def dawdle(path: str) -> None:
    Path(path).touch()
    for _ in range(6000):
        time.sleep(0.01)
        tick()


def quick_or_slow(path: str | None) -> None:
    if path:
        dawdle(path)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_piece_is_worked_on_once_by_some_process_that_is_not_this_one():
    pool = Pool(2)
    found = dict(pool.map(square, [(number,) for number in range(6)]))
    assert {index: result for index, (result, _) in found.items()} == {i: i**2 for i in range(6)}
    processes = {process for _, process in found.values()}
    assert len(processes) <= 2
    assert os.getpid() not in processes
    assert pool.ticks == sum(range(6))


def test_what_a_piece_refuses_is_refused_here():
    with pytest.raises(UserError, match="3 is none"):
        list(Pool(1).map(last, [(0,), (3,)]))


def test_a_process_that_dies_is_said_in_one_line():
    with pytest.raises(UserError, match="a worker process died; run the same command again"):
        list(Pool(1).map(die, [()]))


def test_whoever_leaves_early_does_not_wait_for_what_nobody_wants(tmp_path):
    """The second piece would take a minute; whoever takes the first result alone is soon free."""
    pool = Pool(2)
    with closing(pool.map(quick_or_slow, [(None,), (str(tmp_path / "slow"),)])) as running:
        assert next(running) == (0, None)
    assert pool.ticks < 6000


def test_ctrl_c_ends_the_processes_without_a_word_of_theirs(tmp_path):
    program = f"""
import signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_parallel import dawdle
from mujepa.runtime.parallel import Pool
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        list(Pool(2).map(dawdle, [({str(tmp_path / "a")!r},), ({str(tmp_path / "b")!r},)]))
    except KeyboardInterrupt:
        sys.exit(130)
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    running = subprocess.Popen(
        [sys.executable, script], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert said == ""
