"""Rows written anew where a model makes them better, and kept as they were where it does not.

- `reflection`: Reflection-Tuning's critique, then a better instruction and answer;
- `selective_reflection`: the same where the student that will be tuned gains by it;
- `coevol`: CoEvol's debate, advice, edit and judge, in rounds;
- `citing`: CITING's rubric by category, critique and revision;
- `nile`: NILE's revision by what the tuned model knows, and its filter;
- `clear`: CLEAR's answers of the tuned model, where they are surely better, and its filter;
- `coachlm`: CoachLM, a reviser that was trained on experts' revisions;
- `long_is_more`: Long-Is-More's refinement of style and structure;
- `mammoth2`: MAmmoTH2's refinement, which adds the steps that an answer lacks;
- `realign`: ReAlign's forms for 46 types of tasks;
- `self_lengthen`: Self-Lengthen's extension.

One row goes out for each that came in. What cannot be read, was cut, says nothing or is no better
is neither an error nor a new text: the row stays as it was, and the reason is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final

from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, Embedder, LanguageModel
from pipeline.stage import Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from stages._llm.drafts import Draft, generate_field, score_field
from stages._selection.scores import expression_columns, scores
from stages.rewrite.revise.citing import Citing
from stages.rewrite.revise.clear import CONFIDENCE, Clear
from stages.rewrite.revise.coachlm import CoachLM
from stages.rewrite.revise.coevol import CoEvol
from stages.rewrite.revise.judging import MAX_TOKENS, Judge
from stages.rewrite.revise.long_is_more import LongIsMore
from stages.rewrite.revise.mammoth2 import Mammoth2
from stages.rewrite.revise.nile import Nile
from stages.rewrite.revise.passes import (
    ADDS,
    Answers,
    Reviser,
    first_drafts,
    places,
    revision_of,
    to_rows,
)
from stages.rewrite.revise.realign import ReAlign
from stages.rewrite.revise.reflection import Reflection
from stages.rewrite.revise.selective import SelectiveReflection
from stages.rewrite.revise.self_lengthen import SelfLengthen

Method = Annotated[
    Reflection
    | SelectiveReflection
    | CoEvol
    | Citing
    | Nile
    | Clear
    | CoachLM
    | LongIsMore
    | Mammoth2
    | ReAlign
    | SelfLengthen,
    Field(discriminator="name"),
]

_DROPS_ROWS: Final = (SelectiveReflection, Nile, Clear)
_COLUMNS: Final = ["messages", "tools", "input_start", "origins", "parents", "extra"]


def _reads(options: SimpleNamespace) -> list[str]:
    method = options.method
    columns = expression_columns(method.confidence) if isinstance(method, Clear) else []
    return list(dict.fromkeys([*_COLUMNS, *columns]))


def _check(options: SimpleNamespace) -> None:
    judged = options.judge is not None or isinstance(options.method, CoEvol)
    if not judged and options.judge_max_tokens != MAX_TOKENS:
        raise OptionError(
            *("judge_max_tokens", f"must be left out, got {options.judge_max_tokens}"),
            why="no answers are compared",
            hint="judge: NAME, the model that compares new answers with old ones",
        )
    _check_models(options)
    if isinstance(options.method, _DROPS_ROWS) and options.answers == "all":
        raise OptionError(
            *("answers", f"must be last with method: {options.method.name}, got all"),
            why="rows are dropped by one answer",
        )


def _check_models(options: SimpleNamespace) -> None:
    """Check which models a method needs, and which it has no use for."""
    method = options.method
    if options.teacher is not None and not isinstance(method, Citing | Nile):
        raise OptionError(
            *("teacher", f"must be left out with method: {method.name}"),
            why="only citing and nile ask another model",
        )
    if isinstance(method, SelectiveReflection) and options.judge is not None:
        raise OptionError(
            *("judge", "must be left out with method: selective_reflection"),
            why="the student decides",
        )
    if isinstance(method, Clear) and options.judge is None:
        raise OptionError(
            *("judge", "must be given with method: clear"),
            why="candidates are compared with the answers that stand",
            hint="judge: NAME, the model as it was before it was tuned",
        )
    for name, needed_by, why in (
        ("embedder", Nile, "answers are compared with what the model knows"),
        ("student", SelectiveReflection, "its likelihoods decide"),
    ):
        needed = isinstance(method, needed_by)
        if needed != (getattr(options, name) is not None):
            raise OptionError(
                *(name, f"must be given with method: {_name(needed_by)}, and with no other"),
                why=why,
                hint=f"{name}: NAME" if needed else f"leave {name} out",
            )


def _name(method: type) -> str:
    name: str = method().name
    return name


@stage(
    version=1,
    scope="set",
    reads=_reads,
    adds=ADDS,
    check=_check,
    files=True,
)
def revise(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    judge: LanguageModel | None = None,
    teacher: LanguageModel | None = None,
    student: LanguageModel | None = None,
    embedder: Embedder | None = None,
    method: Method = Reflection(),
    answers: Answers = "last",
    seed: int = 0,
    temperature: NonNegativeFloat | None = None,
    top_p: Fraction = 1.0,
    max_tokens: Count | None = None,
    judge_max_tokens: Count = MAX_TOKENS,
    source: str = "revise",
) -> Records:
    """The rows, each with better texts where a model wrote some, else as it was.

    A revised row is a new record whose `parents` is the old one, whose license stays, and
    whose `extra` holds the old turns as `original`. All others are the records that came. Adds
    `journal`; `revision`: "revised", or why the old texts were kept; `operators`: what wrote the
    accepted texts, in order; and `passes`: JSON with what became of each attempt, its turn, and
    as evidence the critique or advice, the judge's scores in each order, the edit distance and the
    ratio of lengths, or the end of an answer that cannot be read.

    Kept as they were: `unchanged` (but for white space), `unparsed`, `cut`, `placeholder` (blank,
    N/A, "..."), `no_gain` (a judge does not prefer the new answer over both orders),
    `unjudged` (neither order can be read), `reasoning_unclosed`, `withheld`, and for the reasons
    that a method names. Rows of which a model could not write the rest stay whole: `has_tools`,
    `has_reasoning`, `not_trained`, `no_answer` and `no_instruction`. `revisions.json` counts all
    of them, and says whether the judge always prefers one place.

    Args:
        rows: Conversations.
        model: Criticises and rewrites.
        judge: Compares each new answer to the same instruction with the old one, in both orders;
            only one with a higher mean is accepted. Without one, coevol judges with the model, and
            the other methods take what can be read, as their papers do. With clear, which needs
            one, it says how probably the candidate is the better answer.
        teacher: With citing the model that writes rubrics, with nile the one that will be tuned,
            whose knowledge counts; by default the model.
        student: With selective_reflection, the model that will be tuned; it needs an engine that
            has likelihoods, such as transformers.
        embedder: With nile, compares answers with that knowledge.
        method: reflection, selective_reflection, coevol, citing, nile, clear, coachlm,
            long_is_more, mammoth2, realign or self_lengthen, each with its own options.
        answers: The last answer of each conversation, or all of them in turn: then what was
            revised is what later ones follow, as in CoEvol.
        seed: Seed of the sampling.
        temperature: Of what is written; by default the method's own.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of a text in tokens; by default the method's own.
        judge_max_tokens: Limit of a comparison in tokens.
        source: Name of the new records' source.

    Returns:
        One row for each row. Dropped: `duplicate`, by nile `inconsistent`, by clear
        `low_confidence`, by selective_reflection `above_one` and `answer_kept`. A row whose
        request was not answered has failed.

    Example:
        ```yaml
        better: {uses: rewrite.revise, needs: pool, with: {
          model: writer, method: {name: reflection, texts: [answer]}, judge: writer}}
        ```
    """
    own = method.decoding
    temperature = own.temperature if temperature is None else temperature
    decoding = Decoding(max_tokens or own.max_tokens, temperature, top_p)
    engine = ctx.open(model)
    reviser = Reviser(partial(generate_field, engine, decoding=decoding, seed=seed), seed)
    if teacher is not None:
        taught = ctx.open(teacher)
        reviser.teach = partial(generate_field, taught, decoding=decoding, seed=seed)
    reviser.encoder = ctx.open(embedder) if embedder else None
    reviser.student = ctx.open(student) if student else None
    if judge is not None or isinstance(method, CoEvol):
        judging = ctx.open(judge) if judge else engine
        ask, label = (partial(each, judging, seed=seed) for each in (generate_field, score_field))
        reviser.judge = Judge(ask, label, judge_max_tokens)
    drafts = first_drafts(rows)
    if isinstance(method, Clear):
        for draft, value in zip(drafts, scores(rows, method.confidence).tolist(), strict=True):
            draft.fields[CONFIDENCE] = value if isfinite(value) else None
    for done, here in enumerate(places(drafts, answers)):
        method.run(reviser, here)
        ctx.progress(done + 1)
    _write_facts(ctx.files, drafts, reviser)
    return to_rows(drafts, source)


def _write_facts(folder: Path, drafts: Sequence[Draft], reviser: Reviser) -> None:
    """Write `revisions.json`: how rows and passes ended, and what the judge did."""
    ended = Counter(revision_of(draft) for draft in drafts if draft.error is None)
    facts: dict[str, Any] = {
        "rows": len(drafts),
        "failed": sum(draft.error is not None for draft in drafts),
        "revision": dict(ended.most_common()),
        "passes": {name: dict(counts) for name, counts in reviser.outcomes.items()},
    }
    if reviser.judge is not None:
        facts["judge"] = reviser.judge.facts()
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    (folder / "revisions.json").write_text(text + "\n", "utf-8")
