"""Duplicates, near-duplicates and rows that are not novel."""
