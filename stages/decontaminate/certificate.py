"""A certificate of what a pool holds of each benchmark, before and after decontamination.

It relies on no verdict of an earlier stage: both pools are searched again, by named
rules (`decontaminate.ngram`). Whoever publishes a data set can put the table on its card;
the digests identify the benchmarks and the rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AfterValidator

from pipeline.context import Context
from pipeline.stage import Items, Records, stage
from pipeline.types import NonEmpty
from schemas.records import digest
from stages._common.charts import table
from stages._text.ngram_index import Overlaps
from stages.decontaminate._benchmarks import Benchmarks, turns_of
from stages.decontaminate._rules import METHODS, Name, Rule, as_json, search

POOLS: Final = ("before", "after")
BINS: Final = 10


def _distinct(names: tuple[Name, ...]) -> tuple[Name, ...]:
    if len(set(names)) < len(names):
        raise ValueError(f"must name each rule once, got {list(names)}")
    return names


Names = Annotated[tuple[Name, ...], NonEmpty, AfterValidator(_distinct)]


@stage(version=3, scope="set", reads={name: ["messages", "tools"] for name in POOLS})
def certificate(
    ctx: Context,
    before: Records,
    after: Records,
    benchmarks: Items,
    *,
    methods: Names = ("gpt3-13", "tulu3-8-50"),
    fields: tuple[str, ...] | None = None,
) -> None:
    """Search both pools by each rule and write `certificate.json` and `certificate.md`.

    The JSON file holds for each benchmark its items and digest; by rule how many of them
    are `compared` (have a text long enough to be searched for); and by rule and pool:
    `items_touched` and `rows` (how many items some row overlaps with as much as the rule
    requires, and how many rows do), `largest_overlap` with the row and item that have
    it, and `overlaps`: how many items have their largest overlap in (0, 0.1], (0.1, 0.2],
    ... (0.9, 1], whether that is enough for the rule or not. Pools have rows and digest
    (of the sorted ids). The Markdown file shows the same as a table.

    Args:
        before: The pool as it was; rows in both pools are searched once.
        after: The pool as it is published.
        benchmarks: The evaluation items.
        methods: Rules of `decontaminate.ngram`, with their own options.
        fields: Names of the items' texts that count; null: all.

    Raises:
        UserError: There are no items, or no text of a benchmark can be compared.

    Example:
        ```yaml
        certified:
          uses: decontaminate.certificate
          needs: {before: pool, after: clean, benchmarks: exams}
          with: {methods: [gpt3-13, llama3]}
        ```

        >>> import tempfile
        >>> from pathlib import Path
        >>> question = "How many apples does Tom have if he buys five apples and eats two of them?"
        >>> messages = [[{"role": "user", "content": question}]]
        >>> rows = pl.DataFrame({"id": ["a"], "messages": messages})
        >>> items = pl.DataFrame({"id": ["i"], "benchmark": ["gsm8k"], "item": ["0"],
        ...                       "texts": [[{"name": "question", "text": question}]]})
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> certificate(ctx, rows, rows.clear(), items)
        >>> result = json.loads((ctx.files / "certificate.json").read_text())
        >>> counts = result["benchmarks"]["gsm8k"]["rules"]["gpt3-13"]
        >>> counts["before"]["items_touched"], counts["after"]["items_touched"]
        (1, 0)
    """
    items = Benchmarks(benchmarks)
    columns = [name for name in ("id", "messages", "tools") if name in before.columns]
    rows = pl.concat([before.select(columns), after.select(columns)])
    rows = rows.unique("id", maintain_order=True).sort("id")
    members = {
        name: rows["id"].is_in(pool["id"].implode()).to_numpy()
        for name, pool in zip(POOLS, (before, after), strict=True)
    }
    rules = {name: METHODS[name]() for name in methods}
    by_benchmark: dict[str, dict[str, Any]] = {
        name: {"items": len(ids), "digest": digest(ids), "rules": {}} for name, ids in _items(items)
    }
    for number, (name, rule) in enumerate(rules.items()):
        for benchmark, counts in _search(rule, items, fields, rows, members).items():
            by_benchmark[benchmark]["rules"][name] = counts
        ctx.progress(number + 1, len(rules))
    result = {
        "pools": {
            name: {"rows": int(mask.sum()), "digest": digest(rows["id"].filter(mask).to_list())}
            for name, mask in members.items()
        },
        "rules": {name: as_json(rule) for name, rule in rules.items()},
        "benchmarks": by_benchmark,
    }
    text = json.dumps(result, ensure_ascii=False, indent=2)
    (ctx.files / "certificate.json").write_text(text + "\n", "utf-8")
    (ctx.files / "certificate.md").write_text(page(result), "utf-8")


def _items(benchmarks: Benchmarks) -> list[tuple[str, list[str]]]:
    """Each benchmark with the sorted ids of its items, each once."""
    grouped = benchmarks.items.group_by("benchmark").agg(pl.col("id").unique().sort())
    return list(grouped.sort("benchmark").iter_rows())


class _Tally(NamedTuple):
    """What one pool has of the items.

    Attributes:
        largest: The largest overlap by item.
        touched: Whether that is enough for the rule.
        rows: By benchmark and row, whether it overlaps enough.
        best: For each benchmark the pair with the largest overlap: (overlap, row, text).
    """

    largest: NDArray[np.float64]
    touched: NDArray[np.bool_]
    rows: NDArray[np.bool_]
    best: dict[int, tuple[float, int, int]]

    @classmethod
    def empty(cls, n_items: int, n_benchmarks: int, n_rows: int) -> _Tally:
        """A tally without any overlap.

        Args:
            n_items: Number of items of all benchmarks.
            n_benchmarks: Number of benchmarks.
            n_rows: Number of rows.
        """
        rows = np.zeros((n_benchmarks, n_rows), np.bool_)
        return cls(np.zeros(n_items), np.zeros(n_items, np.bool_), rows, {})

    def add(
        self,
        pairs: Overlaps,
        enough: NDArray[np.bool_],
        item: NDArray[np.int64],
        benchmark: NDArray[np.int64],
    ) -> None:
        """Count pairs of a row (not a turn) and a text.

        Args:
            pairs: The overlaps.
            enough: Whether each is enough for the rule.
            item: Position of each pair's item.
            benchmark: Position of each pair's benchmark.
        """
        np.maximum.at(self.largest, item, pairs.overlap)
        self.touched[item[enough]] = True
        self.rows[benchmark[enough], pairs.row[enough]] = True
        order = np.lexsort((pairs.text, pairs.row, -pairs.overlap, benchmark))
        present, first = np.unique(benchmark[order], return_index=True)
        for name, i in zip(present.tolist(), order[first].tolist(), strict=True):
            pair = float(pairs.overlap[i]), int(pairs.row[i]), int(pairs.text[i])
            if name not in self.best or pair[0] > self.best[name][0]:
                self.best[name] = pair


def _search(
    rule: Rule,
    benchmarks: Benchmarks,
    fields: tuple[str, ...] | None,
    rows: pl.DataFrame,
    members: Mapping[str, NDArray[np.bool_]],
) -> dict[str, dict[str, Any]]:
    """What each pool has of each benchmark by a rule."""
    turns = turns_of(rows, rule.turns)
    index, parts = search(rule, benchmarks, fields, turns["text"])
    names, ids = zip(*_items(benchmarks), strict=True)
    starts = np.cumsum([0, *map(len, ids)])
    items = pl.DataFrame(
        {"benchmark": np.repeat(names, np.diff(starts)), "id": [i for part in ids for i in part]}
    ).with_row_index("number")
    texts = index.texts.join(items, on=["benchmark", "id"], how="left", maintain_order="left")
    item_of = texts["number"].to_numpy().astype(np.int64)
    benchmark_of = np.searchsorted(starts, item_of, side="right") - 1
    compared = np.zeros(len(items), np.bool_)
    compared[item_of[index.searchable()]] = True
    row_of = turns["row"].to_numpy()
    tallies = {name: _Tally.empty(len(items), len(names), len(rows)) for name in members}
    for by_turn, enough in parts:
        pairs = by_turn._replace(row=row_of[by_turn.row])
        for name, mask in members.items():
            inside = np.flatnonzero(mask[pairs.row])
            some = Overlaps(*(np.take(column, inside) for column in pairs))  # type: ignore[arg-type]
            text = some.text
            tallies[name].add(some, enough[inside], item_of[text], benchmark_of[text])
    return {
        name: {
            "compared": int(compared[starts[n] : starts[n + 1]].sum()),
            **{pool: _counts(tally, n, starts, texts, rows) for pool, tally in tallies.items()},
        }
        for n, name in enumerate(names)
    }


def _counts(
    tally: _Tally,
    benchmark: int,
    starts: NDArray[np.int64],
    texts: pl.DataFrame,
    rows: pl.DataFrame,
) -> dict[str, Any]:
    """One pool's entry in the JSON file for one benchmark and rule."""
    part = slice(starts[benchmark], starts[benchmark + 1])
    overlaps = tally.largest[part]
    # Borders belong to the bin below, so that 1 has no bin of its own.
    bins = np.ceil(overlaps[overlaps > 0] * BINS).astype(np.int64) - 1
    counts: dict[str, Any] = {
        "items_touched": int(tally.touched[part].sum()),
        "rows": int(tally.rows[benchmark].sum()),
        "largest_overlap": None,
        "overlaps": np.bincount(bins, minlength=BINS).tolist(),
    }
    if benchmark in tally.best:
        overlap, row, text = tally.best[benchmark]
        named = texts.row(text, named=True)
        counts["largest_overlap"] = {
            "overlap": overlap,
            "row": rows["id"][row],
            "item": named["item"],
            "field": named["field"],
        }
    return counts


def page(result: Mapping[str, Any]) -> str:
    """The certificate as Markdown for the card of a data set."""
    cells, touched, incomplete = [], 0, False
    for name, benchmark in result["benchmarks"].items():
        for rule, pools in benchmark["rules"].items():
            row = [name, f"{benchmark['items']:,}", rule, f"{pools['compared']:,}"]
            for pool in POOLS:
                counts = pools[pool]
                fraction = counts["items_touched"] / benchmark["items"]
                largest = counts["largest_overlap"]
                row += [f"{counts['items_touched']:,} ({fraction:.1%})", f"{counts['rows']:,}"]
                row.append(f"{largest['overlap']:.2f}" if largest else "-")
            touched += pools["after"]["items_touched"]
            incomplete |= pools["compared"] < benchmark["items"]
            cells.append(row)
    header = ["benchmark", "items", "rule", "compared"]
    header += [f"{what}, {pool}" for pool in POOLS for what in ("items touched", "rows", "largest")]
    verdict = (
        "By these rules the published rows touch no item of these benchmarks"
        + (" that could be compared." if incomplete else ".")
        if not touched
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
    parts = ["## Contamination", verdict, table(header, cells), about]
    return "\n\n".join([*parts, "\n".join([*pools, *digests])]) + "\n"
