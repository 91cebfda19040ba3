"""The `mujepa` command: one file for each sub-command."""
