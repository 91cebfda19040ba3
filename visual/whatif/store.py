"""The file that keeps the latest state of the what-if page."""

from __future__ import annotations

from pathlib import Path

from mujepa.runtime.errors import UserError
from mujepa.runtime.files import read_json, write_json
from mujepa.visual.whatif.session import Session
from mujepa.visual.whatif.state import WhatIfState, write_state

FILE = "what-if.json"
"""Its name, in the folder of the checkpoint."""


class Store:
    """Keeps the latest state in a file; without a file it is the start of the first episode.

    Raises:
        UserError: the file is damaged, or belongs to another task or model.
    """

    def __init__(self, path: Path, session: Session) -> None:
        self.path = path
        self._task = session.checkpoint.task_name
        remedy = "remove it to start anew"
        raw = read_json(path, remedy) if path.exists() else None
        try:
            self.latest = session.episode(0) if raw is None else session.read(raw)
        except UserError as error:
            raise UserError(f"{path}: {error}; {remedy}") from error

    def save(self, state: WhatIfState) -> None:
        """Replace the file.

        Raises:
            UserError: the file cannot be written.
        """
        self.latest = state
        write_json(self.path, write_state(state, self._task))
