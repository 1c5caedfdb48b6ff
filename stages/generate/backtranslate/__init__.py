"""From an answer to the instruction that it answers.

- `humback`: Instruction Backtranslation (see `humback.py`).
- `longform`: LongForm's instructions, chat messages and search queries (see `longform.py`).
- `inverse`: Inverse-Instruct, on the code of a pool (see `inverse.py`).
- `induction`: instruction induction from pairs of input and output (see `induction.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.stage import Documents, Edges, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat, Range
from schemas.records import Message
from stages._common.edges import require_input, required
from stages._llm.drafts import (
    LABEL_TOKENS,
    Draft,
    GenerateField,
    RowMessages,
    ScoreField,
    filter_drafts,
    generate_field,
    score_field,
    to_frame,
)
from stages._llm.label_scores import MIN_MASS
from stages._llm.preambles import instruction_text
from stages._llm.rows import Rejection, task_messages
from stages._selection.groups import group_columns
from stages.generate._decoding import decoding_of
from stages.generate.backtranslate import humback, induction, inverse, longform
from stages.generate.backtranslate.candidates import keep_most_certain, write_candidates
from stages.generate.backtranslate.curation import curate
from stages.generate.backtranslate.humback import Humback
from stages.generate.backtranslate.induction import Induction
from stages.generate.backtranslate.inverse import Inverse
from stages.generate.backtranslate.longform import LongForm
from stages.generate.from_documents.passages import sample, split_documents

ADDS: Final = {"journal": pl.List(pl.String), "curation_score": pl.Float64}

Method = Annotated[Humback | LongForm | Inverse | Induction, Field(discriminator="name")]


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    method = options.method
    extra = group_columns(method.group) if isinstance(method, Induction) else []
    return {"rows": list(dict.fromkeys(["messages", "input_start", "origins", *extra]))}


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    of_documents = isinstance(options.method, Humback | LongForm)
    require_input(edges, "documents" if of_documents else "rows", options.method.name)
    return ADDS


def _check(options: SimpleNamespace) -> None:
    if isinstance(options.method, Inverse | Induction):
        return
    for name, default in (("judge_max_tokens", LABEL_TOKENS), ("min_mass", MIN_MASS)):
        if (value := getattr(options, name)) != default:
            raise OptionError(
                *(name, f"must be left out with method: {options.method.name}, got {value}"),
                why="there are no candidates to choose from",
                hint="curation: {name: text, max_tokens: N} in the method",
            )


@stage(
    version=5,
    scope="set",
    reads=_reads,
    adds=_adds,
    check=_check,
    later=("judge_max_tokens", "min_mass"),
)
def backtranslate(
    ctx: Context,
    documents: Documents | None = None,
    rows: Records | None = None,
    *,
    model: LanguageModel,
    method: Method = Humback(),
    seed: int = 0,
    temperature: NonNegativeFloat | None = None,
    top_p: Fraction | None = None,
    max_tokens: Count | None = None,
    judge_max_tokens: Count = LABEL_TOKENS,
    min_mass: Fraction = MIN_MASS,
    instruction_characters: Range | None = None,
    system: str | None = None,
    source: str = "backtranslate",
) -> Records:
    """New records: one for each passage, code or pair, which is the answer.

    Adds `journal` (keys of the completions that the row was read from) and
    `curation_score`: 1 to 5, or for inverse and induction without curation the probability
    of yes; null without either. `parents` is the document or row, whose license stays.

    Args:
        documents: Texts for the methods humback and longform.
        rows: A pool for the methods inverse and induction.
        model: Writes instructions and rates the pairs.
        method: humback, longform, inverse or induction, each with its own options.
        seed: Seed of the sampling and of random choices.
        temperature: Of the instructions; ratings are greedy. By default 0.8 for inverse, else
            0.7.
        top_p: Nucleus of the sampling; by default 1 for inverse, else 0.9.
        max_tokens: Limit of an instruction in tokens; by default 2,048 for inverse, else 256.
        judge_max_tokens: Limit in tokens of the answer whether a candidate of `inverse` or
            `induction` fits.
        min_mass: The least probability that yes and no together must have in that answer; with
            less it cannot be read.
        instruction_characters: Fewest and most characters of an instruction; by default any
            for inverse, else 10 to 800.
        system: A system prompt of the new rows. The Humback paper marks with one what came
            from the web.
        source: Name of the new records' source.

    Returns:
        The new records. Rows are dropped as `passage_too_short`, `passage_too_long`,
        `not_sampled`, `no_code`, `idle_code`, `not_best`, `no_output`, `instruction_cut`,
        `instruction_unparsed`, `instruction_too_short`, `instruction_too_long`,
        `score_unparsed`, `unreadable` and `low_score`.

    Raises:
        UserError: If the edge that the method reads is not connected.

    Example:
        ```yaml
        reversed:
          uses: generate.backtranslate
          needs: {documents: documents}
          with:
            model: writer
            method:
              name: humback
              passage_characters: [200, 500]
              curation: {name: likelihood, min_score: 2.5}
        ```
    """
    engine = ctx.open(model)
    decoding = decoding_of(method.decoding, temperature, top_p, max_tokens)
    write = partial(generate_field, engine, decoding=decoding, seed=seed)
    characters = instruction_characters or method.instruction_characters
    if isinstance(method, Humback | LongForm):
        frame = required(documents, "documents", method.name)
        drafts = _from_documents(write, frame, method, seed)
        _check_lengths(drafts, characters)
    else:
        frame = required(rows, "rows", method.name)
        drafts = _from_rows(write, frame, method, seed)
        _check_lengths(drafts, characters)
        judge = partial(
            score_field, engine, seed=seed, min_mass=min_mass, max_tokens=judge_max_tokens
        )
        drafts = _select(judge, drafts, method)
    if method.curation is not None:
        curate(engine, drafts, method.curation, seed)
    return to_frame(drafts, partial(_messages, system=system), source, ADDS)


def _from_documents(
    write: GenerateField, documents: pl.DataFrame, method: Humback | LongForm, seed: int
) -> list[Draft]:
    """An instruction for each sampled passage of the documents."""
    drafts = split_documents(documents, method.passage_characters, headings=True, split=True)
    sample(drafts, seed, method.max_passages, method.max_passages_per_document)
    if isinstance(method, Humback):
        prompt = partial(humback.prompt, method=method)
    else:
        prompt = partial(longform.prompt, method=method, seed=seed)
    write(drafts, "instruction", prompt, parse=instruction_text)
    return drafts


def _from_rows(
    write: GenerateField, rows: pl.DataFrame, method: Inverse | Induction, seed: int
) -> list[Draft]:
    """Several instructions for each code, or for each group of pairs."""
    if isinstance(method, Inverse):
        return write_candidates(write, inverse.codes(rows), method.num_candidates, inverse.prompt)
    tasks = induction.tasks(rows, method, seed)
    return write_candidates(write, tasks, method.num_candidates, induction.prompt)


def _select(judge: ScoreField, drafts: Sequence[Draft], method: Inverse | Induction) -> list[Draft]:
    """The candidate of each source that the model is most certain of."""
    if isinstance(method, Inverse):
        keep_most_certain(judge, drafts, inverse.question)
        return [*drafts]
    keep_most_certain(judge, drafts, induction.question)
    return induction.applied(drafts)


def _check_lengths(drafts: Sequence[Draft], characters: tuple[int, int] | None) -> None:
    if characters is None:
        return
    low, high = characters

    def rejection(draft: Draft) -> Rejection | None:
        length = len(draft["instruction"])
        if low <= length <= high:
            return None
        return f"instruction_too_{'short' if length < low else 'long'}", {"characters": length}

    filter_drafts(drafts, rejection)


def _messages(draft: Draft, system: str | None) -> RowMessages:
    """A pair, or the answer alone where there is no instruction."""
    answer = draft.fields.get("passage", "")
    before: list[Message] = [{"role": "system", "content": system}] if system else []
    if not draft.fields.get("instruction"):
        return [*before, {"role": "assistant", "content": answer}], None
    turns, input_start = task_messages(draft["instruction"], draft.fields.get("input", ""), answer)
    return [*before, *turns], input_start
