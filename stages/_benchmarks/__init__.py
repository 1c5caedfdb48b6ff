"""Benchmarks by lm-evaluation-harness: tasks out of items, engines behind it, and scores."""
