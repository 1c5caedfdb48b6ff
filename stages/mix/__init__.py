"""How much of each source or kind, and in which order: budgets, curricula, online mixtures."""
