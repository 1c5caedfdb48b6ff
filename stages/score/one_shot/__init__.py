"""What a row does as a demonstration, or a demonstration for a row: likelihoods with one shot.

Nuggets: One-Shot Learning as Instruction Data Prospector for Large Language Models (Li et al.
2023, arXiv:2312.10302; pldlgb/nuggets).

As in the paper: `golden` is the share of the anchors whose answer becomes more likely when the row
stands before them as a demonstration. As in the authors' code: the words of the prompt
("Instruction:", "Input:", "Response:"), sums of log-probabilities are compared, strictly, and
nothing is tuned between the passes. Ours: a line is left empty between demonstration and query,
and the beginning-of-sequence token opens both passes (`form: authors` is the code's: nothing
between them, and that token only where there is a demonstration); an anchor that equals the row is
left out, since a text before itself always helps; so is one that does not fit behind it; the mean
gain in nats per token; the score is not rounded.

DELIFT: Data Efficient Language model Instruction Fine Tuning (Agarwal et al. 2024,
arXiv:2411.04425).

As in the authors' code: the utility of a row as the demonstration of another one is
d(without it) - d(behind it), where d = ||p - 1|| / sqrt(T) over the probabilities p of the T
tokens of the answer. Ours: only the nearest anchors of a row are measured (all with
`neighbors: null`), no row is its own demonstration, and nothing is scaled to 0 and 1:
`select.diverse` covers nothing where a utility is below 0.

MIWV: Importance-Aware Data Selection for Efficient LLM Instruction Tuning (Jiang et al. 2025,
arXiv:2511.07074).

As in the paper: the loss of the row's answer behind its most similar other row less that without
it; high ones, whose model does not even profit from an example, are kept. Ours: the words of the
prompt, which are Nuggets'; the authors published no code.

ARTE: Aligning Teacher with Student Preferences for Tailored Training Data Generation (Liu et al.
2024, arXiv:2406.19227).

As in the paper: what a student prefers of a teacher's drafts is what helps it as the one
demonstration before the questions of a preference set. Ours: the help is `one_shot_gain`, a
likelihood; the paper counts right answers. The recipe `arte` has the other steps.

A row's demonstration is read once for all its anchors (`pipeline.models.local.shared_prefix`).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.models import Engine, LanguageModel
from pipeline.stage import Columns, Edges, Records, stage
from pipeline.types import Count, option_group
from stages._llm.likelihood_views import NOT_FINITE
from stages.score.one_shot.alone import Alone, alone, distance
from stages.score.one_shot.exchanges import Exchange, Form, exchanges
from stages.score.one_shot.neighbors import fits, nearest

Floats = NDArray[np.float64]
Exchanges = list[Exchange | None]

UTILITIES: Final = pl.List(pl.Struct({"id": pl.String, "value": pl.Float32}))
"""Rows and what a row is worth to each."""


@option_group
class Golden:
    """The share of the anchors that the row helps (Nuggets), and by how much (ARTE)."""

    name: Literal["golden"] = "golden"


@option_group
class Pairwise:
    """What the row is worth to each of its nearest anchors (DELIFT).

    Attributes:
        neighbors: How many anchors; null for all, which reads no vectors.
        vector: The column of vectors, on both edges.
    """

    name: Literal["pairwise"] = "pairwise"
    neighbors: Count | None = 20
    vector: str = "vector"


@option_group
class Miwv:
    """How much the nearest anchor, as a demonstration, raises the row's loss (MIWV).

    Attributes:
        vector: The column of vectors, on both edges.
    """

    name: Literal["miwv"] = "miwv"
    vector: str = "vector"


Method = Annotated[Golden | Pairwise | Miwv, Field(discriminator="name")]


def _reads(options: SimpleNamespace) -> list[str]:
    vector = _vector(options.method)
    return ["messages", "input_start", "tools", *([vector] if vector else [])]


def _vector(method: Golden | Pairwise | Miwv) -> str | None:
    """The column of vectors that the method reads."""
    match method:
        case Golden():
            return None
        case Pairwise():
            return method.vector if method.neighbors is not None else None
    return method.vector


def _adds(options: SimpleNamespace, _: Edges) -> Columns:
    match options.method:
        case Golden():
            return {
                "one_shot_golden": pl.Float32,
                "one_shot_gain": pl.Float32,
                "one_shot_anchors": pl.Int32,
            }
        case Pairwise():
            return {"one_shot_utilities": UTILITIES}
    return {"one_shot_miwv": pl.Float32, "one_shot_neighbor": pl.String}


@stage(version=2, scope="row", reads=_reads, adds=_adds)
def one_shot(
    ctx: Context,
    rows: Records,
    anchors: Records,
    *,
    model: LanguageModel,
    method: Method = Golden(),
    form: Form = "separated",
    max_length: Annotated[int, Field(ge=2)] = 2048,
) -> pl.DataFrame:
    """Compare the likelihood of answers behind a demonstration with that of the answers alone.

    Only a conversation's last answer is scored, behind all turns before it. Null: the row has
    no answer, or with no anchor it is within `max_length`. An anchor that has no answer, that
    equals the row, or that exceeds `max_length` together with it is not used. Failed: a row for
    which the model gives no finite likelihood.

    Adds for `golden` `one_shot_golden`, of 0, 1/K, ..., 1 for K anchors that were used;
    `one_shot_gain`, the mean over them of what the log-likelihood per token rises by; and
    `one_shot_anchors`, K. For `pairwise` `one_shot_utilities`: the anchors that were measured, by
    `id`, and the `value` of the row for each, from -1 to 1. For `miwv` `one_shot_miwv` and
    `one_shot_neighbor`, the id of the row's demonstration. Neighbors are those that fit.

    Args:
        rows: The candidates: for `golden` and `pairwise` they are the demonstrations, for
            `miwv` the queries.
        anchors: The other side: the anchors of Nuggets; the rows themselves, or those and a
            target, for DELIFT and MIWV.
        model: The model whose likelihoods are measured.
        method: `golden`, `pairwise` or `miwv`.
        form: `separated` or `authors`, see the head of the module.
        max_length: Tokens of demonstration and query together.

    Returns:
        The columns of the method.

    Example:
        ```yaml
        vectors: {uses: embed.text, needs: pool, with: {embedder: embedder}}
        anchors: {uses: select.clusters, needs: vectors,
                  with: {method: {name: kmeans, n_clusters: 100}, budget: 100}}
        scored:  {uses: score.one_shot, needs: {rows: vectors, anchors: anchors},
                  with: {model: base, method: golden}}
        ```
    """
    engine = ctx.open(model)
    limit = min(max_length, engine.context_tokens or max_length)
    shown = exchanges(rows, engine.tokenizer, form)
    asked = exchanges(anchors, engine.tokenizer, form)
    vector, count = _vector(method), getattr(method, "neighbors", 1)
    fitting = fits(shown, asked, limit, anchors_demonstrate=isinstance(method, Miwv))
    near = None if vector is None else nearest(rows, anchors, vector, shown, asked, count, fitting)
    if isinstance(method, Miwv):
        return _miwv(engine, shown, asked, near or [])
    indices: list[list[int] | None] = [None] * len(shown) if near is None else [*near]
    used = [_used(row, asked, of, limit) for row, of in zip(shown, indices, strict=True)]
    known = alone(ctx.work, engine, {a.id: a for each in used for a in each})
    behind = _log_probs(engine, shown, used)
    schema = _adds(SimpleNamespace(method=method), {})
    table: list[tuple[Any, ...]] = []
    for row, anchors_used, scores in zip(shown, used, behind, strict=True):
        before = [known[anchor.id] for anchor in anchors_used]
        if np.isfinite([a.total for a in before]).all() and all(
            np.isfinite(each).all() for each in scores
        ):
            values = _measured(method, row is not None, anchors_used, before, scores)
            table.append((*values, None))
        else:
            table.append((*[None] * len(schema), NOT_FINITE))
    return pl.DataFrame(table, schema={**schema, "error": pl.String}, orient="row")


def _used(
    shown: Exchange | None, asked: Exchanges, near: list[int] | None, limit: int
) -> list[Exchange]:
    """The anchors that can stand behind a row."""
    if shown is None:
        return []
    candidates = asked if near is None else [asked[i] for i in near]
    fitting = limit - len(shown.demonstration)
    return [
        anchor
        for anchor in candidates
        if anchor is not None and anchor.text != shown.text and len(anchor.query) <= fitting
    ]


def _log_probs(engine: Engine, shown: Exchanges, used: list[list[Exchange]]) -> list[list[Floats]]:
    """The anchors' log-probabilities behind each row."""
    pairs = [
        (row, anchor)
        for row, anchors in zip(shown, used, strict=True)
        if row is not None
        for anchor in anchors
    ]
    scores = iter(engine.loglikelihood([anchor.behind(row) for row, anchor in pairs]))
    return [[next(scores).astype(np.float64) for _ in anchors] for anchors in used]


def _measured(
    method: Golden | Pairwise,
    readable: bool,
    anchors: list[Exchange],
    before: list[Alone],
    behind: list[Floats],
) -> tuple[Any, ...]:
    """The columns of a row.

    Args:
        method: What is measured.
        readable: Whether the row has an answer.
        anchors: The anchors that were used.
        before: What is known of these without a demonstration.
        behind: Their log-probabilities behind the row.
    """
    if isinstance(method, Pairwise):
        values = [a.distance - distance(b) for a, b in zip(before, behind, strict=True)]
        listed = zip(anchors, values, strict=True)
        return ([{"id": anchor.id, "value": v} for anchor, v in listed] if readable else None,)
    if not anchors:
        return None, None, 0 if readable else None
    rises = [float(b.sum()) - a.total for a, b in zip(before, behind, strict=True)]
    gain = np.mean([rise / len(b) for rise, b in zip(rises, behind, strict=True)])
    return float(np.mean([rise > 0 for rise in rises])), float(gain), len(anchors)


def _miwv(
    engine: Engine, asked: Exchanges, shown: Exchanges, near: list[list[int]]
) -> pl.DataFrame:
    """The columns of `miwv`: here the rows are asked, and their neighbors shown."""
    pairs: dict[int, tuple[Exchange, Exchange]] = {}
    for i, (row, indices) in enumerate(zip(asked, near, strict=True)):
        neighbor = shown[indices[0]] if indices else None
        if row is not None and neighbor is not None:
            pairs[i] = row, neighbor
    # A demonstration has few queries here, so that nothing is gained by sharing it.
    requests = [row.alone() for row, _ in pairs.values()]
    requests += [row.behind(neighbor).joined() for row, neighbor in pairs.values()]
    scores = engine.loglikelihood(requests)
    alone, behind = scores[: len(pairs)], scores[len(pairs) :]
    table: list[tuple[float | None, str | None, str | None]] = [(None, None, None)] * len(asked)
    for (i, (_, neighbor)), a, b in zip(pairs.items(), alone, behind, strict=True):
        value = float(np.mean(a, dtype=np.float64) - np.mean(b, dtype=np.float64))
        is_number = np.isfinite(value)
        table[i] = (value, neighbor.id, None) if is_number else (None, None, NOT_FINITE)
    schema = {"one_shot_miwv": pl.Float32, "one_shot_neighbor": pl.String, "error": pl.String}
    return pl.DataFrame(table, schema=schema, orient="row")
