"""100,000 conversations with tool calls: fast, small, and each of them there."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from schemas.records import canonical_turns
from schemas.turns import record_message
from tests.bench.tool_rows import GIB, ROWS, SECONDS, curate
from tests.support.tool_rows import glaive_record, glaive_row


@pytest.mark.proof
@pytest.mark.usefixtures("reads_tools")
def test_many_tool_rows_are_exported_in_time(tmp_path: Path) -> None:
    seconds, gib = curate(tmp_path)
    shards = sorted((tmp_path / "store").rglob("data/train-*.parquet"))
    assert sum(pq.read_metadata(file).num_rows for file in shards) == ROWS
    expected = {row["id"]: row for row in map(glaive_record, map(glaive_row, range(0, ROWS, 97)))}
    rows = pq.read_table(shards, filters=[("id", "in", [*expected])]).to_pylist()
    assert len(rows) == len(expected)
    for row in rows:
        turns = [record_message(turn) for turn in row["messages"]]
        assert canonical_turns(turns) == canonical_turns(expected[row["id"]]["messages"])
    assert gib <= GIB
    # What else runs on the machine only adds: the shortest of three runs counts.
    for again in ("b", "c"):
        if seconds > SECONDS:
            (tmp_path / again).mkdir()
            seconds = min(seconds, curate(tmp_path / again)[0])
    assert seconds <= SECONDS
