"""Requests over HTTP: the client, how fast it sends, and what it tries again."""
