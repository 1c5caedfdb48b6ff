"""Sentence vectors of conversations and documents, for clustering, near-duplicates, diversity.

What is embedded is a template over the parts of a conversation, because the
choice matters: instructions alone group tasks, whole rows group topics. Of a document it is
the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AfterValidator

from pipeline.context import Context
from pipeline.models.base import Embedder
from pipeline.stage import Documents, Records, stage
from pipeline.types import Count
from schemas.records import input_text, instruction, response
from schemas.turns import View, turn_text
from stages.embed._unit import NOT_FINITE

PARTS: Final = ("instruction", "input", "response")
"""The texts that a template may name; it may also name `messages`, the list of turns."""


def _parts(view: View) -> dict[str, pl.Expr]:
    texts = (instruction(), input_text(), response(view))
    return {name: text.fill_null("") for name, text in zip(PARTS, texts, strict=True)}


def _valid_template(template: str) -> str:
    from jinja2 import TemplateSyntaxError, meta

    try:
        tree = _environment().parse(template)
    except TemplateSyntaxError as error:
        raise ValueError(
            f"must be a Jinja template such as '{{{{ instruction }}}}', got {template!r} "
            f"({error.message})"
        ) from None
    unknown = meta.find_undeclared_variables(tree) - {*PARTS, "messages"}
    if unknown:
        raise ValueError(
            "must name instruction, input, response or messages only, "
            f"got {', '.join(sorted(unknown))}"
        )
    return template


Template = Annotated[str, AfterValidator(_valid_template)]


@stage(
    version=3,
    scope="row",
    reads=["messages", "input_start"],
    adds={"vector": pl.List(pl.Float32)},
)
def text(
    ctx: Context,
    rows: Records | Documents,
    *,
    embedder: Embedder,
    template: Template = "{{ instruction }}\n{{ input }}\n{{ response }}",
    view: View = "calls",
    batch_size: Count = 4096,
    normalize: bool = True,
) -> pl.DataFrame:
    """Add the `vector` of each row: List(Float32), as long as the embedder's output.

    A vector of zeros (a static embedder knows no word of the text) stays as it is. A row
    for which the embedder gives numbers that are not finite fails.

    Args:
        rows: The conversations, or documents, of which the text is embedded.
        embedder: The embedding model.
        template: The text of a conversation to embed, in Jinja: `instruction`, `input` and
            `response` are texts, empty where the conversation has none; `messages` is the list
            of turns with `role`, `content` and `text`, which is the turn in the view.
        view: What of a turn is embedded: its content, the tool calls too, or all.
        batch_size: Texts given to the encoder at once; no vector depends on it.
        normalize: Scale the vectors to length 1, so that dot products are cosines.

    Example:
        In a recipe, with the model bundled in `data/models`:

        ```yaml
        models:
          potion: {engine: sentence-transformers, model: data/models/potion-base-4m}
        stages:
          vectors: {uses: embed.text, needs: pool, with: {embedder: potion}}
        ```
    """
    documents = "messages" not in rows.columns
    texts = rows["text"].fill_null("") if documents else _texts(rows, template, view)
    encoder = ctx.open(embedder)
    parts = []
    for start in range(0, len(texts), batch_size):
        parts.append(encoder.encode(texts[start : start + batch_size].to_list()))
        ctx.progress(min(start + batch_size, len(texts)), len(texts))
    if not parts:
        return pl.DataFrame({"vector": []}, {"vector": pl.List(pl.Float32)})
    vectors = np.concatenate(parts).astype(np.float32, copy=False)
    vectors = _unit(vectors) if normalize else vectors
    finite = pl.Series(np.isfinite(vectors).all(axis=1))
    return pl.DataFrame({"vector": pl.Series(vectors).arr.to_list()}).select(
        pl.when(finite).then("vector"),
        pl.when(~finite).then(pl.lit(NOT_FINITE)).alias("error"),
    )


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    divisible = np.isfinite(lengths) & (lengths > 0)
    return np.divide(vectors, lengths, out=vectors.copy(), where=divisible)


def _texts(rows: pl.DataFrame, template: str, view: View) -> pl.Series:
    """The template's text for each row.

    Most templates hold names and literal text only: these become one expression over
    columns. A template with logic is rendered row by row.
    """
    from jinja2 import nodes

    pieces = [
        piece
        for output in _environment().parse(template).body
        for piece in (output.nodes if isinstance(output, nodes.Output) else [output])
    ]
    if all(_is_literal(piece) for piece in pieces):
        joined = pl.concat_str([pl.lit(""), *(_expression(piece, view) for piece in pieces)])
        return rows.with_columns(joined.alias("text"))["text"]
    return pl.Series(_rendered(rows, template, view), dtype=pl.String)


def _is_literal(piece: Any) -> bool:
    from jinja2 import nodes

    is_part = isinstance(piece, nodes.Name) and piece.name in PARTS
    return is_part or isinstance(piece, nodes.TemplateData)


def _expression(piece: Any, view: View) -> pl.Expr:
    from jinja2 import nodes

    return _parts(view)[piece.name] if isinstance(piece, nodes.Name) else pl.lit(piece.data)


def _rendered(rows: pl.DataFrame, template: str, view: View) -> Sequence[str]:
    compiled = _environment().from_string(template)
    parts = rows.select("messages", **_parts(view))
    return [compiled.render(_with_texts(row, view)) for row in parts.iter_rows(named=True)]


def _with_texts(row: dict[str, Any], view: View) -> dict[str, Any]:
    turns = [{**turn, "text": turn_text(turn, view)} for turn in row["messages"] or ()]
    return {**row, "messages": turns}


def _environment() -> Any:
    """Jinja in a sandbox, because a recipe is data and not code."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
