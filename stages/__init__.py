"""The domain: one family a folder, one method a file. The engine finds them by name."""
