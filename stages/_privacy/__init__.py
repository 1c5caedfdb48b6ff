"""Secrets and personal data in rows: what the gate of a publication and two stages look for."""
