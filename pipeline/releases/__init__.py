"""Releases: named, versioned, immutable sets of artifacts, and what is done with them."""
