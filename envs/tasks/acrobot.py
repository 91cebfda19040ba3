"""Acrobot: swing two links up by a motor between them, and balance them upright."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mujepa.envs.task import ASSETS
from mujepa.envs.tasks.double_pendulum import DoublePendulum, Gains
from mujepa.envs.types import Array


@dataclass(frozen=True)
class Acrobot(DoublePendulum):
    """From hanging to upright, tip and elbow within 20 cm, through the last of 6 s.

    A double pendulum without a motor at the shoulder: only the momentum of the lower link moves the
    upper one. So that it can be balanced by decisions every 60 ms, the lower link is the longer
    one, the elbow is damped, and its motor can hold the lower link out; no motor holds the upper.
    """

    name: str = "acrobot"
    mjcf: Path = ASSETS / "acrobot.xml"
    gains: Gains = ((19.0, 6.7, 4.75, 2.04),)
    noise_share: float = 0.6
    start_error: float = 0.04
    balanced: int = 3
    episodes: int = 4000

    def remaining(self, achieved: Array, desired: Array) -> Array:
        """Return the distance, and within 60 cm also that of the weight from above the pivot.

        Bent links can be balanced and then stretched; straight links that lean cannot.
        """
        away = self.distance(achieved, desired)
        off = np.abs(achieved[..., 0] + achieved[..., 3] - desired[..., 0] - desired[..., 3])
        return away + 2 * np.maximum(1 - away / 0.6, 0) * off
