"""Judging an agent: the one evaluation loop, its statistics, diagnostics and report."""
