"""Evaluation of agents: the stepping loop, baselines, statistics, diagnostics and report."""
