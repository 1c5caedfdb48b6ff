"""Sentence vectors of the conversations, for clustering, near-duplicates and diversity.

What is embedded is a template over the parts of a conversation, because the
choice matters: instructions alone group tasks, whole rows group topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Embedder
from pipeline.stage import Records, stage
from schemas.records import input_text, instruction, response

PARTS: Final = {
    "instruction": instruction().fill_null(""),
    "input": input_text().fill_null(""),
    "response": response().fill_null(""),
}
"""The texts that a template may name; it may also name `messages`, the list of turns."""


def _check(options: SimpleNamespace) -> None:
    from jinja2 import TemplateSyntaxError, meta

    if options.batch < 1:
        raise UserError("batch must be at least 1")
    try:
        tree = _environment().parse(options.template)
    except TemplateSyntaxError as error:
        raise UserError(
            f"template: {error.message}", hint="write for example {{ instruction }}"
        ) from None
    unknown = meta.find_undeclared_variables(tree) - {*PARTS, "messages"}
    if unknown:
        raise UserError(
            f"template: there is no {', '.join(sorted(unknown))}",
            hint="name instruction, input, response or messages",
        )


@stage(
    version=2,
    scope="row",
    reads=["messages", "input_start"],
    adds={"vector": pl.List(pl.Float32)},
    check=_check,
)
def text(
    ctx: Context,
    rows: Records,
    *,
    model: Embedder,
    template: str = "{{ instruction }}\n{{ input }}\n{{ response }}",
    batch: int = 4096,
    normalise: bool = True,
) -> pl.DataFrame:
    """Add the `vector` of each conversation: List(Float32), as long as the model's output.

    template: the text to embed, in Jinja: `instruction`, `input` and `response`
        are texts, empty where there are none; `messages` is the list of turns with
        `role` and `content`.
    batch: texts given to the encoder at once; no vector depends on it.
    normalise: scale the vectors to length 1, so that dot products are cosines.

    A vector of zeros (a static model knows no word of the text) stays as it is. A
    row for which the model gives numbers that are not finite fails.
    """
    texts = _texts(rows, template)
    encoder = ctx.open(model)
    parts = []
    for start in range(0, len(texts), batch):
        parts.append(encoder.encode(texts[start : start + batch].to_list()))
        ctx.progress(min(start + batch, len(texts)), len(texts))
    if not parts:
        return pl.DataFrame({"vector": []}, {"vector": pl.List(pl.Float32)})
    vectors = np.concatenate(parts).astype(np.float32, copy=False)
    vectors = _unit(vectors) if normalise else vectors
    finite = pl.Series(np.isfinite(vectors).all(axis=1))
    return pl.DataFrame({"vector": pl.Series(vectors).arr.to_list()}).select(
        pl.when(finite).then("vector"),
        pl.when(~finite).then(pl.lit("the model gives no finite vector")).alias("error"),
    )


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    divisible = np.isfinite(lengths) & (lengths > 0)
    return np.divide(vectors, lengths, out=vectors.copy(), where=divisible)


def _texts(rows: pl.DataFrame, template: str) -> pl.Series:
    """The template's text for each row.

    A template of names and plain text, which most are, is one expression over
    columns; one with logic is rendered row by row.
    """
    from jinja2 import nodes

    pieces = [
        piece
        for output in _environment().parse(template).body
        for piece in (output.nodes if isinstance(output, nodes.Output) else [output])
    ]
    if all(_is_plain(piece) for piece in pieces):
        joined = pl.concat_str([pl.lit(""), *(_expression(piece) for piece in pieces)])
        return rows.with_columns(joined.alias("text"))["text"]
    return pl.Series(_rendered(rows, template), dtype=pl.String)


def _is_plain(piece: Any) -> bool:
    from jinja2 import nodes

    is_part = isinstance(piece, nodes.Name) and piece.name in PARTS
    return is_part or isinstance(piece, nodes.TemplateData)


def _expression(piece: Any) -> pl.Expr:
    from jinja2 import nodes

    return PARTS[piece.name] if isinstance(piece, nodes.Name) else pl.lit(piece.data)


def _rendered(rows: pl.DataFrame, template: str) -> Sequence[str]:
    compiled = _environment().from_string(template)
    parts = rows.select("messages", **PARTS)
    return [compiled.render(row) for row in parts.iter_rows(named=True)]


def _environment() -> Any:
    """A recipe is data, so its templates run in a sandbox."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
