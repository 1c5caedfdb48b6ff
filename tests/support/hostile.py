"""A stage whose columns, reasons and evidence are as long and as hostile as a row can make them."""

from __future__ import annotations

import json
from typing import Final

import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage

MARKUP: Final = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\u202e"
LONG: Final = 2_000_000


@stage(version=1, scope="set", reads=["messages"], adds={"label": pl.String})
def mark(ctx: Context, rows: Records) -> pl.DataFrame:
    """Drop every second row for a long reason with long evidence; tag the others at length.

    Args:
        ctx: Not used.
        rows: Any rows.
    """
    evidence = json.dumps({"n" * 3000 + MARKUP: MARKUP, "why": "e" * LONG})
    is_dropped = [number % 2 == 0 for number in range(len(rows))]
    return pl.DataFrame(
        {
            "label": ["l" * LONG + MARKUP] * len(rows),
            "drop_reason": ["r" * 3000 + MARKUP if drop else None for drop in is_dropped],
            "evidence": [evidence if drop else None for drop in is_dropped],
        },
        schema_overrides={"drop_reason": pl.String, "evidence": pl.String},
    )
