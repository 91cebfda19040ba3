"""Files appear whole or not at all, whatever goes wrong while they are written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mujepa.runtime.errors import UserError
from mujepa.runtime.files import (
    read_json,
    replacing_file,
    replacing_folder,
    sha256,
    surviving_folder,
    write_json,
    write_text,
)

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
TROUBLE = [
    pytest.param(FULL, UserError, id="disk full"),
    pytest.param(RuntimeError("bug"), RuntimeError, id="bug"),
    pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="Ctrl-C"),
]


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def crash(folder: Path, code: str) -> None:
    """Run code in another process, which has to die by SIGKILL in the middle of it."""
    died = subprocess.run([sys.executable, "-c", code], cwd=folder, timeout=60)
    assert died.returncode == -signal.SIGKILL


KILL_AT_RENAME = """
import os, signal
from pathlib import Path
from mujepa.runtime.files import replacing_folder
replace, calls = Path.replace, []
def dying(path, target):
    calls.append(path)
    if len(calls) == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
Path.replace = dying
with replacing_folder(Path("run")) as temporary:
    (temporary / "a.txt").write_text("new")
"""


# ---------------------------------------------------------------------------------- files


def test_what_is_written_is_read_again(tmp_path):
    write_text(tmp_path / "deep" / "er" / "a.txt", "grüße\n")
    assert tree(tmp_path) == {"deep/er/a.txt": "grüße\n"}
    value = {"a": [1, 2.5, None], "b": {"c": "d"}}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json", "remedy") == value


@pytest.mark.parametrize(("trouble", "raised"), TROUBLE)
@pytest.mark.parametrize("before", [{}, {"a.txt": "old"}], ids=["new", "replaced"])
def test_trouble_in_the_middle_of_a_file_leaves_what_was_there(tmp_path, before, trouble, raised):
    for name, text in before.items():
        (tmp_path / name).write_text(text)

    def write() -> None:
        with replacing_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("half of the n")
            raise trouble

    with pytest.raises(raised):
        write()
    assert tree(tmp_path) == before


def test_a_file_is_old_until_the_last_moment_and_then_new(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert tree(tmp_path) == {"a.txt": "new"}


def test_a_process_killed_while_it_writes_a_file_leaves_the_old_one(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    crash(
        tmp_path,
        "import os, signal; from pathlib import Path\n"
        "from mujepa.runtime.files import replacing_file\n"
        "with replacing_file(Path('a.txt')) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("write", [write_text, lambda path, _: _fill(path)])
def test_a_path_that_cannot_be_is_reported_in_one_line(tmp_path, write):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*file/a.*; free space or") as caught:
        write(tmp_path / "file" / "a", "text")
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == {"file": "in the way"}


def test_a_full_disk_is_reported_with_the_path_and_leaves_the_old_file(small_disk):
    write_text(small_disk / "a.txt", "old")
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: No space left on device; free"):
        write_text(small_disk / "a.txt", "x" * 2_000_000)
    assert tree(small_disk) == {"a.txt": "old"}
    write_text(small_disk / "a.txt", "x" * 500_000)  # the half file does not use up the room


def test_not_a_number_is_refused_because_json_has_none(tmp_path):
    write_json(tmp_path / "a.json", {"score": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    assert read_json(tmp_path / "a.json", "") == {"score": 1.0}


# -------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(("trouble", "raised"), TROUBLE)
@pytest.mark.parametrize("before", [{}, {"run/a.txt": "old"}], ids=["new", "replaced"])
def test_trouble_in_the_middle_of_a_folder_leaves_what_was_there(tmp_path, before, trouble, raised):
    for name, text in before.items():
        write_text(tmp_path / name, text)

    def write() -> None:
        with replacing_folder(tmp_path / "run") as temporary:
            (temporary / "a.txt").write_text("new")
            (temporary / "b.txt").write_text("half of the n")
            raise trouble

    with pytest.raises(raised):
        write()
    assert tree(tmp_path) == before
    assert (tmp_path / "run").exists() == bool(before)


def test_a_folder_is_old_until_the_last_moment_and_then_new_and_nothing_is_mixed(tmp_path):
    write_text(tmp_path / "run" / "old.txt", "old")
    with replacing_folder(tmp_path / "run") as temporary:
        (temporary / "new.txt").write_text("new")
        assert tree(tmp_path / "run") == {"old.txt": "old"}
    assert tree(tmp_path) == {"run/new.txt": "new"}


def test_a_full_disk_leaves_the_old_folder_and_its_room(small_disk):
    write_text(small_disk / "run" / "a.txt", "old")
    with pytest.raises(UserError, match=r"cannot write .*run.*No space left"):
        _fill(small_disk / "run", "x" * 2_000_000)
    assert tree(small_disk) == {"run/a.txt": "old"}
    _fill(small_disk / "run", "x" * 500_000)


@pytest.mark.parametrize(
    ("rename", "found"), [(1, "old"), (2, "old")], ids=["before", "between the renames"]
)
def test_a_folder_survives_a_crash_while_it_is_replaced(tmp_path, rename, found):
    write_text(tmp_path / "run" / "a.txt", "old")
    crash(tmp_path, KILL_AT_RENAME.format(number=rename))
    assert (tmp_path / "run").exists() == (rename == 1)
    survivor = surviving_folder(tmp_path / "run")
    assert tree(survivor) == {"a.txt": found}


def test_writing_again_after_a_crash_between_the_renames_mends_everything(tmp_path):
    write_text(tmp_path / "run" / "a.txt", "old")
    crash(tmp_path, KILL_AT_RENAME.format(number=2))

    def fail() -> None:
        with replacing_folder(tmp_path / "run"):
            raise FULL

    with pytest.raises(UserError):
        fail()
    assert tree(surviving_folder(tmp_path / "run")) == {"a.txt": "old"}
    with replacing_folder(tmp_path / "run") as temporary:
        (temporary / "a.txt").write_text("new")
    assert surviving_folder(tmp_path / "run") == tmp_path / "run"
    assert tree(tmp_path / "run") == {"a.txt": "new"}
    assert not (tmp_path / ".run.previous").exists()


def test_a_folder_that_never_was_survives_as_its_own_path(tmp_path):
    assert surviving_folder(tmp_path / "run") == tmp_path / "run"


# -------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"cannot read .*a\.json: No such file or directory"),
        (b"", r"a\.json is damaged \(Expecting value"),
        (b'{"a": 1', r"a\.json is damaged \("),
        (b'{"a": 1}\n{"b"', r"a\.json is damaged \("),
        (b"\xff\xfe\x00", r"a\.json is damaged \("),
        (b"[1, 2]", r"a\.json is damaged \(not a JSON object\)"),
        (b"null", r"a\.json is damaged \(not a JSON object\)"),
    ],
)
def test_unreadable_json_is_reported_in_one_line_with_the_remedy(tmp_path, content, reason):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=reason + r".*; eat an apple$") as caught:
        read_json(path, "eat an apple")
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_a_json_file_is_reported(tmp_path):
    with pytest.raises(UserError, match="Is a directory; eat an apple"):
        read_json(tmp_path, "eat an apple")


def test_the_checksum_is_sha256_of_the_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


# -------------------------------------------------------------------------------- helpers


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path, text: str = "text") -> None:
    with replacing_folder(folder) as temporary:
        (temporary / "a.txt").write_text(text)
