"""The one exception that a person's input can cause, and how it is said."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Bad input, said in one line that names the value and the remedy.

    It is no `ValueError`, so that the reader of the command line passes it on as it is.
    """


def explanation(error: UserError | OSError) -> str:
    """Return what a person is told about bad input, or about what the system refuses."""
    if isinstance(error, UserError):
        return str(error)
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return `did you mean 'NAME'?` for the most similar known name, or `otherwise`."""
    import difflib  # only needed once something is wrong

    similar = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {similar[0]!r}?" if similar else otherwise
