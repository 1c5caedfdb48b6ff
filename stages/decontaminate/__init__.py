"""Rows that hold items of evaluation benchmarks."""
