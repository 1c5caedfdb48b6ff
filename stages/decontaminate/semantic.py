"""Decontamination by meaning: rows that paraphrase an evaluation item.

Rules of n-grams are blind to paraphrase (0 of 1,319 rephrased GSM8K problems hold a
13-gram of their original). Here each turn is compared with each text of the items by
sentence vectors, after Yang et al. 2023 (LLM decontaminator), arXiv:2311.04850; what is
found convicts by itself, or is put before a language model that decides.

A cosine alone confuses a subject with a question about it (44% of GSM8K's *training*
problems have a test problem at 0.7 or more), so five things are ours:

- Spans are compared, not texts: a question apart from its passage, a docstring apart from
  its code (`_spans`).
- The background is taken off the cosine: what either side is near to anyway (`_nearest`).
- Word by word, most of what either says has to be said by the other (`_coverage`).
- A paraphrase keeps the numbers (`_numbers`).
- A turn in a language that the encoder does not know is not compared, and the row says so
  in `exam_unchecked` (`_languages`).

    score = cosine - background + coverage

The thresholds are chosen on files that are not those which measure them: `THRESHOLDS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.ask import Rejection
from pipeline.models.base import Embedder, Encoder, LanguageModel
from pipeline.stage import Items, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from schemas.turns import View
from stages._common.verdicts import evidence_json
from stages._text.languages import identifier
from stages._text.tokens import factorize
from stages.decontaminate._benchmarks import Benchmarks, Turns, by_benchmark, turns_of
from stages.decontaminate._judge import Judgment, TaskType, judge_pairs
from stages.decontaminate._languages import foreign
from stages.decontaminate._nearest import EmbeddedItems, embed_items, unit
from stages.decontaminate._numbers import numbers_in
from stages.decontaminate._pairs import Pairs, compare
from stages.decontaminate._spans import has_code, turn_spans

ADDS: Final = {
    "exam_similarity": pl.Float32(),
    "exam_score": pl.Float32(),
    "exam_item": pl.String(),
    "exam_unchecked": pl.String(),
}

TASK_TYPES: Final[dict[str, TaskType]] = {"gsm8k": "math", "humaneval": "code"}
"""The tasks of benchmarks of these names, whichever of their items are given."""

THRESHOLDS: Final[dict[TaskType, float]] = {
    "math": 0.55,
    "number_substituted": 0.75,
    "code": 0.60,
    "knowledge": 0.80,
}
"""The score from which on a span is a paraphrase, by the type of the benchmark's tasks.

With the bundled potion-base-4m, the lowest of a grid of 0.05 at which at most 10 of 1,000
innocent rows are convicted in every development file: GSM8K's training problems from the
1,001st on (math and number_substituted), GPTeacher's programming tasks from the 1,201st on
(code), the first 8,000 rows of Alpaca, and TruthfulQA (knowledge). Measured on files that chose
no threshold (`tests/bench/paraphrase_sets.py` has all sets, `make bench SECTIONS=paraphrases` the
curves); the method itself was made with ARC, Code Alpaca, both sets of MMLU and the false
convictions of TheoremQA in view:

    recall, development      GSM8K 93%, with other numbers 64%, HumanEval 60% (all LLM
                             decontaminator's), MMLU 51%
    recall, held-out         GSM8K 100%, with other numbers 50% (by hand) and 99% (verbatim
                             but for these), HumanEval 42%, MMLU 72%, abstract algebra 72%
    innocents convicted      0 of 1,000 of Auto-Evol GSM8K and of TheoremQA (math, and
    of 1,000, held-out       number_substituted); Code Alpaca 3.5, functions of Python's
                             library 6.6 (code); ARC 13.7, Dolly 12.0, TheoremQA 7.5,
                             Self-Instruct 3.2 (knowledge)
"""

JUDGED: Final = 0.2
"""How far below these a pair is still put before a judge."""

TEMPERATURE: Final = 0.0
MAX_TOKENS: Final = 16

Threshold = Annotated[
    float | dict[str, float], by_benchmark("above 0 and at most 2", lambda t: 0 < t <= 2)
]

CONTAMINATED: Final = "contaminated"


class Verdict(NamedTuple):
    """What is decided of a row.

    Attributes:
        rejection: The reason for which it is dropped, with the evidence.
        error: Why it failed.
    """

    rejection: Rejection | None = None
    error: str | None = None

    @property
    def rank(self) -> int:
        """Which of two verdicts counts: convicted, then failed, then unreadable."""
        if self.error is not None:
            return 1
        return 2 if self.rejection and self.rejection[0] == CONTAMINATED else 0


def _check(options: SimpleNamespace) -> None:
    if options.judge is None:
        for name, default in (("temperature", TEMPERATURE), ("max_tokens", MAX_TOKENS)):
            if (value := getattr(options, name)) != default:
                raise OptionError(
                    name,
                    f"must be left out without a judge, got {value}",
                    hint=f"name a language model as `judge`, or remove {name}",
                )
    named = set(options.languages) - {"en"}  # the identifier takes half a second to load
    if unknown := named and named - set(identifier().labels):
        raise OptionError(
            "languages",
            f"must be languages that py3langid identifies, got {', '.join(sorted(unknown))}",
            hint="two letters each, such as en, de, zh",
        )


@stage(version=5, scope="row", reads={"rows": ["messages", "tools"]}, adds=ADDS, check=_check)
def semantic(
    ctx: Context,
    rows: Records,
    benchmarks: Items,
    *,
    embedder: Embedder,
    threshold: Threshold | None = None,
    min_number_overlap: Fraction = 0.75,
    turns: Turns = "all",
    view: View = "all",
    fields: tuple[str, ...] | None = None,
    languages: tuple[str, ...] = ("en",),
    min_words: Count = 5,
    n_neighbors: Count = 1,
    task_types: dict[str, TaskType] | None = None,
    judge: LanguageModel | None = None,
    temperature: NonNegativeFloat = TEMPERATURE,
    max_tokens: Count = MAX_TOKENS,
    batch_size: Count = 4096,
) -> pl.DataFrame:
    """Drop as `contaminated` every row of which one turn paraphrases an evaluation item.

    Adds `exam_item`, the id of the item that the row paraphrases most nearly,
    `exam_similarity`, the cosine of the two, `exam_score`, which the threshold is about
    (null where the cosine alone rules a paraphrase out), and `exam_unchecked`, the languages
    of the turns that were not compared because the encoder does not know them; null where
    there is nothing to say.

    Args:
        rows: The rows to check.
        benchmarks: The evaluation items.
        embedder: Encodes turns and items.
        threshold: The score from which on a text is a paraphrase, for all benchmarks or as
            {benchmark: score}. Null: by the type of the benchmark's tasks, as calibrated for
            the bundled potion-base-4m (`THRESHOLDS`), and less by 0.2 with a judge. Another
            encoder has other scores: `make bench SECTIONS=paraphrases` measures it.
        min_number_overlap: Smallest fraction of the numbers of an item's span, in digits or
            English words, that the turn's span must name too. Not required of spans without
            any, nor of benchmarks of the types `code` and `number_substituted`. 0: the score
            alone decides.
        turns: Turns that are compared, each separately.
        view: What of a turn is compared: its content, the tool calls too, or all: the
            reasoning, and with all turns the definitions of the tools.
        fields: Names of the items' texts that count; null: all.
        languages: Languages that the encoder knows, by two letters; empty: all. Turns and
            items in another one are not compared, which `exam_unchecked` says.
        min_words: Spans of fewer words, not counting numbers and signs, are left out.
        n_neighbors: Texts of each benchmark, those of the highest score, that are considered
            for each turn. The paper takes the k nearest rows of each item (its code: 1),
            which depends on all rows of the pool; here a row's verdict depends on the row
            alone.
        task_types: Type of a benchmark's tasks: `code`, `math`, `knowledge`, or
            `number_substituted`, which drops problems that differ in their numbers alone.
            Selects the threshold and the judge's prompt. Default: gsm8k math, humaneval
            code; others by what most of their items are: code where they hold a program,
            math where they ask something of two numbers or more, else knowledge.
        judge: A language model that decides on each text above the threshold. A row with a
            judgement that cannot be read is dropped as `unreadable` (`reasoning_unclosed`), and
            with one that was not given it fails, unless another one convicts it; the paper's
            code counts such a row as clean.
        temperature: Of the judge; the paper's code has 0.3, and up to 30 requests a pair.
        max_tokens: Of the judge's answer.
        batch_size: Texts encoded at once; no result depends on it.

    Returns:
        The added columns and the verdicts. Evidence, for the text of the highest score:
        benchmark, item and its id, field, the spans (of the turn, of the item and its
        name), similarity, background, coverage, score, threshold, numbers (the fraction
        that the turn names; null where it is not required), turn (its position in
        messages), and journal (the judgment's keys).

    Raises:
        UserError: There are no items, or no text of a benchmark can be compared: nothing
            would ever be found, which is not the same as clean.

    Example:
        ```yaml
        clean:
          uses: decontaminate.semantic
          needs: {rows: pool, benchmarks: exams}
          with: {embedder: embedder, fields: [question]}
        ```
    """
    items, encoder = Benchmarks(benchmarks), ctx.open(embedder)
    embedded = _embedded(encoder.encode, items, fields, min_words, languages)
    kinds = _inferred_types(items) | _checked(items, dict(task_types or {}))
    limits = _limits(items, threshold, kinds, judge is not None, embedded.spans)
    turn_rows = turns_of(rows, turns, view)
    turn_rows = turn_rows.with_columns(foreign(turn_rows["text"], languages))
    ctx.count(turns_not_compared=turn_rows["language"].count())
    spans = _turn_spans(turn_rows, min_words)
    vectors = _encode(ctx, encoder, spans["part"], batch_size)
    finite = np.isfinite(vectors).all(axis=1)
    usable = np.flatnonzero(finite & vectors.any(axis=1))
    pairs = compare(embedded, spans[usable], vectors[usable], kinds, limits)
    close = pairs.close(min_number_overlap, n_neighbors)
    judgments = None
    if judge is not None:
        questions = [pairs.question(i) for i in close]
        judgments = judge_pairs(ctx.open(judge), questions, temperature, max_tokens)
    verdicts = _verdicts(pairs, close, judgments)
    for row in spans["row"].filter(pl.Series(~finite)):
        verdicts.setdefault(row, Verdict(error="the embedder gives no finite vector"))
    return _table(len(rows), turn_rows, pairs, verdicts)


@lru_cache(maxsize=2)
def _embedded(
    encode: Any,
    items: Benchmarks,
    fields: tuple[str, ...] | None,
    min_words: int,
    languages: tuple[str, ...],
) -> EmbeddedItems:
    """The items' spans with their vectors, once per process."""
    return embed_items(
        encode, items, fields, min_words, lambda texts: foreign(texts, languages).is_null()
    )


def _limits(
    benchmarks: Benchmarks,
    threshold: float | Mapping[str, float] | None,
    task_types: Mapping[str, TaskType],
    judged: bool,
    spans: pl.DataFrame,
) -> NDArray[np.float64]:
    """The threshold of each span."""
    if threshold is None:
        less = JUDGED if judged else 0.0
        threshold = {name: THRESHOLDS[kind] - less for name, kind in task_types.items()}
    return benchmarks.limits("threshold", threshold, spans)


def _checked(benchmarks: Benchmarks, types: dict[str, TaskType]) -> dict[str, TaskType]:
    """The types that are given.

    Raises:
        UserError: They are of other benchmarks than the items'.
    """
    names = benchmarks.names()
    if unknown := sorted(types.keys() - set(names)):
        raise UserError(
            f"task_types must name benchmarks of the items, got {', '.join(unknown)}",
            hint=f"the benchmarks are {', '.join(names)}",
        )
    return types


@lru_cache(maxsize=2)
def _inferred_types(benchmarks: Benchmarks) -> dict[str, TaskType]:
    """The type of each benchmark's tasks, by what most of its items hold."""
    texts = benchmarks.texts(None).group_by("benchmark", "id", maintain_order=True).agg("text")
    kinds: dict[str, list[TaskType]] = {name: [] for name in benchmarks.names()}
    # A loop over the items, once per process.
    for name, _, parts in texts.iter_rows():
        is_problem = len(numbers_in(parts[0])) >= 2 and "?" in parts[0]
        is_program = any(map(has_code, parts))
        kinds[name].append("code" if is_program else "math" if is_problem else "knowledge")
    inferred = {name: max(sorted(set(of)), key=of.count) for name, of in kinds.items()}
    return {name: TASK_TYPES.get(name, kind) for name, kind in inferred.items()}


def _turn_spans(turns: pl.DataFrame, min_words: int) -> pl.DataFrame:
    """Row, turn, text and part of every span of the turns that are compared."""
    rows: list[tuple[Any, ...]] = []
    # A loop, because what asks something in a text is found by regular expressions, in turn.
    compared = turns.filter(pl.col("language").is_null()).select("row", "turn", "role", "text")
    for row, turn, role, text in compared.iter_rows():
        parts = turn_spans(text, role != "assistant", min_words)
        rows += [(row, turn, text, part) for part in parts]
    schema = {"row": pl.Int64, "turn": pl.Int64, "text": pl.String, "part": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _encode(
    ctx: Context, encoder: Encoder, texts: pl.Series, batch_size: int
) -> NDArray[np.float32]:
    """The texts' vectors, of length 1; zeros for a text of which the encoder knows no word."""
    distinct, codes = factorize(texts)
    parts = [np.zeros((0, encoder.dimensions), dtype=np.float32)]
    for start in range(0, len(distinct), batch_size):
        parts.append(unit(encoder.encode(distinct[start : start + batch_size].to_list())))
        ctx.progress(min(start + batch_size, len(distinct)), len(distinct))
    return np.concatenate(parts)[codes]


def _verdicts(
    pairs: Pairs, close: Sequence[int], judgments: Sequence[Judgment] | None
) -> dict[int, Verdict]:
    """The verdict on each row that is dropped, or of which the judge gave no answer."""
    verdicts: dict[int, Verdict] = {}
    # A loop over the pairs above the threshold only, those of the highest score first.
    for n, i in enumerate(close):
        judgment = judgments[n] if judgments else None
        row, evidence = pairs.row(i), pairs.evidence(i)
        if judgment is not None:
            evidence["journal"] = judgment.journal
        if judgment is None or judgment.same:
            verdict = Verdict((CONTAMINATED, evidence))
        elif judgment.error is not None:
            verdict = Verdict(error=f"no judgement: {judgment.error}")
        elif judgment.rejection is not None:
            reason, why = judgment.rejection
            verdict = Verdict((reason, evidence | why))
        else:
            continue
        if row not in verdicts or verdict.rank > verdicts[row].rank:
            verdicts[row] = verdict
    return verdicts


def _table(
    height: int, turns: pl.DataFrame, pairs: Pairs, verdicts: Mapping[int, Verdict]
) -> pl.DataFrame:
    """One row per input row: its nearest item, what was not compared, and its verdict."""
    unchecked = (
        turns.filter(pl.col("language").is_not_null())
        .group_by("row")
        .agg(pl.col("language").unique().sort().str.join(", ").alias("exam_unchecked"))
    )
    joined = (
        pl.DataFrame({"row": np.arange(height)})
        .join(pairs.best(), on="row", how="left", maintain_order="left")
        .join(unchecked.cast({"row": pl.Int64}), on="row", how="left", maintain_order="left")
    )
    of = [verdicts.get(row, Verdict()) for row in range(height)]
    added = joined.select(pl.col(name).cast(kind) for name, kind in ADDS.items())
    return added.with_columns(
        pl.Series("drop_reason", [v.rejection and v.rejection[0] for v in of], dtype=pl.String),
        pl.Series(
            "evidence", [v.rejection and evidence_json(v.rejection[1]) for v in of], dtype=pl.String
        ),
        pl.Series("error", [v.error for v in of], dtype=pl.String),
    )
