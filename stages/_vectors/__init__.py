"""Vectors: arrays, projections, k-means, greedy deduplication."""
