"""Greedy maximisation of submodular objectives over vectors."""
