"""What marks a type in a stage's signature, beside the kind of its data."""

from __future__ import annotations


class InputFilesMark:
    """Marks an option whose value names files: it is hashed by content, never by path."""


class DataSetNameMark:
    """Marks an option that names a data set: on the hub, or a folder, hashed by content."""


class InPartsMark:
    """Marks an edge whose rows a stage reads in parts."""
