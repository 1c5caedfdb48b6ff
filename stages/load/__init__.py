"""Rows of the outside world become records, documents and evaluation items."""
