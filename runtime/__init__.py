"""What every other package may import: errors, files, console output, worker processes."""
