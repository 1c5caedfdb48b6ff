"""Decontamination by meaning: rows that paraphrase an evaluation item.

Rules of n-grams are blind to paraphrase (0 of 1,319 rephrased GSM8K problems hold a
13-gram of their original). Here each turn is compared with each text of the items by
the cosine of their sentence vectors, after Yang et al. 2023 (LLM decontaminator),
arXiv:2311.04850: the nearest texts above a threshold are paraphrases, or are put before
a language model that decides.

Two problems of one type are close in meaning and different: 44% of GSM8K's *training*
problems have a test problem at a cosine of 0.7 or more. They differ from rephrased
test problems in their numbers, which a paraphrase keeps, so a turn must name most of the
item's numbers too.

The rows dropped with the bundled potion-base-4m, in per cent (`python -m
tests.bench.paraphrases MODEL` measures any encoder and draws the curve):

    threshold                                0.65  0.70  0.75  0.80  0.85  0.90
    rephrased GSM8K (1,319)                  92.9  92.0  88.3  81.9  66.3  36.3
      the cosine alone                       99.0  97.6  93.4  86.2  69.3  37.7
    rephrased HumanEval (147)                99.3  98.0  91.8  72.8  38.1   9.5
    GSM8K train (7,473), all of it wrong      1.0   0.7   0.4   0.2   0.1   0.0
      the cosine alone                       62.8  43.9  24.3  10.0   2.6   0.4
    Alpaca (52,002), five benchmarks         22.6  10.3   4.0   1.4   0.4     -

The default, 0.75, finds nine of ten paraphrases; it costs four of a hundred ordinary
rows, nearly all of them innocent, because a small encoder confuses the same subject with
the same question. Where that is too much, add a judge, raise the threshold, or compare
with the questions alone (`fields`). Other encoders have other cosines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import Embedder, Encoder, LanguageModel
from pipeline.models.counting import is_counting
from pipeline.stage import Items, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from stages._common.verdicts import dropped
from stages.decontaminate._benchmarks import Benchmarks, Turns, by_benchmark, turns_of
from stages.decontaminate._judge import Judgment, TaskType, judge_pairs
from stages.decontaminate._nearest import EmbeddedItems, NearestTexts, embed_items, nearest, unit
from stages.decontaminate._numbers import agreement, numbers_in

ADDS: Final = {"exam_similarity": pl.Float32(), "exam_item": pl.String()}
TASK_TYPES: Final[dict[str, TaskType]] = {"gsm8k": "math", "humaneval": "code"}
"""The tasks of the bundled benchmarks; all others test knowledge."""

TEMPERATURE: Final = 0.0
MAX_TOKENS: Final = 16

Threshold = Annotated[
    float | dict[str, float], by_benchmark("above 0 and at most 1", lambda t: 0 < t <= 1)
]

Verdict = tuple[dict[str, Any] | None, str | None]
"""The evidence for which a row is dropped, or why it failed."""

NUMBERS_MAY_DIFFER: Final = ("code", "number_substituted")
"""Task types whose paraphrases may have other numbers: examples of a program, for one."""


def _check(options: SimpleNamespace) -> None:
    if options.judge is None:
        for name, default in (("temperature", TEMPERATURE), ("max_tokens", MAX_TOKENS)):
            if (value := getattr(options, name)) != default:
                raise OptionError(
                    name,
                    f"must be left out without a judge, got {value}",
                    hint=f"name a language model as `judge`, or remove {name}",
                )


@stage(version=2, scope="row", reads={"rows": ["messages"]}, adds=ADDS, check=_check)
def semantic(
    ctx: Context,
    rows: Records,
    benchmarks: Items,
    *,
    embedder: Embedder,
    threshold: Threshold = 0.75,
    min_number_overlap: Fraction = 0.75,
    turns: Turns = "user",
    fields: tuple[str, ...] | None = None,
    min_words: Count = 5,
    n_neighbors: Count = 1,
    task_types: dict[str, TaskType] | None = None,
    judge: LanguageModel | None = None,
    temperature: NonNegativeFloat = TEMPERATURE,
    max_tokens: Count = MAX_TOKENS,
    batch_size: Count = 4096,
) -> pl.DataFrame:
    """Drop as `contaminated` every row of which one turn paraphrases an evaluation item.

    Adds `exam_similarity`, the cosine of the row's nearest text of all items, and
    `exam_item`, the id of that item; null where no turn has a vector.

    Args:
        rows: The rows to check.
        benchmarks: The evaluation items.
        embedder: Encodes turns and items.
        threshold: The cosine from which on a text is a paraphrase, for all benchmarks or as
            {benchmark: cosine}. The default belongs to the bundled potion-base-4m (see the
            figures above); every other encoder needs its own.
        min_number_overlap: Smallest fraction of the numbers of an item's text, in digits or
            English words, that the turn must name too. Not required of texts without any,
            nor of benchmarks of the types `code` and `number_substituted`. 0: the cosine
            alone decides.
        turns: Turns that are compared, each separately and as one text: an item that is a
            small part of a long turn is found by n-grams (if copied), not here.
        fields: Names of the items' texts that count; null: all.
        min_words: Texts of fewer words are left out.
        n_neighbors: Nearest texts of each benchmark that are considered for each turn. The
            paper takes the k nearest rows of each item (its code: 1), which depends on all
            rows of the pool; here a row's verdict depends on the row alone.
        task_types: Type of a benchmark's tasks: `code`, `math`, `knowledge`, or
            `number_substituted`, which drops problems that differ in their numbers alone.
            Selects the judge's prompt. Default: gsm8k math, humaneval code, others knowledge.
        judge: A language model that decides on each text above the threshold. A row without
            a readable judgment *fails*, unless another one convicts it; the paper's code
            counts such a row as clean.
        temperature: Of the judge; the paper's code has 0.3, and up to 30 requests a pair.
        max_tokens: Of the judge's answer.
        batch_size: Texts encoded at once; no result depends on it.

    Returns:
        The added columns and the verdicts. Evidence, for the most similar text: benchmark,
        item and its id, field, similarity, numbers (the fraction that the turn names; null
        where it is not required), turn (its position in messages), and journal (the
        judgment's keys).

    Raises:
        UserError: There are no items, or no text of a benchmark can be compared: nothing
            would ever be found, which is not the same as clean.

    Example:
        ```yaml
        clean:
          uses: decontaminate.semantic
          needs: {rows: pool, benchmarks: exams}
          with: {embedder: embedder, threshold: 0.8, fields: [question]}
        ```
    """
    items, encoder = Benchmarks(benchmarks), ctx.open(embedder)
    embedded = embed_items(encoder.encode, items, fields, min_words)
    limits = items.limits("threshold", threshold, embedded.texts)
    turn_rows = turns_of(rows, turns)
    vectors = _encode(ctx, encoder, turn_rows["text"], batch_size)
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
    neighbors = nearest(embedded, vectors[usable], n_neighbors)
    neighbors = neighbors._replace(turn=usable[neighbors.turn])
    pairs = _Pairs(embedded, turn_rows, neighbors, _task_types(items, task_types))
    close = np.flatnonzero(neighbors.similarity >= limits[neighbors.text]).tolist()
    close = [i for i in close if (kept := pairs.numbers(i)) is None or kept >= min_number_overlap]
    # Vectors say nothing while requests are counted: at most every pair is judged.
    close = [*range(len(neighbors.turn))] if is_counting() else close
    judgments = None
    if judge is not None:
        questions = [pairs.question(i) for i in close]
        judgments = judge_pairs(ctx.open(judge), questions, temperature, max_tokens)
    verdicts = _verdicts(pairs, close, judgments)
    for row in turn_rows["row"].to_numpy()[~np.isfinite(vectors).all(axis=1)].tolist():
        verdicts.setdefault(row, (None, "the embedder gives no finite vector"))
    return _table(len(rows), pairs, verdicts)


class _Pairs(NamedTuple):
    """The nearest texts of the turns, with what their verdicts need."""

    items: EmbeddedItems
    turns: pl.DataFrame
    neighbors: NearestTexts
    task_types: Mapping[str, TaskType]

    def text(self, i: int) -> dict[str, Any]:
        """Benchmark, item, id, field and text of the i-th pair."""
        return self.items.texts.row(int(self.neighbors.text[i]), named=True)

    def turn(self, i: int) -> dict[str, Any]:
        """Row, turn and text of the i-th pair."""
        return self.turns.row(int(self.neighbors.turn[i]), named=True)

    def numbers(self, i: int) -> float | None:
        """The fraction of the item's numbers that the turn names; null where none is required."""
        text = self.text(i)
        required = numbers_in(text["text"])
        if not required or self.task_types[text["benchmark"]] in NUMBERS_MAY_DIFFER:
            return None
        return agreement(required, numbers_in(self.turn(i)["text"]))

    def question(self, i: int) -> tuple[TaskType, str, str]:
        """The i-th pair as `judge_pairs` takes it."""
        text = self.text(i)
        return self.task_types[text["benchmark"]], self.turn(i)["text"], text["text"]

    def evidence(self, i: int) -> dict[str, Any]:
        """The evidence of a row that is dropped for the i-th pair."""
        text = self.text(i)
        named = {name: text[name] for name in ("benchmark", "item", "id", "field")}
        similarity = round(float(self.neighbors.similarity[i]), 6)
        kept = self.numbers(i)
        return {**named, "similarity": similarity, "numbers": kept, "turn": self.turn(i)["turn"]}


def _task_types(
    benchmarks: Benchmarks, overrides: Mapping[str, TaskType] | None
) -> dict[str, TaskType]:
    """The type of each benchmark's tasks."""
    names = benchmarks.names()
    if unknown := sorted((overrides or {}).keys() - set(names)):
        raise UserError(
            f"task_types must name benchmarks of the items, got {', '.join(unknown)}",
            hint=f"the benchmarks are {', '.join(names)}",
        )
    defaults = {name: TASK_TYPES.get(name, "knowledge") for name in names}
    return defaults | dict(overrides or {})


def _encode(
    ctx: Context, encoder: Encoder, texts: pl.Series, batch_size: int
) -> NDArray[np.float32]:
    """The texts' vectors, of length 1; zeros for a text of which the encoder knows no word."""
    parts = [np.zeros((0, encoder.dimensions), dtype=np.float32)]
    for start in range(0, len(texts), batch_size):
        parts.append(unit(encoder.encode(texts[start : start + batch_size].to_list())))
        ctx.progress(min(start + batch_size, len(texts)), len(texts))
    return np.concatenate(parts)


def _verdicts(
    pairs: _Pairs, close: Sequence[int], judgments: Sequence[Judgment] | None
) -> dict[int, Verdict]:
    """Evidence of each row that is dropped for a pair, or error where the judge gave no answer."""
    verdicts: dict[int, Verdict] = {}
    similarity = pairs.neighbors.similarity
    # A loop over the pairs above the threshold only, the most similar first.
    for n in sorted(range(len(close)), key=lambda n: (-similarity[close[n]], close[n])):
        i, judgment = close[n], judgments[n] if judgments else None
        row = pairs.turn(i)["row"]
        evidence = pairs.evidence(i)
        if judgment is not None:
            evidence["journal"] = judgment.journal
        if judgment is None or judgment.same:
            if row not in verdicts or verdicts[row][0] is None:
                verdicts[row] = evidence, None
        elif judgment.error is not None:
            verdicts.setdefault(row, (None, f"no judgement: {judgment.error}"))
    return verdicts


def _table(height: int, pairs: _Pairs, verdicts: Mapping[int, Verdict]) -> pl.DataFrame:
    """One row per input row: its nearest item and its verdict."""
    neighbors = pairs.neighbors
    nearest_of = (
        pl.DataFrame({"row": pairs.turns["row"].gather(neighbors.turn)})
        .with_columns(
            pl.Series("exam_similarity", neighbors.similarity, dtype=pl.Float64),
            pairs.items.texts["id"].gather(neighbors.text).alias("exam_item"),
            pl.Series("text", neighbors.text),
        )
        .sort("row", "exam_similarity", "text", descending=[False, True, False])
        .unique("row", keep="first", maintain_order=True)
    )
    joined = pl.DataFrame({"row": np.arange(height)}).join(
        nearest_of, on="row", how="left", maintain_order="left"
    )
    evidence = {row: cause for row, (cause, _) in verdicts.items() if cause is not None}
    errors = [verdicts[row][1] if row in verdicts else None for row in range(height)]
    added = joined.select(pl.col(name).cast(kind) for name, kind in ADDS.items())
    return added.hstack(dropped(height, "contaminated", evidence)).with_columns(
        pl.Series("error", errors, dtype=pl.String)
    )
