"""Replace the parts of a page that stand between markers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mujepa.runtime.errors import UserError


def fill_markers(text: str, contents: Mapping[str, str]) -> str:
    """Return a page with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced.

    Args:
        text: the page.
        contents: the new content of each name; each must have its markers.

    Raises:
        UserError: markers are missing.
    """
    for name, content in contents.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, found = pattern.subn(lambda m, new=content: f"{m[1]}{new}\n{m[2]}", text)
        if not found:
            raise UserError(f"the page has no markers; put <!-- {name} --> where it belongs")
    return text
