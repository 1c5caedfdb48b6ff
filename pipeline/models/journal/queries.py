"""The SQL of the journal."""

from __future__ import annotations

MODELS = """
CREATE TABLE IF NOT EXISTS models (
    digest TEXT NOT NULL PRIMARY KEY,  -- of local weights, as in a request's model
    name   TEXT NOT NULL               -- for people: the last part of the folder's path
)
"""
INSERT = """
INSERT INTO responses (key, request, response, checksum, sent) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET answers = answers + 1
"""
INSERT_MISSING = """
INSERT OR IGNORE INTO responses (key, request, response, checksum, sent) VALUES (?, ?, ?, ?, ?)
"""
SELECT = """
WITH RECURSIVE requested(start) AS (
    SELECT 1 UNION ALL SELECT start + 16 FROM requested WHERE start + 16 < length(?1)
)
SELECT key, CAST(response AS BLOB), checksum FROM responses WHERE rowid IN (
    SELECT rowid FROM responses WHERE key IN (SELECT substr(?1, start, 16) FROM requested)
)
"""
"""The responses to many keys, which are concatenated in one parameter. First all look-ups in
the index, in the order of the keys, then the responses in the order in which they were
written: the requests of one stage are adjacent, so each page is read once."""

ENTRIES = """
SELECT key, CAST(request AS BLOB), CAST(response AS BLOB), answers, checksum, sent
FROM responses ORDER BY key
"""
NEWEST = """
SELECT key, CAST(response AS BLOB), checksum, request -> '$.decoding.max_tokens'
FROM (SELECT key, request, response, checksum FROM responses ORDER BY rowid DESC LIMIT 20000)
WHERE request -> '$.model' = ? LIMIT ?
"""
ANSWERED = """
SELECT EXISTS (
    SELECT 1 FROM (SELECT request FROM responses ORDER BY rowid DESC LIMIT 20000)
    WHERE request -> '$.model' = ? AND request -> '$.decoding' = ?
)
"""
LENGTHS_SAMPLE = 500
"""Requests from which mean lengths are estimated."""
