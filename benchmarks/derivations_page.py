"""Point the links of docs/derivations.md, [`CODE`](../FILE.py#LINE), at the lines of the code.

python benchmarks/derivations_page.py
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import UserError
from mujepa.runtime.files import write_text

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[`([^`]+)`\]\(\.\./([\w/]+\.py)#L\d+\)")


@dataclass(frozen=True)
class DerivationsConfig:
    """Bring the line numbers of the page up to date."""

    page: Path = ROOT / "docs" / "derivations.md"
    """The page."""


def main(config: DerivationsConfig) -> None:
    """Rewrite the page."""
    write_text(config.page, linked(config.page.read_text(encoding="utf-8")))
    console.print(str(config.page))


def linked(text: str) -> str:
    """Return the page with every link at the first line of its file that holds its code.

    Raises:
        UserError: no line does.
    """

    def link(match: re.Match[str]) -> str:
        code, name = match.groups()
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        found = [number for number, line in enumerate(lines, 1) if code in line]
        if not found:
            raise UserError(
                f"docs/derivations.md: `{code}` is not in {name}; name what is there now"
            )
        return f"[`{code}`](../{name}#L{found[0]})"

    return LINK.sub(link, text)


if __name__ == "__main__":
    raise SystemExit(run(main, DerivationsConfig))
