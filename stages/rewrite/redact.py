"""Take keys, passwords and personal data out of conversations, which makes new records.

A stage of its own and not an option of `tag.secrets`: an id is the digest of all that a trainer
sees, so a row without its secret is another record, and stages that tag or judge rows leave
them as they are. Every row stays accounted for: a clean one passes as it is, a redacted one has a
new id and names the old one first in `parents`, and where two become equal one is dropped as
`duplicate`.

What is looked for, and where, is that of `tag.secrets` and of the gate of a publication. A
value is replaced in the whole row by its kind in brackets: `[github-pat]`, `[email]`. The result
is searched again: a row that is not clean then is dropped, never passed on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.stage import ALL, Columns, Edges, Records, stage
from pipeline.types import PhoneRegions
from schemas.records import RECORD_COLUMNS, record_id
from stages._common.verdicts import evidence_json
from stages._privacy.redaction import redacted_row
from stages._privacy.scan import DEFAULT_KINDS, Kind, Kinds, scan

_SEARCHED: Final = ("messages", "tools", "extra")
_ROUNDS: Final = 3
"""How often a row is searched and redacted: a mark may change what its neighbours look like."""

_VERDICT: Final = {"drop_reason": pl.String(), "evidence": pl.String()}


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    added: dict[str, Any] = {"redacted": pl.List(pl.String())}
    for columns in edges["rows"]:
        added |= {name: kind for name, kind in columns.items() if name not in RECORD_COLUMNS}
    return added


@stage(version=1, scope="set", reads=ALL, adds=_adds)
def redact(
    ctx: Context,
    rows: list[Records],
    *,
    kinds: Kinds = DEFAULT_KINDS,
    phone_regions: PhoneRegions = ("US",),
) -> Records:
    """The rows without what they hold of some kinds; those that hold nothing are the same.

    Adds `redacted`: what was taken out (`github-pat`, `email`, ...), sorted, each once; empty for
    a row that is as it was. A redacted row keeps its origins, has the old id before its
    `parents`, and
    null in columns of earlier stages, which were about another text.

    Args:
        rows: Conversations; of several pools all.
        kinds: What is taken out: key, password, email, phone, card, iban, ip.
        phone_regions: Countries whose national way to write phone numbers counts, such as US,
            GB or DE; those with a + always do.

    Returns:
        The rows. Dropped: rows equal to one before them as `duplicate` (evidence: `kept`, its
        id, and `id`, the row's own before), and rows that still hold something after three rounds
        as `not_redacted` (evidence: `kinds`).

    Example:
        ```yaml
        clean: {uses: rewrite.redact, needs: pool, with: {kinds: [key, email, phone]}}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> messages = [{"role": "user", "content": "I am ada@analytical.org."}]
        >>> rows = pl.DataFrame([{"id": "a", "messages": messages}], schema=RECORD_COLUMNS)
        >>> clean = redact(Context.scratch(Path(mkdtemp())), [rows])
        >>> clean["messages"][0][0]["content"], clean["redacted"][0].to_list()
        ('I am [email].', ['email'])
        >>> clean["parents"][0].to_list()
        ['a']
    """
    pool = pl.concat(rows, how="diagonal")
    records, names, unclean = _redacted(pool, kinds, phone_regions)
    changed = pl.DataFrame(list(records.values()), schema=RECORD_COLUMNS)
    is_changed = pl.int_range(pl.len()).is_in(list(records))
    pool = pool.with_columns(pl.int_range(pl.len()).alias("_at"), before="id")
    added = [name for name in pool.columns if name not in (*RECORD_COLUMNS, "_at", "before")]
    same = pool.filter(~is_changed)
    new = pl.concat([changed, pool.filter(is_changed).select("_at", "before")], how="horizontal")
    whole = pl.concat([same, new], how="diagonal").sort("_at")
    taken_out = [sorted(names.get(position, ())) for position in range(len(pool))]
    whole = whole.with_columns(pl.Series("redacted", taken_out, pl.List(pl.String)))
    columns = [*RECORD_COLUMNS, "redacted", *added, *_VERDICT]
    return _merged(whole.with_columns(_verdicts(whole, unclean))).select(columns)


def _redacted(
    pool: pl.DataFrame, kinds: Sequence[Kind], regions: Sequence[str]
) -> tuple[dict[int, dict[str, Any]], dict[int, set[str]], dict[int, list[str]]]:
    """The records that change, by position in order; what was taken out; what could not be."""
    records: dict[int, dict[str, Any]] = {}
    names: dict[int, set[str]] = defaultdict(set)
    searched, positions = pool.select(_SEARCHED), list(range(len(pool)))
    for _ in range(_ROUNDS):
        marks: dict[int, dict[str, str]] = defaultdict(dict)
        for finding in scan(searched, kinds, regions).iter_rows(named=True):
            marks[positions[finding["row"]]][finding["value"]] = f"[{finding['name']}]"
        # A loop, over the rows that hold something alone.
        for position, values in marks.items():
            before = records.get(position) or pool.row(position, named=True)
            records[position] = redacted_row(before, values)
            names[position] |= {mark[1:-1] for mark in values.values()}
        positions = sorted(marks)
        schema = {name: RECORD_COLUMNS[name] for name in _SEARCHED}
        searched = pl.DataFrame([records[p] for p in positions], schema=schema)
    unclean: dict[int, list[str]] = defaultdict(list)
    for finding in scan(searched, kinds, regions).iter_rows(named=True):
        unclean[positions[finding["row"]]].append(finding["name"])
    for position, record in records.items():
        record["parents"] = [pool["id"][position], *(record["parents"] or ())]
        record["id"] = record_id(record["messages"], record["tools"])
    return dict(sorted(records.items())), names, unclean


def _verdicts(rows: pl.DataFrame, unclean: dict[int, list[str]]) -> list[pl.Series]:
    """Rows that still hold something are dropped, and of equal rows all but the first."""
    reasons: list[str | None] = [None] * len(rows)
    evidence: list[str | None] = [None] * len(rows)
    first: set[str] = set()
    for position, (id_, before) in enumerate(rows.select("id", "before").iter_rows()):
        if position in unclean:
            reasons[position] = "not_redacted"
            evidence[position] = evidence_json({"kinds": sorted({*unclean[position]})})
        elif id_ in first:
            reasons[position] = "duplicate"
            evidence[position] = evidence_json({"kept": id_, "id": before})
        else:
            first.add(id_)
    return [
        pl.Series("drop_reason", reasons, pl.String),
        pl.Series("evidence", evidence, pl.String),
    ]


def _merged(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows; what is kept of equal ones has the origins and parents of all."""
    if not (rows["drop_reason"] == "duplicate").any():
        return rows
    kept_parents = pl.col("parents").explode().drop_nulls().unique().sort()
    groups = rows.filter(pl.col("id").is_duplicated()).group_by("id").agg(
        pl.col("origins").explode().drop_nulls().unique().sort().alias("_origins"),
        kept_parents.alias("_parents"),
    )  # fmt: skip
    joined = rows.join(groups, on="id", how="left", maintain_order="left")
    is_kept = pl.col("drop_reason").is_null()
    return joined.with_columns(
        pl.when(is_kept).then(pl.coalesce(f"_{name}", name)).otherwise(name).alias(name)
        for name in ("origins", "parents")
    )
