"""Texts as numbers: tokens, ROUGE-L, ragged arrays, n-gram indexes, set-similarity joins."""
