"""Rows that hold what an evaluation asks."""
