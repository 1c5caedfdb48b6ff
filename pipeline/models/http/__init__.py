"""Requests over HTTP: client, scheduler and rate limits."""
