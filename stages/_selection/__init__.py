"""Budgets, scores and groups: what selectors share."""
