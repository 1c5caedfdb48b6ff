"""Duplicate removal."""
