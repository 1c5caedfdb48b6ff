"""A certificate of what a pool holds of each benchmark, before and after decontamination.

It believes no verdict of an earlier stage: both pools are searched again, by named
rules (`decontaminate.ngram`). Whoever publishes a data set can put the table on its card;
the digests say which benchmarks and which rows it is about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Items, Records, stage
from schemas.records import digest
from stages._common.charts import table
from stages._text.ngram_index import Overlaps
from stages.decontaminate._rules import RULES, Exams, Name, Rule, found, turns_of

POOLS: Final = ("before", "after")
BINS: Final = 10


def _check(options: SimpleNamespace) -> None:
    if not options.rules or len(set(options.rules)) < len(options.rules):
        raise UserError("rules names at least one rule, and none twice")


@stage(version=2, scope="set", reads={name: ["messages"] for name in POOLS}, check=_check)
def certificate(
    ctx: Context,
    before: Records,
    after: Records,
    exams: Items,
    *,
    rules: tuple[Name, ...] = ("gpt3-13", "tulu3-8-50"),
    fields: tuple[str, ...] | None = None,
) -> None:
    """Search both pools by each rule and write `certificate.json` and `certificate.md`.

    before, after: the pool as it was and as it is published; rows in both are searched
        once. rules: presets of `decontaminate.ngram`. fields: the items' texts that count.

    The JSON file holds for each benchmark its items and digest; by rule how many of them
    are `compared` (have a text long enough to be looked for); and by rule and pool:
    `items_touched` and `rows` (how many items some row overlaps with as much as the rule
    asks for, and how many rows do), `largest_overlap` with the row and item that have
    it, and `overlaps`: how many items have their largest overlap in (0, 0.1], (0.1, 0.2],
    ... (0.9, 1], whether that is enough for the rule or not. Pools have rows and digest
    (of the sorted ids). The Markdown file says the same as a table.

    Raises UserError for exams without items and for a benchmark of which nothing can be
    compared.
    """
    asked = Exams(exams)
    rows = pl.concat([before.select("id", "messages"), after.select("id", "messages")])
    rows = rows.unique("id", maintain_order=True).sort("id")
    held = {
        name: rows["id"].is_in(pool["id"].implode()).to_numpy()
        for name, pool in zip(POOLS, (before, after), strict=True)
    }
    counted: dict[str, dict[str, Any]] = {
        name: {"items": len(ids), "digest": digest(ids), "rules": {}} for name, ids in _items(asked)
    }
    for number, name in enumerate(rules):
        for benchmark, told in _searched(RULES[name], asked, fields, rows, held).items():
            counted[benchmark]["rules"][name] = told
        ctx.progress(number + 1, len(rules))
    result = {
        "pools": {
            name: {"rows": int(mask.sum()), "digest": digest(rows["id"].filter(mask).to_list())}
            for name, mask in held.items()
        },
        "rules": {name: RULES[name]._asdict() for name in rules},
        "benchmarks": counted,
    }
    text = json.dumps(result, ensure_ascii=False, indent=2)
    (ctx.files / "certificate.json").write_text(text + "\n", "utf-8")
    (ctx.files / "certificate.md").write_text(page(result), "utf-8")


def _items(exams: Exams) -> list[tuple[str, list[str]]]:
    """Each benchmark with the sorted ids of its items, each once."""
    grouped = exams.items.group_by("benchmark").agg(pl.col("id").unique().sort())
    return list(grouped.sort("benchmark").iter_rows())


class _Tally(NamedTuple):
    """What one pool has of the items. largest, touched: by item; rows: by benchmark and row.

    best: for each benchmark the pair with the largest overlap: (overlap, row, text).
    """

    largest: NDArray[np.float64]
    touched: NDArray[np.bool_]
    rows: NDArray[np.bool_]
    best: dict[int, tuple[float, int, int]]

    def add(
        self,
        pairs: Overlaps,
        enough: NDArray[np.bool_],
        item: NDArray[np.int64],
        benchmark: NDArray[np.int64],
    ) -> None:
        """Count pairs of a row (not a turn) and a text."""
        np.maximum.at(self.largest, item, pairs.overlap)
        self.touched[item[enough]] = True
        self.rows[benchmark[enough], pairs.row[enough]] = True
        order = np.lexsort((pairs.text, pairs.row, -pairs.overlap, benchmark))
        found, first = np.unique(benchmark[order], return_index=True)
        for name, i in zip(found.tolist(), order[first].tolist(), strict=True):
            pair = float(pairs.overlap[i]), int(pairs.row[i]), int(pairs.text[i])
            if name not in self.best or pair[0] > self.best[name][0]:
                self.best[name] = pair


def _searched(
    rule: Rule,
    exams: Exams,
    fields: tuple[str, ...] | None,
    rows: pl.DataFrame,
    held: Mapping[str, NDArray[np.bool_]],
) -> dict[str, dict[str, Any]]:
    """What each pool has of each benchmark by a rule."""
    spoken = turns_of(rows, rule.turns)
    index, parts = found(rule, exams, fields, spoken["text"])
    names, ids = zip(*_items(exams), strict=True)
    starts = np.cumsum([0, *map(len, ids)])
    known = pl.DataFrame(
        {"benchmark": np.repeat(names, np.diff(starts)), "id": [i for part in ids for i in part]}
    ).with_row_index("number")
    named = index.texts.join(known, on=["benchmark", "id"], how="left", maintain_order="left")
    item_of = named["number"].to_numpy().astype(np.int64)
    benchmark_of = np.searchsorted(starts, item_of, side="right") - 1
    compared = np.zeros(len(known), np.bool_)
    compared[item_of[index.usable()]] = True
    row_of = spoken["row"].to_numpy()
    tallies = {name: _tally(len(known), len(names), len(rows)) for name in held}
    for pairs, enough in parts:
        whole = pairs._replace(row=row_of[pairs.row])
        for name, mask in held.items():
            mine = np.flatnonzero(mask[whole.row])
            some = Overlaps(*(np.take(column, mine) for column in whole))  # type: ignore[arg-type]
            text = some.text
            tallies[name].add(some, enough[mine], item_of[text], benchmark_of[text])
    return {
        name: {
            "compared": int(compared[starts[n] : starts[n + 1]].sum()),
            **{pool: _told(tally, n, starts, named, rows) for pool, tally in tallies.items()},
        }
        for n, name in enumerate(names)
    }


def _tally(items: int, benchmarks: int, rows: int) -> _Tally:
    nothing = np.zeros(items), np.zeros(items, np.bool_), np.zeros((benchmarks, rows), np.bool_)
    return _Tally(*nothing, {})


def _told(
    tally: _Tally,
    benchmark: int,
    starts: NDArray[np.int64],
    texts: pl.DataFrame,
    rows: pl.DataFrame,
) -> dict[str, Any]:
    """What is written of one pool, benchmark and rule."""
    part = slice(starts[benchmark], starts[benchmark + 1])
    overlaps = tally.largest[part]
    # Borders belong to the bin below, so that 1 has no bin of its own.
    bins = np.ceil(overlaps[overlaps > 0] * BINS).astype(np.int64) - 1
    told: dict[str, Any] = {
        "items_touched": int(tally.touched[part].sum()),
        "rows": int(tally.rows[benchmark].sum()),
        "largest_overlap": None,
        "overlaps": np.bincount(bins, minlength=BINS).tolist(),
    }
    if benchmark in tally.best:
        overlap, row, text = tally.best[benchmark]
        where = texts.row(text, named=True)
        told["largest_overlap"] = {
            "overlap": overlap,
            "row": rows["id"][row],
            "item": where["item"],
            "field": where["field"],
        }
    return told


def page(result: Mapping[str, Any]) -> str:
    """The certificate as Markdown for the card of a data set."""
    lines, left, blind = [], 0, False
    for name, benchmark in result["benchmarks"].items():
        for rule, pools in benchmark["rules"].items():
            cells = [name, f"{benchmark['items']:,}", rule, f"{pools['compared']:,}"]
            for pool in POOLS:
                told = pools[pool]
                share = told["items_touched"] / benchmark["items"]
                cells += [f"{told['items_touched']:,} ({share:.1%})", f"{told['rows']:,}"]
                cells.append(
                    f"{told['largest_overlap']['overlap']:.2f}" if told["largest_overlap"] else "-"
                )
            left += pools["after"]["items_touched"]
            blind |= pools["compared"] < benchmark["items"]
            lines.append(cells)
    header = ["benchmark", "items", "rule", "compared"]
    header += [f"{what}, {pool}" for pool in POOLS for what in ("items touched", "rows", "largest")]
    verdict = (
        "By these rules the published rows touch no item of these benchmarks"
        + (" that could be compared." if blind else ".")
        if not left
        else "**The published rows still touch items of these benchmarks.**"
    )
    pools = [
        f"- {name}: {pool['rows']:,} rows, digest `{pool['digest']}`"
        for name, pool in result["pools"].items()
    ]
    digests = [f"- {n}: digest `{b['digest']}`" for n, b in result["benchmarks"].items()]
    about = (
        "An item is touched if a turn of some row overlaps with one of its texts as much as "
        "the rule asks for; `largest` is the largest overlap, enough or not. Only items with "
        "a text long enough to be looked for are `compared`. Rules of n-grams do not see "
        "paraphrases."
    )
    parts = ["## Contamination", verdict, table(header, lines), about]
    return "\n\n".join([*parts, "\n".join([*pools, *digests])]) + "\n"
