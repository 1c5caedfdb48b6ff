"""Decontamination by meaning: rows that ask an evaluation item in other words.

Rules of n-grams are blind to paraphrase (0 of 1,319 rephrased GSM8K problems hold a
13-gram of their original). Here each turn is compared with each text of the items by
the cosine of their sentence vectors, after Yang et al. 2023 (LLM decontaminator),
arXiv:2311.04850: the nearest texts above a threshold are paraphrases, or are put before
a language model that decides.

Two problems of one kind are close in meaning and different: 44% of GSM8K's *training*
problems have a test problem at a cosine of 0.7 or more. What tells them from rephrased
test problems is that a paraphrase keeps the numbers, so a turn must name most of the
item's numbers too.

What the bundled potion-base-4m finds, in per cent of the rows (`python -m
tests.bench.paraphrases MODEL` measures any encoder and draws the curve):

    threshold                                0.65  0.70  0.75  0.80  0.85  0.90
    rephrased GSM8K (1,319)                  92.9  92.0  88.3  81.9  66.3  36.3
      the cosine alone                       99.0  97.6  93.4  86.2  69.3  37.7
    rephrased HumanEval (147)                99.3  98.0  91.8  72.8  38.1   9.5
    GSM8K train (7,473), all of it wrong      1.0   0.7   0.4   0.2   0.1   0.0
      the cosine alone                       62.8  43.9  24.3  10.0   2.6   0.4
    Alpaca (52,002), five benchmarks         22.6  10.3   4.0   1.4   0.4     -

The default, 0.75, finds nine of ten paraphrases; it costs four of a hundred ordinary
rows, nearly all of them innocent, because a small encoder takes the same subject for
the same question. Where that is too much, ask a judge, raise the threshold, or compare
with the questions alone (`fields`). Other encoders have other cosines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Embedder, Encoder, LanguageModel
from pipeline.stage import Items, Records, stage
from stages._common.unused_options import refuse_idle
from stages._common.verdicts import dropped
from stages.decontaminate._judge import Judgement, Kind, judgements
from stages.decontaminate._nearest import Embedded, Near, embedded, nearest, unit
from stages.decontaminate._numbers import agreement, numbers_in
from stages.decontaminate._rules import Exams, Turns, turns_of

ADDS: Final = {"exam_similarity": pl.Float32(), "exam_item": pl.String()}
KINDS: Final[dict[str, Kind]] = {"gsm8k": "math", "humaneval": "code"}
"""What the bundled benchmarks ask; all others ask for knowledge."""

Verdict = tuple[dict[str, Any] | None, str | None]
"""The evidence that convicts a row, or why it failed."""

NUMBERS_CHANGE: Final = ("code", "number_substituted")
"""Kinds whose paraphrases may have other numbers: examples of a program, for one."""


def _check(options: SimpleNamespace) -> None:
    thresholds = options.threshold
    for value in thresholds.values() if isinstance(thresholds, dict) else [thresholds]:
        if not 0 < value <= 1:
            raise UserError("threshold is a cosine: above 0, at most 1")
    if not 0 <= options.numbers <= 1:
        raise UserError("numbers is a share: at least 0, at most 1")
    for name in ("top_k", "min_words", "batch", "max_tokens"):
        if getattr(options, name) < 1:
            raise UserError(f"{name} must be at least 1")
    refuse_idle(
        *(semantic, options),
        (options.judge is not None, "a judge", "temperature max_tokens"),
    )


@stage(version=2, scope="row", reads={"rows": ["messages"]}, adds=ADDS, check=_check)
def semantic(
    ctx: Context,
    rows: Records,
    exams: Items,
    *,
    embedder: Embedder,
    threshold: float | dict[str, float] = 0.75,
    numbers: float = 0.75,
    turns: Turns = "user",
    fields: tuple[str, ...] | None = None,
    min_words: int = 5,
    top_k: int = 1,
    kinds: dict[str, Kind] | None = None,
    judge: LanguageModel | None = None,
    temperature: float = 0.0,
    max_tokens: int = 16,
    batch: int = 4096,
) -> pl.DataFrame:
    """Drop as `contaminated` every row of which one turn paraphrases an evaluation item.

    Adds `exam_similarity`, the cosine of the row's nearest text of all items, and
    `exam_item`, the id of that item; null where no turn has a vector.

    threshold: the cosine from which on a text is a paraphrase, for all benchmarks or as
        {benchmark: cosine}. The default belongs to the bundled potion-base-4m (see the
        figures above); every other encoder needs its own.
    numbers: the share of the numbers of an item's text, in digits or English words,
        that the turn must name too. Not asked of texts without any, nor of benchmarks
        of the kinds `code` and `number_substituted`. 0: the cosine alone decides.
    turns: which turns are looked at, each by itself, as a whole: an item that is a small
        part of a long turn is found by n-grams (if copied), not here.
    fields: the texts of the items that count, by name; by default all.
    min_words: texts of fewer words are left out.
    top_k: so many of the nearest texts of each benchmark are looked at for each turn.
        The paper takes the k nearest rows of each item (its code: 1), which depends on the
        whole pool; here a row's verdict depends on the row alone.
    kinds: what a benchmark asks: `code`, `math`, `knowledge`, or `number_substituted`,
        which convicts problems that differ in their numbers alone. Sets the words in
        which the model is asked. Default: gsm8k math, humaneval code, others knowledge.
    judge: a language model that is asked about each text above the threshold, and
        decides. A row without a readable judgement *fails*, unless another one convicts
        it; the paper's code counts such a row as clean.
    temperature: of the judge: 0; the paper's code has 0.3, and asks up to 30 times.
    batch: texts given to the encoder at once; no result depends on it.

    Evidence, for the most similar text: benchmark, item and its id, field, similarity,
    numbers (the share that the turn names; null where it is not asked for), turn (its
    place in messages), and journal (the judgement's keys).
    Raises UserError for exams without items, and for a benchmark of which nothing can
    be compared: nothing would ever be found, which is not the same as clean.
    """
    asked, encoder = Exams(exams), ctx.open(embedder)
    items = embedded(encoder.encode, asked, fields, min_words)
    limits = asked.limits("threshold", threshold, items.texts)
    spoken = turns_of(rows, turns)
    vectors = _encoded(ctx, encoder, spoken["text"], batch)
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
    near = nearest(items, vectors[usable], top_k)
    near = near._replace(turn=usable[near.turn])
    pairs = _Pairs(items, spoken, near, _kinds(asked, kinds))
    close = np.flatnonzero(near.similarity >= limits[near.text]).tolist()
    close = [i for i in close if (kept := pairs.numbers(i)) is None or kept >= numbers]
    told = None
    if judge is not None:
        questions = [pairs.question(i) for i in close]
        told = judgements(ctx.open(judge), questions, temperature, max_tokens)
    verdicts = _verdicts(pairs, close, told)
    for row in spoken["row"].to_numpy()[~np.isfinite(vectors).all(axis=1)].tolist():
        verdicts.setdefault(row, (None, "the embedder gives no finite vector"))
    return _table(len(rows), pairs, verdicts)


class _Pairs(NamedTuple):
    """The nearest texts of the turns, with what their verdicts need."""

    items: Embedded
    spoken: pl.DataFrame
    near: Near
    kinds: Mapping[str, Kind]

    def text(self, i: int) -> dict[str, Any]:
        """Benchmark, item, id, field and text of the i-th pair."""
        return self.items.texts.row(int(self.near.text[i]), named=True)

    def turn(self, i: int) -> dict[str, Any]:
        """Row, turn and text of the i-th pair."""
        return self.spoken.row(int(self.near.turn[i]), named=True)

    def numbers(self, i: int) -> float | None:
        """The share of the item's numbers that the turn names; null where it says nothing."""
        text = self.text(i)
        wanted = numbers_in(text["text"])
        if not wanted or self.kinds[text["benchmark"]] in NUMBERS_CHANGE:
            return None
        return agreement(wanted, numbers_in(self.turn(i)["text"]))

    def question(self, i: int) -> tuple[Kind, str, str]:
        """What a judge is asked about the i-th pair."""
        text = self.text(i)
        return self.kinds[text["benchmark"]], self.turn(i)["text"], text["text"]

    def evidence(self, i: int) -> dict[str, Any]:
        """What convicts a row by the i-th pair."""
        text = self.text(i)
        named = {name: text[name] for name in ("benchmark", "item", "id", "field")}
        similarity = round(float(self.near.similarity[i]), 6)
        kept = self.numbers(i)
        return {**named, "similarity": similarity, "numbers": kept, "turn": self.turn(i)["turn"]}


def _kinds(exams: Exams, given: Mapping[str, Kind] | None) -> dict[str, Kind]:
    """The kind of each benchmark. Raises UserError for one that the exams do not hold."""
    names = set(exams.items["benchmark"])
    if unknown := sorted((given or {}).keys() - names):
        raise UserError(
            f"kinds names {', '.join(unknown)}, of which there are no items",
            hint=f"the benchmarks are {', '.join(sorted(names))}",
        )
    return {name: (given or {}).get(name, KINDS.get(name, "knowledge")) for name in names}


def _encoded(ctx: Context, encoder: Encoder, texts: pl.Series, batch: int) -> NDArray[np.float32]:
    """The texts' vectors, of length 1; zeros for a text that says nothing to the encoder."""
    parts = [np.zeros((0, encoder.dimensions), dtype=np.float32)]
    for start in range(0, len(texts), batch):
        parts.append(unit(encoder.encode(texts[start : start + batch].to_list())))
        ctx.progress(min(start + batch, len(texts)), len(texts))
    return np.concatenate(parts)


def _verdicts(
    pairs: _Pairs, close: Sequence[int], told: Sequence[Judgement] | None
) -> dict[int, Verdict]:
    """Evidence or error of each row that a pair convicts, or whose judge gave no answer."""
    verdicts: dict[int, Verdict] = {}
    similarity = pairs.near.similarity
    # A loop over the pairs above the threshold only, the most similar first.
    for at in sorted(range(len(close)), key=lambda at: (-similarity[close[at]], close[at])):
        i, judgement = close[at], told[at] if told else None
        row = pairs.turn(i)["row"]
        evidence = pairs.evidence(i)
        if judgement is not None:
            evidence["journal"] = judgement.journal
        if judgement is None or judgement.same:
            if row not in verdicts or verdicts[row][0] is None:
                verdicts[row] = evidence, None
        elif judgement.error is not None:
            verdicts.setdefault(row, (None, f"no judgement: {judgement.error}"))
    return verdicts


def _table(height: int, pairs: _Pairs, verdicts: Mapping[int, Verdict]) -> pl.DataFrame:
    """One line per row: its nearest item and its verdict."""
    near = pairs.near
    nearest_of = (
        pl.DataFrame({"row": pairs.spoken["row"].gather(near.turn)})
        .with_columns(
            pl.Series("exam_similarity", near.similarity, dtype=pl.Float64),
            pairs.items.texts["id"].gather(near.text).alias("exam_item"),
            pl.Series("text", near.text),
        )
        .sort("row", "exam_similarity", "text", descending=[False, True, False])
        .unique("row", keep="first", maintain_order=True)
    )
    lines = pl.DataFrame({"row": np.arange(height)}).join(
        nearest_of, on="row", how="left", maintain_order="left"
    )
    evidence = {row: cause for row, (cause, _) in verdicts.items() if cause is not None}
    errors = [verdicts[row][1] if row in verdicts else None for row in range(height)]
    added = lines.select(pl.col(name).cast(kind) for name, kind in ADDS.items())
    return added.hstack(dropped(height, "contaminated", evidence)).with_columns(
        pl.Series("error", errors, dtype=pl.String)
    )
