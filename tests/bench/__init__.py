"""Measurements: equality is asserted before any ratio is printed."""
