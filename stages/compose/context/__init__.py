"""What a model reads beside a request: passages that help or distract, and planted instructions.

- `sail`: search results, of which the answer first says what they are good for (see `sail.py`).
- `passages`: passages before the question, as FollowRAG has them (see `passages.py`).
- `vif_rag`: constraints on questions with passages, checked on the answer (see `vif_rag.py`).
- `citations`, `source_aware`: answers that say what they rest on (see `citations.py`).
- `rankrag`: which passages answer a question, as a task of its own (see `rankrag.py`).
- `struq`: instructions planted in data, which the answer does not follow (see `struq.py`).
  SecAlign's pairs, of the answer against that to the planted instruction, are
  `generate.pairs` with `method: secalign`.

Passages are cut from documents and found by BM25 or by vectors; or rows came with search results.
Each row says in columns which passages it has, how near they were and what they are good for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Final

from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Embedder, LanguageModel
from pipeline.stage import Documents, Edges, Items, Records, stage
from pipeline.types import Count
from stages._common.edges import require_input
from stages._llm.drafts import Draft, RowMessages
from stages._llm.rows import Row, rows_to_frame
from stages._llm.token_counts import check_tokenizer
from stages.compose.context import citations, passages, rankrag, sail, struq, vif_rag
from stages.compose.context.citations import Citations, SourceAware
from stages.compose.context.exchanges import Exchange, exchanges_of
from stages.compose.context.labels import Entailment, Judge, Judged, Overlap, judge_of
from stages.compose.context.passages import Passages
from stages.compose.context.rankrag import RankRag
from stages.compose.context.retrieval import (
    Index,
    collection,
    unseen_texts,
    without_unseen,
)
from stages.compose.context.sail import Sail
from stages.compose.context.shown import ADDS, limit, rows_of
from stages.compose.context.struq import StruQ, planted_rows
from stages.compose.context.vif_rag import VifRag

WithPassages = Sail | Passages | VifRag | Citations | SourceAware | RankRag

Method = Annotated[WithPassages | StruQ, Field(discriminator="name")]

_PASSAGE_OPTIONS: Final = ("model", "max_tokens", "judge", "writer", "embedder", "entailment")


def _adds(options: SimpleNamespace, edges: Edges) -> Mapping[str, Any]:
    _check_edges(options.method, edges)
    return struq.ADDS if isinstance(options.method, StruQ) else ADDS


def _check_edges(method: Method, edges: Mapping[str, Any]) -> None:
    """Each method reads its own edges and no other."""
    require_input(edges, "queries", method.name, connected=isinstance(method, VifRag))
    if isinstance(method, StruQ):
        require_input(edges, "documents", method.name, connected=False)
    elif method.results is None:
        require_input(edges, "documents", f"{method.name} without results")
    for edge in ("benchmarks", "held_out") if isinstance(method, StruQ) else ():
        require_input(edges, edge, method.name, connected=False)


def _check(options: SimpleNamespace) -> None:
    method = options.method
    check_tokenizer(options)
    if isinstance(method, StruQ):
        for name in _PASSAGE_OPTIONS:
            _check_option(options, name, required=False, why="no passage is shown")
        return
    if (options.model is None) != (options.max_tokens is None):
        missing = "model" if options.model is None else "max_tokens"
        raise OptionError(
            *(missing, "must be given, got none"),
            why="a budget is a number of tokens of a model's tokenizer",
            hint="model: NAME and max_tokens: NUMBER, or neither",
        )
    labels = getattr(method, "labels", Overlap())
    why = "it says which passages help" if isinstance(labels, Judged) else "it is not asked"
    _check_option(options, "judge", required=isinstance(labels, Judged), why=why)
    _check_option(options, "entailment", required=isinstance(labels, Entailment), why=why)
    if not isinstance(method, VifRag):
        _check_option(options, "writer", required=False, why="answers stay as they are")
    kept = _kept_for_answers(method, options.writer)
    if options.max_tokens is not None and options.max_tokens <= kept:
        raise OptionError(
            *("max_tokens", f"must be above answer_max_tokens, {kept}, got {options.max_tokens}"),
            why="the question and its passages need room as well",
        )


def _check_option(options: SimpleNamespace, name: str, *, required: bool, why: str) -> None:
    if (getattr(options, name) is not None) != required:
        asked = "given" if required else "left out"
        raise OptionError(name, f"must be {asked} with method: {options.method.name}", why=why)


@stage(
    version=2,
    scope="set",
    reads={
        "rows": ["messages", "tools", "input_start", "origins", "extra"],
        "queries": ["messages", "tools", "input_start", "origins", "extra"],
        "held_out": ["messages"],
    },
    adds=_adds,
    check=_check,
)
def context(
    ctx: Context,
    rows: Records,
    documents: Documents | None = None,
    queries: Records | None = None,
    benchmarks: Items | None = None,
    held_out: Records | None = None,
    *,
    method: Method = Sail(),
    model: LanguageModel | None = None,
    max_tokens: Count | None = None,
    embedder: Embedder | None = None,
    judge: LanguageModel | None = None,
    entailment: Embedder | None = None,
    writer: LanguageModel | None = None,
    seed: int = 0,
    source: str = "context",
) -> Records:
    """New records: rows with passages or with planted instructions, about one for each row.

    The last user turn is the question. `parents` are the row and the documents whose passages it
    shows, whose licenses hold together; `extra` stays. Adds `passage_ids`, `passage_scores`,
    `passage_labels` (informative or distracting, null where nothing was asked), `label_scores`,
    `tokens` and `journal`; with struq `attack` (null where nothing was planted) and `planted_from`
    (the row of the planted instruction).

    Args:
        rows: Conversations that end with an answer; of `passages` also with a question; of
            `vif_rag` such as carry constraints.
        documents: Where passages come from.
        queries: Questions of `vif_rag`, of rows with one user turn and without tools.
        benchmarks: Evaluation items, whose texts no passage may hold.
        held_out: Rows kept for evaluation, whose texts no passage may hold.
        method: sail, passages, vif_rag, citations, source_aware, rankrag or struq.
        model: The model that will be tuned, whose tokenizer and chat template count; it is not
            asked.
        max_tokens: The most tokens of a new row. Whole passages go until it fits, distracting ones
            first; the question never does. Without it nothing is counted.
        embedder: Finds passages by vectors; without it BM25 does.
        judge: The language model of `labels: model`.
        entailment: The cross-encoder of `labels: entailment`, of sentence-transformers.
        writer: Answers the questions of `vif_rag`; without it rows end with the question.
        seed: Seed of all that is drawn, for each row by its id.
        source: Name of the new records' source.

    Returns:
        The new records. Dropped: `no_answer`, `no_request`, `not_trained` (the answer is not to be
        learnt), `over_budget`, `not_satisfied` (the final answer breaks a constraint that `extra`
        has), `unknown_constraint`, `unreadable` (of the judge); of citations, source_aware and
        rankrag `unsupported` (no passage supports the answer); of rankrag `no_distractor`,
        `multi_turn` and `has_tools`; of vif_rag `no_constraint`, `no_query`, `response_cut` and
        `response_unparsed`; of struq `empty_data` (only markers). Equal new rows are `duplicate`.

    Example:
        ```yaml
        searched: {uses: compose.context, needs: {rows: pool, documents: books}, with: {
          method: {name: sail, labels: overlap}, seed: 1}}
        ```

        >>> import tempfile
        >>> from pathlib import Path
        >>> import polars as pl
        >>> from schemas.records import DOCUMENT_COLUMNS, RECORD_COLUMNS
        >>> turns = [{"role": "user", "content": "Who sings?"},
        ...          {"role": "assistant", "content": "Whales sing."}]
        >>> rows = pl.DataFrame([{"id": "a", "messages": turns}], schema=RECORD_COLUMNS)
        >>> texts = [{"id": "d", "text": "Who sings? Whales sing."}]
        >>> books = pl.DataFrame(texts, schema=DOCUMENT_COLUMNS)
        >>> result = context(Context.scratch(Path(tempfile.mkdtemp())), rows, books,
        ...                  method=Citations())
        >>> result["messages"][0][1]["content"]
        'Whales sing [1].'
    """
    named = {"documents": documents, "queries": queries}
    named |= {"benchmarks": benchmarks, "held_out": held_out}
    _check_edges(method, {name: [] if edge is None else [edge] for name, edge in named.items()})
    exchanges, dropped = exchanges_of(rows, answered=not isinstance(method, Passages | VifRag))
    if isinstance(method, StruQ):
        return rows_to_frame([*dropped, *planted_rows(exchanges, method, seed)], source, struq.ADDS)
    encode = None if embedder is None else ctx.open(embedder).encode
    index, unseen = None, unseen_texts(benchmarks, held_out)
    if documents is not None:
        index = Index(collection(documents, method.passage_words, unseen), encode)
    engine = None if judge is None else ctx.open(judge)
    supports = judge_of(getattr(method, "labels", Overlap()), engine, entailment, seed)
    asked = [] if queries is None else exchanges_of(queries, answered=False)[0]
    exchanges, asked = (without_unseen(ones, method.results, unseen) for ones in (exchanges, asked))
    drafts, messages_of = _drafts(exchanges, asked, index, method, supports, seed)
    if model is not None and max_tokens is not None:
        limit(drafts, messages_of, model, max_tokens - _kept_for_answers(method, writer))
    if isinstance(method, VifRag) and writer is not None:
        vif_rag.write(drafts, method, ctx.open(writer), seed)
    new: list[Row] = rows_of(drafts, messages_of)
    return rows_to_frame([*dropped, *new], source, ADDS)


def _drafts(
    exchanges: Sequence[Exchange],
    asked: Sequence[Exchange],
    index: Index | None,
    method: WithPassages,
    judge: Judge,
    seed: int,
) -> tuple[list[Draft], Callable[[Draft], RowMessages]]:
    """The drafts of a method, and what makes conversations of them."""
    match method:
        case Sail():
            return sail.drafts_of(exchanges, index, method, judge, seed), sail.messages_of
        case Passages():
            return passages.drafts_of(exchanges, index, method), passages.messages_of
        case VifRag():
            drafts = vif_rag.drafts_of(exchanges, asked, index, method, seed)
            return drafts, vif_rag.messages_of
        case Citations():
            drafts = citations.cited_drafts(exchanges, index, method, judge, seed)
            return drafts, citations.cited_messages
        case SourceAware():
            drafts = citations.source_drafts(exchanges, index, method, judge)
            return drafts, citations.source_messages
    return rankrag.drafts_of(exchanges, index, method, judge, seed), rankrag.messages_of


def _kept_for_answers(method: Method, writer: LanguageModel | None) -> int:
    """The tokens of the budget that are for an answer that is still to be written."""
    return method.answer_max_tokens if isinstance(method, VifRag) and writer is not None else 0
