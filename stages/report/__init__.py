"""Summaries of a run, and whether the selection helped."""
