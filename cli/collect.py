"""Collect experience: environment + behaviour policy -> rollout dataset."""

from mujepa.rollouts.collect import CollectConfig, collect

__all__ = ["CollectConfig", "collect"]
