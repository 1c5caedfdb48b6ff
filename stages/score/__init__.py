"""Scores: columns that say how good, hard or unusual a record is. Deciding is for `select`."""
