"""Datasets: how they are collected, stored, imported and sampled."""
