"""Variants of rows: the same said otherwise, with a check that it is the same.

- `unnatural`: Unnatural Instructions' reformulations of instructions;
- `s3ft`: S3FT's targets: the student's own answer, the gold one in its words, or gold;
- `steps`: ordered steps behind an instruction, or shuffled ones for the ablation;
- `physics`: Physics of LMs 3.1's rewrites of answers, also with their sentences permuted;
- `variants`: the wording or the tense of a request, the style of an answer.

What a rewritten text must keep is checked by rules (numbers, names, quotations, code, placeholders,
the language), then by a model: what it says must follow from the old text, and the old text from
it. A text that cannot be read, or whose check cannot, is dropped and never accepted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat, NonNegativeInt
from stages._llm.drafts import LABEL_TOKENS, Draft, generate_field, score_field, to_frame
from stages._llm.label_scores import MIN_MASS
from stages.rewrite._exchanges import (
    READS,
    exchange_drafts,
    frame_with_originals,
    new_row,
    row_itself,
)
from stages.rewrite.paraphrase.checks import Check, MeaningCheck, write_facts
from stages.rewrite.paraphrase.paraphraser import Paraphraser
from stages.rewrite.paraphrase.physics import Physics
from stages.rewrite.paraphrase.s3ft import S3FT
from stages.rewrite.paraphrase.steps import Steps
from stages.rewrite.paraphrase.unnatural import Unnatural
from stages.rewrite.paraphrase.variants import Variants

Method = Annotated[
    Unnatural | S3FT | Steps | Physics | Variants,
    Field(discriminator="name"),
]

ADDS: Final[dict[str, Any]] = {
    "journal": pl.List(pl.String),
    "variant": pl.String(),
    "number": pl.Int32(),
}
ROUTED: Final[dict[str, Any]] = {
    "journal": pl.List(pl.String),
    "route": pl.String(),
    "routes_left": pl.String(),
}


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    return ROUTED if isinstance(options.method, S3FT) else ADDS


def _check(options: SimpleNamespace) -> None:
    method = options.method
    judges_routes = isinstance(method, S3FT) and method.equivalence != "answer"
    judges_texts = not isinstance(method, S3FT | Steps) and options.check != "rules"
    own = isinstance(method, S3FT | Steps)
    if own and options.check != "entailment":
        raise OptionError(
            *("check", f"must be left out with method: {method.name}, got {options.check}"),
            why="its texts are not compared with the old ones that way",
            hint="method.equivalence" if isinstance(method, S3FT) else None,
        )
    if judges_routes or judges_texts:
        return
    for name, value, default in (
        ("judge", options.judge and options.judge.short_name, None),
        ("min_probability", options.min_probability, 0.5),
        ("min_mass", options.min_mass, MIN_MASS),
        ("num_controls", options.num_controls, 4),
    ):
        if value != default:
            raise OptionError(
                *(name, f"must be left out, got {value}"),
                why=f"no model is asked whether texts are the same with method: {method.name}",
            )


@stage(version=2, scope="set", reads=READS, adds=_adds, check=_check, files=True)
def paraphrase(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    judge: LanguageModel | None = None,
    method: Method = Unnatural(),
    check: Check = "entailment",
    min_probability: Fraction = 0.5,
    num_controls: NonNegativeInt = 4,
    seed: int = 0,
    temperature: NonNegativeFloat | None = None,
    top_p: Fraction = 1.0,
    max_tokens: Count | None = None,
    judge_max_tokens: Count = LABEL_TOKENS,
    min_mass: Fraction = MIN_MASS,
    source: str = "paraphrase",
) -> Records:
    """Rows that say the same in other words.

    The rows themselves are not among them but with s3ft: `load.concat` puts both together.
    `parents` is the row, whose license stays. Adds `journal`, `variant` (reformulation, steps,
    shuffled, rewrite, permuted, wording, past, future or style) and `number` (from 1, within a
    row). With s3ft there is one row for each that came, with `route` (own, paraphrase or gold)
    and `routes_left` (JSON: why the routes before it were left) in their place; one that keeps its
    gold answer is the row itself. `paraphrases.json` counts how all ended and what the judge says,
    also to pairs of texts that have nothing to do with each other.

    Args:
        rows: Conversations of one request and one answer, perhaps with a system turn.
        model: Writes; with s3ft the student.
        judge: Says whether texts mean the same; by default the model.
        method: unnatural, s3ft, steps, physics or variants, each with its own options.
        check: After the rules, "entailment" asks in both directions, "judge" once, and "rules"
            nothing more.
        min_probability: The least probability of yes, in every direction.
        num_controls: How many pairs of unrelated texts the judge is asked about.
        seed: Seed of the sampling and of what a method draws.
        temperature: Of what is written; by default the method's own.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of a text in tokens; by default the method's own.
        judge_max_tokens: Limit of a judgement in tokens.
        min_mass: The least probability that yes and no together must have.
        source: Name of the new records' source.

    Returns:
        The new records. Dropped: `identical` (to the old text or an earlier variant),
        `number_changed`, `name_changed`, `slot_lost`, `language_changed`, `answer_leaked`,
        `meaning_changed` (quoted words or code are lost, it refuses, or the judge says so), for
        texts that were cut or cannot be read `new_cut`, `new_unparsed`, `written_cut` or
        `written_unparsed`, for judgements `unreadable`, and rows that cannot be written anew
        without loss as `has_tools`, `has_reasoning`, `multi_turn`, `not_trained`, `no_answer` or
        `no_instruction`. With s3ft these keep their answer, and only `duplicate` is dropped.

    Example:
        ```yaml
        said_twice:
          uses: rewrite.paraphrase
          needs: pool
          with: {model: writer, method: {name: unnatural, num_variants: 2}}
        ```
    """
    own = method.decoding
    temperature = own.temperature if temperature is None else temperature
    decoding = Decoding(max_tokens or own.max_tokens, temperature, top_p)
    engine = ctx.open(model)
    limits: dict[str, Any] = {"min_mass": min_mass, "max_tokens": judge_max_tokens}
    ask = partial(score_field, ctx.open(judge) if judge else engine, seed=seed, **limits)
    meaning = MeaningCheck(ask, check, min_probability, num_controls)
    write = partial(generate_field, engine, decoding=decoding, seed=seed)
    drafts = exchange_drafts(rows)
    if isinstance(method, Unnatural | Physics | Variants):
        answers = isinstance(method, Physics)
        texts = [d["response" if answers else "request"] for d in drafts if d.active]
        meaning.ask_unrelated(texts)
    written = method.run(Paraphraser(write, meaning, seed), drafts)
    if isinstance(method, S3FT):
        frame = _routed_frame(written, method, source)
    else:
        frame = to_frame(written, method.messages_of, source, ADDS)
    ended = Counter(_end_of(row) for row in frame.select("drop_reason", "error").iter_rows())
    routes = Counter(frame["route"]) if isinstance(method, S3FT) else Counter()
    write_facts(ctx.files, ended, routes, meaning)
    return frame


def _end_of(verdict: Sequence[str | None]) -> str:
    reason, error = verdict
    return "failed" if error is not None else reason or "kept"


def _routed_frame(drafts: Sequence[Draft], method: S3FT, source: str) -> pl.DataFrame:
    """One row for each that came: itself where gold stays its answer."""
    rows = []
    for index, draft in enumerate(drafts):
        left = json.dumps(draft["left"], ensure_ascii=False)
        added = {"journal": draft.journal, "route": draft["route"], "routes_left": left}
        is_gold = draft["route"] == "gold" or draft.error is not None
        if is_gold:
            rows.append(row_itself(draft, **added))
        else:
            rows.append(new_row(draft, method.messages_of(draft), source, index, **added))
    return frame_with_originals(rows, ROUTED)
