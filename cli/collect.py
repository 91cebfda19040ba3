"""Collect a dataset: a behaviour policy acts in the simulator."""

from mujepa.rollouts.collection import CollectConfig, collect

__all__ = ["CollectConfig", "collect"]
