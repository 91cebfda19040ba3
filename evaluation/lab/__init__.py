"""What an agent knows, and where it fails: everything that `mujepa evaluate --full` measures."""
