"""Names of `tests.support.rows` for the tests that still import them from here."""

from __future__ import annotations

from tests.support.rows import frame, record, self_instruct

__all__ = ["frame", "record", "self_instruct"]
