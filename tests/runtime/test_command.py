"""The command line: what help shows, and how a wrong flag or value is answered."""

from __future__ import annotations

import pytest

from mujepa.runtime.command import Advanced, flag_names, read, run
from mujepa.runtime.settings import Count, settings


@settings
class Inner:
    """The inner settings."""

    width: Count = 3
    """Width of it."""
    depth: Advanced[Count] = 4
    """Depth of it."""


@settings
class Outer:
    """The outer settings."""

    inner: Inner = Inner(width=7)
    """A group."""
    hidden: Advanced[Inner] = Inner()
    """A group that is not often needed."""
    learning_rate: float = 0.5
    """The rate."""
    plain: bool = False
    """A switch."""


def helped(capsys, flag: str) -> str:
    with pytest.raises(SystemExit) as ended:
        read(Outer, [flag], "outer")
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


def test_help_leaves_out_what_is_advanced_and_help_all_shows_it(capsys):
    short = helped(capsys, "--help")
    assert "Width of it. (default: 7)" in short
    assert "--help-all shows all settings" in short
    assert "depth" not in short
    assert "hidden" not in short
    full = helped(capsys, "--help-all")
    assert "--inner.depth INT" in full
    assert "--hidden.width INT" in full


def test_what_is_advanced_can_be_given():
    made = read(
        Outer, ["--inner.depth", "9", "--hidden.width=8", "--plain", "--learning_rate", "1"]
    )
    assert made == Outer(Inner(7, 9), Inner(8), 1.0, plain=True)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--lr 3", "unknown flag --lr; did you mean --learning-rate?"),
        ("--learning-rat 3", "unknown flag --learning-rat; did you mean --learning-rate?"),
        ("--width 3", "unknown flag --width; did you mean --inner.width or --hidden.width?"),
        ("--colour red", "unknown flag --colour; outer --help lists them"),
        ("--inner.depth 0", "--inner.depth must be at least 1, got 0"),
    ],
)
def test_a_wrong_flag_or_value_is_answered_in_one_line(words, answer, capsys):
    assert run(print, Outer, words.split(), "outer") == 2
    assert capsys.readouterr().err == f"mujepa: {answer}\n"


def test_the_names_of_all_flags_are_known():
    assert list(flag_names(Outer)) == [
        "inner.width", "inner.depth", "hidden.width", "hidden.depth", "learning-rate", "plain"
    ]  # fmt: skip
