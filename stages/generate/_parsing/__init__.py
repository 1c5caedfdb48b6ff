"""Parsers of completions: lists, fields and labelled sections."""
