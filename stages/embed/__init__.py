"""Sentence vectors of conversations."""
