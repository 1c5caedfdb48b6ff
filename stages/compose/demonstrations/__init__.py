"""Rows with other rows before them as demonstrations, at random or similar to them.

sPhinX: Sample Efficient Multilingual Instruction Fine-Tuning Through N-shot Guided Prompting
(Ahuja et al. 2024, arXiv:2407.09879).

As in the paper: a row is preceded by some examples in its own language, how many is drawn for
each row, and none is among the numbers.

Ours: the range of the numbers and that all of them are equally likely; what may not be shown (see
`pool.py`); the similar examples (`bm25`, `vectors`), which the paper does not have; turns in the
place of one text. The authors published no code.

In-context tuning: Meta-learning via Language Model In-context Tuning (Chen et al. 2021,
arXiv:2110.07814).

As in the paper: instruction, labelled examples of the same task and the query are one sequence,
and the loss is on the query's answer alone; the examples are drawn at random.

Ours: `group_by` names the column that holds the task.

Two traps are avoided. An order of labels that all rows share would be learnt: demonstrations are
shuffled for each row. A row, or one like it, before itself gives its answer away: neither is
ever shown, nor is anything of the held-out rows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import AfterValidator, Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Embedder, LanguageModel
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, NonNegativeInt, PositiveFraction, increasing
from schemas.records import RECORD_COLUMNS
from stages._llm.rows import Row, joint_license, license_of, make_row, rows_to_frame, to_json
from stages._llm.token_counts import check_tokenizer
from stages.compose._parts import Part
from stages.compose.demonstrations.choice import choose, group_values, groups_of, rankings
from stages.compose.demonstrations.layouts import Budget, Layout, Shown, conversation
from stages.compose.demonstrations.pool import Examples, Query, queries_of
from stages.compose.demonstrations.rankings import Bm25, Random, SPhinX, Vectors

Method = Annotated[Random | Bm25 | Vectors | SPhinX, Field(discriminator="name")]
Numbers = Annotated[tuple[NonNegativeInt, NonNegativeInt], AfterValidator(increasing)]
Order = Literal["random", "similar_last", "similar_first"]

ADDS: Final[dict[str, Any]] = {
    "num_shots": pl.Int32(),
    "demonstrations": pl.List(pl.String),
    "similarities": pl.List(pl.Float64),
    "dropped_demonstrations": pl.List(pl.String),
}

_RECORD: Final = [name for name in RECORD_COLUMNS if name != "id"]


def _check(options: SimpleNamespace) -> None:
    if (options.model is None) != (options.max_tokens is None):
        got = "max_tokens" if options.model is None else "model"
        raise OptionError(
            *("max_tokens", f"and model must be given together, got {got} alone"),
            why="a limit in tokens is one of a tokenizer",
            hint="model: NAME, the model that will be tuned, and max_tokens: 2048",
        )
    check_tokenizer(options)
    if options.embedder is not None and not isinstance(options.method, Vectors):
        raise OptionError(
            *("embedder", f"must be left out with method: {options.method.name}"),
            why="no vectors are compared",
            hint="method: vectors",
        )
    if options.order != "random" and not isinstance(options.method, Bm25 | Vectors):
        raise OptionError(
            *("order", f"must be random with method: {options.method.name}"),
            why="nothing says how similar the demonstrations are",
            hint="method: bm25",
        )


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    method, more = options.method, [options.group_by] if options.group_by else []
    if isinstance(method, Vectors) and options.embedder is None:
        more.append(method.vector)
    if isinstance(method, SPhinX) and method.language:
        more.append(method.language)
    columns = list(dict.fromkeys((*_RECORD, *more)))
    return {"rows": columns, "examples": columns, "held_out": _RECORD}


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    return _columns(with_tokens=options.model is not None)


def _columns(*, with_tokens: bool) -> dict[str, Any]:
    return {
        **ADDS,
        **(dict.fromkeys(("tokens", "dropped_tokens"), pl.Int32()) if with_tokens else {}),
    }


@stage(version=1, scope="set", reads=_reads, adds=_adds, check=_check)
def demonstrations(
    ctx: Context,
    rows: Records,
    examples: Records | None = None,
    held_out: Records | None = None,
    *,
    method: Method = Random(),
    num_shots: Numbers = (0, 4),
    embedder: Embedder | None = None,
    group_by: str | None = None,
    near_duplicate: PositiveFraction = 0.7,
    layout: Layout = "turns",
    order: Order = "random",
    model: LanguageModel | None = None,
    max_tokens: Count | None = None,
    seed: int = 0,
    source: str = "demonstrations",
) -> Records:
    """The rows, each behind so many demonstrations as are drawn for it.

    A row without demonstrations is the record that came. Of all others `parents` is the row and
    then its demonstrations as they are shown, whose licenses hold together; the last answer alone
    is trained on (`train` is false on all others), and `extra` is the row's own. Adds `num_shots`,
    the number that was drawn; `demonstrations`, the ids as they are shown; `similarities` of these
    (BM25 or cosine; null where nothing is compared); `dropped_demonstrations`, the ids of those
    for which there was no room; and with a `model` also `tokens`, those of the row as the chat
    template renders it, and `dropped_tokens`, those of what was dropped. Fewer than `num_shots`
    are shown where fewer may be.

    Args:
        rows: Conversations; tools and reasoning stay.
        examples: Rows to show, by default those that get demonstrations. Of them those are shown
            that are one request with one answer as plain text.
        held_out: Rows for evaluation: neither they are shown nor anything like them.
        method: random, bm25, vectors or sphinx, each with its own options.
        num_shots: The least and the most demonstrations of a row; each number between them is
            equally likely. With `[0, 0]` all rows are those that came.
        embedder: With method: vectors, embeds the requests.
        group_by: A column of the rows and of the examples: only rows with the same value are shown
            (a task, a domain); a row without a value has no demonstrations.
        near_duplicate: The Jaccard index of two requests' pairs of words from which one is not
            shown before the other; 0.7 is ours.
        layout: turns: each demonstration is a request and an answer before the row's first
            request, behind a system's turn; text: all of them are text of that request.
        order: In which they are shown: shuffled for each row, or the most similar one next to the
            row or farthest from it.
        model: The model that will be tuned, whose tokenizer and chat template count.
        max_tokens: The most tokens of a row with its demonstrations. What does not fit is left out
            whole, the least similar first; a row that exceeds it by itself stays as it is.
        seed: Of the numbers, the choice and the order; with the id it is all that they depend on.
        source: Name of the new records' source.

    Returns:
        One row for each row. Rows in which the user says nothing are dropped as `no_instruction`;
        equal ones as `duplicate`. A row that the chat template refuses has failed.

    Example:
        ```yaml
        shown:
          uses: compose.demonstrations
          needs: pool
          with: {method: bm25, num_shots: [0, 3]}
        ```
    """
    queries = queries_of(rows)
    pool = rows if examples is None else examples
    shown = Examples(pool, queries, near_duplicate, held_out)
    numbers = [_number(query, num_shots, seed) for query in queries]
    values = [group_values(method, group_by, table) for table in (rows, pool)]
    of_examples = None if values[1] is None else [values[1][one.position] for one in shown]
    groups = groups_of(values[0], of_examples, (len(queries), len(shown)))
    vectorize = None if embedder is None else ctx.open(embedder).encode
    ranking_of = rankings(method, queries, shown, (rows, pool), vectorize, seed)
    chosen = choose(queries, numbers, shown, groups, ranking_of)
    columns = rows.select("id", *_RECORD).iter_rows(named=True)
    results = [
        _shown(record, [(shown[at].part, similarity) for at, similarity in candidates], order, seed)
        for record, candidates in zip(columns, chosen, strict=True)
    ]
    budget = None if model is None else Budget(model, max_tokens or 0, layout)
    _limit([one for one, query in zip(results, queries, strict=True) if query.requests], budget)
    output = [
        _row(one, number, layout, budget) | _verdict(one, query)
        for one, query, number in zip(results, queries, numbers, strict=True)
    ]
    return rows_to_frame(output, source, _columns(with_tokens=budget is not None))


def _limit(rows: Sequence[Shown], budget: Budget | None) -> None:
    """Keep the demonstrations for which there is room: all of them without a limit."""
    if budget is not None:
        budget.choose(rows)
        return
    for shown in rows:
        shown.kept = [*range(len(shown.parts))]


def _number(query: Query, numbers: tuple[int, int], seed: int) -> int:
    """How many demonstrations a row gets."""
    if not query.requests:
        return 0
    return random.Random(f"{seed} demonstrations {query.id}").randint(*numbers)


def _shown(
    record: Mapping[str, Any],
    candidates: Sequence[tuple[Part, float | None]],
    order: Order,
    seed: int,
) -> Shown:
    """A row with what was chosen for it, the best first, and the place of each."""
    places = [*range(len(candidates))]
    if order == "random":
        random.Random(f"{seed} demonstrations {record['id']} order").shuffle(places)
    elif order == "similar_last":
        places.reverse()
    parts, similarities = ([pair[n] for pair in candidates] for n in (0, 1))
    return Shown(record, parts, similarities, places)  # type: ignore[arg-type]


def _row(shown: Shown, number: int, layout: Layout, budget: Budget | None) -> Row:
    """The row with its demonstrations; the record that came where there are none."""
    ranks = shown.ordered()
    parts = [shown.parts[rank] for rank in ranks]
    left_out = [part for rank, part in enumerate(shown.parts) if rank not in shown.kept]
    row: Row = dict(shown.record)
    if parts:
        messages, start = conversation(shown, layout)
        licenses = [license_of(row["origins"]), *(part.license for part in parts)]
        new = make_row(
            *(messages, start),  # type: ignore[arg-type]
            tools=row["tools"],
            license=joint_license(licenses),
            parents=[row["id"], *(part.id for part in parts)],
            extra={},
        )
        row = {**new, "extra": row["extra"]}
    similarities = [shown.similarities[rank] for rank in ranks]
    row |= {
        "num_shots": number,
        "demonstrations": [part.id for part in parts],
        "similarities": similarities,
        "dropped_demonstrations": [part.id for part in left_out],
    }
    if budget is not None:
        row |= {"tokens": shown.tokens, "dropped_tokens": budget.part_tokens(left_out)}
    return row


def _verdict(shown: Shown, query: Query) -> Row:
    """What became of a row."""
    reason = None if query.requests or shown.error is not None else "no_instruction"
    roles = [turn["role"] for turn in shown.record["messages"] or ()]
    evidence = None if reason is None else to_json({"roles": roles})
    return {"drop_reason": reason, "evidence": evidence, "error": shown.error}
