"""Which rows to train on, under a budget."""
