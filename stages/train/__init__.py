"""Models trained on what was chosen."""
