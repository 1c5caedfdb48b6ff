"""Gradients of single rows: which parameters, one row at a time, projected."""
