"""Novelty by ROUGE-L: a greedy filter with bounds that spare most comparisons."""
