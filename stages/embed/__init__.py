"""Vectors of rows."""
