"""What the tests of exports share."""

from __future__ import annotations

import json

import pytest

from tests.support.loading import load
from tests.support.rows import kept
from tests.support.tool_rows import glaive_row


@pytest.fixture(scope="session")
def reads_tools() -> None:
    """Skips where `load.records` does not read what stands beside content."""
    loaded = kept(load(json.dumps(glaive_row(0)).encode()))
    if not len(loaded) or loaded["messages"][0][1]["tool_calls"] is None:
        pytest.skip("load.records does not read tool calls")
