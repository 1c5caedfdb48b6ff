"""Benchmark decontamination."""
