"""Texts as numbers: tokens, ROUGE-L, ragged arrays, n-gram indexes."""
