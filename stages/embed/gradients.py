"""Vectors of conversations from the gradients of their losses, for influence and for clusters.

LESS: LESS: Selecting Influential Data for Targeted Instruction Tuning (Xia et al. 2024,
arXiv:2402.04333; princeton-nlp/LESS).

As in the paper: rows to choose from are what Adam would do for them at a checkpoint (`form:
adam`), target rows their plain gradients (`sgd`); both are projected with random signs.

As in the authors' code: the loss is the mean over a row's answer tokens, epsilon stands inside
the root, the bias is not corrected, vectors have length 1; forms are adam, sgd, sign; 8192
dimensions.

Ours: gradients are those of a fresh adapter at the checkpoint's merged weights (the code goes on
with the trained adapter). The moments are measured there: Adam's averages over the gradients of
the rows on the edge `warmup`, the rows that the checkpoint was trained on, their bias corrected,
as of a long training (the code loads those of the optimizer). Projections are float32.

Adapt-∞: Adapt-infinity: Scalable Lifelong Multimodal Instruction Tuning via Dynamic Data Selection
(Maharana et al. 2024, arXiv:2410.10636).

As in the authors' code: gradients of the last layer as vectors, projected, then clustered
(`parameters: {name: weights, pattern: ...}`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.models.counting import CountingEncoder
from pipeline.models.local.threads import fix_threads
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count
from stages._common.edges import require_input
from stages._gradients.forms import Moments, adam, moments_of
from stages._gradients.parameters import Adapter, Differentiable, Parameters, differentiable
from stages._gradients.per_row import row_gradients
from stages._gradients.projection import project
from stages._training.dataset import check_template, cut, tokenizer_for
from stages._training.encoding import encode
from stages.embed._unit import NOT_FINITE, unit

Form = Literal["adam", "sgd", "sign"]
Matrix = NDArray[np.float32]


def _adds(options: Any, edges: Edges) -> Mapping[str, Any]:
    require_input(edges, "warmup", f"form: {options.form}", connected=options.form == "adam")
    return {"vector": pl.List(pl.Float32)}


@stage(
    version=2,
    scope="row",
    reads=["messages", "tools"],
    adds=_adds,
    check=lambda options: check_template(options.model),
)
def gradients(
    ctx: Context,
    rows: Records,
    warmup: Records | None = None,
    *,
    model: LanguageModel,
    form: Form = "sgd",
    parameters: Parameters = Adapter(),
    dimensions: Count | None = 8192,
    max_length: Count = 2048,
    batch_size: Count = 32,
    normalize: bool = True,
    seed: int = 0,
) -> pl.DataFrame:
    """Add the `vector` of each row: List(Float32), its gradient projected.

    A row that the chat template cannot show, that has no answer within `max_length`, or whose
    gradient is not finite, fails.
    Rows that are cut are counted (`rows_cut`). The gradients of 32 rows are held at once, 256
    MiB of them at most, and 192 MiB of the projection.

    Args:
        rows: The conversations.
        warmup: The rows that the model was trained on, for `form: adam`.
        model: The model, a checkpoint; its engine must be transformers.
        form: `sgd`: the gradient. `adam`: the step that Adam would take for it. `sign`: its
            signs.
        parameters: `lora`: those of a fresh adapter. `weights`: the model's own, by name.
        dimensions: Values of a vector; null for the gradient itself, not projected.
        max_length: Tokens at which a row is cut, at the end.
        batch_size: Rows of a step, for Adam's moments.
        normalize: Scale the vectors to length 1, so that dot products are cosines.
        seed: Of the projection. Vectors of one seed and of equal parameters can be compared.

    Example:
        ```yaml
        vectors: {uses: embed.gradients, needs: pool, with: {model: warm, dimensions: 1024}}
        ```
    """
    connected = {"warmup": warmup}
    require_input(connected, "warmup", f"form: {form}", connected=form == "adam")
    weights = ctx.open(model).weights
    if weights is None:  # requests are counted, and there are none
        return pl.DataFrame({"vector": CountingEncoder().encode(rows["id"].to_list()).tolist()})
    fix_threads()
    tokenizer, template = tokenizer_for(model)
    differentiated = differentiable(weights, parameters)
    moments = None
    if warmup is not None:
        trained = encode(tokenizer, template, warmup.sort("id"))
        moments = _moments(ctx, differentiated, trained, max_length, batch_size)
    encoded = encode(tokenizer, template, rows)
    vectors: list[list[float] | None] = [None] * len(rows)
    errors, done = encoded["error"].to_list(), 0
    for positions, values in _in_parts(ctx, differentiated, encoded, max_length):
        formed = _formed(values, form, moments)
        projected = formed if dimensions is None else project(formed, dimensions, seed)
        for position, vector in zip(positions, projected[: len(positions)], strict=True):
            if np.isfinite(vector).all():
                vectors[position] = (unit(vector) if normalize else vector).tolist()
            else:
                errors[position] = NOT_FINITE
        done += len(positions)
        ctx.progress(done, len(rows))
    column = pl.Series(vectors, dtype=pl.List(pl.Float32))
    error = pl.coalesce("error", pl.lit(f"no answer token among the first {max_length}"))
    return pl.DataFrame({"vector": column, "error": pl.Series(errors, dtype=pl.String)}).select(
        "vector", pl.when(pl.col("vector").is_null()).then(error).alias("error")
    )


def _in_parts(
    ctx: Context, model: Differentiable, encoded: pl.DataFrame, max_length: int
) -> Iterator[tuple[list[int], Matrix]]:
    """Positions of rows and their gradients, in parts of one shape (see `row_gradients`)."""
    usable, counts = cut(encoded.with_row_index("position"), max_length)
    ctx.count(tokens=counts["tokens"], rows_cut=counts["rows_cut"])
    at = usable["position"].to_list()
    ids, labels = usable["input_ids"].to_list(), usable["labels"].to_list()
    for rows, values in row_gradients(model, ids, labels):
        yield [at[row] for row in rows], values


def _formed(values: Matrix, form: Form, moments: Moments | None) -> Matrix:
    if form == "sign":
        return np.sign(values)
    return values if moments is None else adam(values, moments)


def _moments(
    ctx: Context, model: Differentiable, encoded: pl.DataFrame, max_length: int, batch_size: int
) -> Moments:
    """Adam's moments over the rows of the warm-up, computed once for all chunks of rows."""
    file = ctx.work / "moments.npz"
    if file.exists():
        return Moments.load(file)
    usable, _ = cut(encoded, max_length)
    if usable.is_empty():
        raise UserError(
            f"the edge 'warmup' must have rows with an answer among the first {max_length} "
            f"tokens, got none among {len(encoded):,}",
            hint="connect the rows that the model was trained on",
        )

    def steps() -> Iterator[Matrix]:
        for batch in usable.iter_slices(batch_size):
            ids, labels = batch["input_ids"].to_list(), batch["labels"].to_list()
            total = np.zeros(model.size)
            for _, values in row_gradients(model, ids, labels):
                total += values.sum(axis=0, dtype=np.float64)
            yield (total / len(batch)).astype(np.float32)

    moments = moments_of(steps(), model.size)
    moments.save(file)
    return moments
