"""100,000 conversations with tool calls: loaded, de-duplicated and exported by the command line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.bench.command_line import timed
from tests.bench.table import Line, bound
from tests.support.tool_rows import glaive_row

ROWS = 100_000
SECONDS, GIB = 30.0, 2.0


def curate(folder: Path, rows: int = ROWS) -> tuple[float, float]:
    """Wall seconds and peak memory in GiB of the recipe on so many rows.

    Its store is `folder / "store"`.
    """
    source = folder / "glaive.jsonl"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(glaive_row(number)) + "\n" for number in range(rows))
    recipe = ("run", "tests/bench/tools.yaml", "--store", str(folder / "store"))
    return timed(*recipe, "--set", f"stages.pool.with.path={source}")


def measure(folder: Path) -> list[Line]:
    """The recipe's time and memory."""
    with tempfile.TemporaryDirectory(dir=folder) as work_dir:
        seconds, gib = curate(Path(work_dir))
    what = f"load, dedup.exact, export.parquet, {ROWS:,} rows with tool calls"
    return [bound(what, seconds, "s", SECONDS), bound("  its peak memory", gib, "GiB", GIB)]
