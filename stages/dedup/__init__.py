"""Rows that say what another row already says."""
