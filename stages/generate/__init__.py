"""New records written by a language model."""
