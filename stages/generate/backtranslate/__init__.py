"""From an answer to the instruction that it answers.

- `humback`: Self-Alignment with Instruction Backtranslation (Li et al. 2023,
  arXiv:2308.06259). A model writes an instruction for each passage of unlabelled text
  (self-augmentation) and rates the pairs from 1 to 5 (self-curation). The paper trains
  the model backwards for the first step (`prompting: trained`, after `train.sft` with
  `reverse`) and repeats the second with better models: the recipe `humback` does both.
- `longform`: LongForm (Köksal et al. 2023, arXiv:2304.08460). The instruction has one
  of three styles: an instruction, a chat message, a search query. No curation.
- `inverse`: Inverse-Instruct of InverseCoder (arXiv:2407.05700), on the code of a pool.
- `induction`: instruction induction from pairs (arXiv:2205.10782); see `_inverse.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Documents, Records, stage
from schemas.records import Message, digest
from stages._common.unused_options import refuse_idle
from stages._llm.drafts import (
    Draft,
    Prompt,
    RowMessages,
    filter_drafts,
    generate_field,
    to_frame,
    user,
)
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, task_messages
from stages._selection.groups import group_columns
from stages.generate.backtranslate.curation import curate_by_likelihood, curate_by_text, keep_best
from stages.generate.backtranslate.inverse import applied, choose, codes, tasks, write_candidates
from stages.generate.from_documents.passages import cut

PROMPTS: Final = Prompts(__file__)

Style = Literal["instruction", "chat", "query"]

ADDS: Final = {"journal": pl.List(pl.String), "curation_score": pl.Float64}
_EDGES: Final = {"inverse": "rows", "induction": "rows"}
"""The edge that a method reads; the others read documents."""


def _check(options: SimpleNamespace) -> None:
    for name in ("passage_characters", "instruction_characters"):
        low, high = getattr(options, name)
        if not 0 < low <= high:
            raise UserError(f"{name} is [{low}, {high}]", hint=f"{name}: [FEWEST, MOST]")
    if options.curate is False and options.min_score is not None:
        raise UserError("min_score has nothing to go by: curate is false", hint="min_score: null")
    if options.candidates < 1 or options.examples < 1 or not options.styles:
        raise UserError("candidates, examples and styles must be one or more")
    of_documents = options.method not in _EDGES
    method, in_words = options.method, options.score_from == "text"
    rated, trained = _curates(method, options.curate), options.prompting == "trained"
    refuse_idle(
        *(backtranslate, options),
        (of_documents, "passages of documents", "prompting passage_characters max_passages"),
        (of_documents, "passages of documents", "per_document"),
        (method == "longform" and not trained, "longform with prompting: asked", "styles"),
        (not of_documents, "the methods inverse and induction", "candidates"),
        (method == "induction", "method: induction", "group examples"),
        (rated, "pairs that are rated: curate", "score_from"),
        (rated and in_words, "ratings in words: curate", "strict score_max_tokens"),
    )


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    extra = group_columns(options.group) if options.method == "induction" else []
    return {"rows": list(dict.fromkeys(["messages", "input_start", "origins", *extra]))}


def _curates(method: str, curate: bool | None) -> bool:
    return method == "humback" if curate is None else curate


@stage(version=2, scope="set", reads=_reads, adds=ADDS, check=_check)
def backtranslate(
    ctx: Context,
    documents: Documents | None = None,
    rows: Records | None = None,
    *,
    model: LanguageModel,
    method: Literal["humback", "longform", "inverse", "induction"] = "humback",
    prompting: Literal["asked", "trained"] = "asked",
    styles: tuple[Style, ...] = ("instruction", "chat", "query"),
    passage_characters: tuple[int, int] = (200, 3000),
    max_passages: int | None = None,
    per_document: int | None = None,
    candidates: int = 10,
    group: str = "source",
    examples: int = 5,
    seed: int = 0,
    temperature: float = 0.7,
    top_p: float = 0.9,
    max_tokens: int = 256,
    instruction_characters: tuple[int, int] = (10, 800),
    curate: bool | None = None,
    score_from: Literal["text", "likelihood"] = "text",
    strict: bool = True,
    score_max_tokens: int = 512,
    min_score: float | None = 5,
    system: str | None = None,
    source: str = "backtranslate",
) -> Records:
    """New records: a line for each passage, code or pair, which is the answer.

    Adds `journal` (keys of the completions that the row was read from) and
    `curation_score`: 1 to 5, or for inverse and induction the probability of yes; null
    where there is none. `parents` is the document or row, whose licence stays.

    prompting: "trained" shows the passage alone, to a model trained to answer it.
    passage_characters: fewest and most of a passage. It runs from heading to
        heading, or as many whole paragraphs as the most allows.
    max_passages, per_document: at most so many are sent, a random choice by `seed`
        that other documents do not disturb; the rest are dropped as `not_sampled`.
    candidates: instructions for one code or group, of which the best stays.
    group: of the pairs of one task, see `stages/_strata.py`; examples: shown of each.
    curate: rate the pairs, by default for humback; min_score: what a kept one has at
        least (null: any).
    score_from: "text" reads "Score: n" from the model's own words, as the paper
        does. "likelihood" is for models too weak to say it: the mean rating under
        the probabilities of "Score: 1" to "Score: 5"; it has fractions.
    strict: the rating must end the response (see `_parse.score`).
    system: put before the rows. The paper tells what came from the web by such a one.
    """
    edge = _EDGES.get(method, "documents")
    given = rows if edge == "rows" else documents
    if given is None:
        raise UserError(f"method {method} reads {edge}", hint=f"needs: {{{edge}: STAGE}}")
    engine = ctx.open(model)
    ask = partial(
        generate_field, engine, decoding=Decoding(max_tokens, temperature, top_p), seed=seed
    )
    if edge == "rows":
        known = codes(given) if method == "inverse" else tasks(given, group, examples, seed)
        drafts = write_candidates(ask, known, method, candidates)
        _check_lengths(drafts, instruction_characters)
        choose(engine, drafts, f"{method}_check", seed)
        drafts = applied(drafts) if method == "induction" else drafts
    else:
        drafts = _passages(given, passage_characters)
        _sample(drafts, seed, max_passages, per_document)
        ask(drafts, "instruction", _asking(method, prompting, styles, seed))
        _check_lengths(drafts, instruction_characters)
    if _curates(method, curate):
        if score_from == "text":
            curate_by_text(engine, drafts, Decoding(score_max_tokens), seed, strict)
        else:
            curate_by_likelihood(engine, drafts)
        keep_best(drafts, min_score)
    return to_frame(drafts, partial(_talk, system=system), source, ADDS)


def _passages(documents: pl.DataFrame, characters: tuple[int, int]) -> list[Draft]:
    """All passages of all documents in order; a document without text is an empty one."""
    fewest, most = characters
    drafts = []
    for row in documents.iter_rows(named=True):
        license = next((origin["license"] for origin in row["origins"] or ()), None)
        for number, text in enumerate(cut(row["text"] or "", most) or [""]):
            draft = Draft((row["id"],), {"passage": text}, license, notes={"passage": number})
            if len(text) < fewest:
                draft.reject("passage_too_short", characters=len(text))
            elif len(text) > most:
                draft.reject("passage_too_long", characters=len(text))
            drafts.append(draft)
    return drafts


def _sample(drafts: Sequence[Draft], seed: int, most: int | None, per_document: int | None) -> None:
    """Reject all but a random few, taken in the order of a digest of each passage."""
    taken: Counter[str] = Counter()
    alive = [draft for draft in drafts if draft.active]

    def place(draft: Draft) -> str:
        return digest([seed, draft.parents[0], draft.notes["passage"], draft["passage"]])

    for draft in sorted(alive, key=place):
        (document,) = draft.parents
        full = most is not None and taken.total() >= most
        if full or (per_document is not None and taken[document] >= per_document):
            draft.reject("not_sampled", passages=taken.total())
        else:
            taken[document] += 1


def _asking(method: str, prompting: str, styles: Sequence[str], seed: int) -> Any:
    """The prompt of a passage."""

    def asked(draft: Draft) -> Prompt:
        passage = draft["passage"]
        if prompting == "trained":
            return user(passage)
        name = "instruction"
        if method == "longform":
            draw = random.Random(f"{seed} style {draft.parents} {draft.notes['passage']}")
            draft.notes["style"] = style = draw.choice(styles)
            name = f"longform_{style}"
        return user(PROMPTS.render(f"{name}", passage=passage))

    return asked


def _check_lengths(drafts: Sequence[Draft], characters: tuple[int, int]) -> None:
    fewest, most = characters

    def judged(draft: Draft) -> Rejection | None:
        length = len(draft["instruction"])
        if fewest <= length <= most:
            return None
        return f"instruction_too_{'short' if length < fewest else 'long'}", {"characters": length}

    filter_drafts(drafts, judged)


def _talk(draft: Draft, system: str | None) -> RowMessages:
    """A pair, or the answer alone in search of its instruction."""
    answer = draft.fields.get("passage", "")
    before: list[Message] = [{"role": "system", "content": system}] if system else []
    if not draft.fields.get("instruction"):
        return [*before, {"role": "assistant", "content": answer}], None
    turns, input_start = task_messages(draft["instruction"], draft.fields.get("input", ""), answer)
    return [*before, *turns], input_start
