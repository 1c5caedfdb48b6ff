"""Loaders: sources become records, documents and evaluation items; branches are joined."""
