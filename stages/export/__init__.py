"""Export: files that other programs read."""
