"""Budgets, scores, groups and random draws: what selectors and mixtures share."""
