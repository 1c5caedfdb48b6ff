"""Rows in other languages, with what must stay as it is left in them.

sPhinX: Sample Efficient Multilingual Instruction Fine-Tuning Through N-shot Guided Prompting
(Ahuja et al. 2024, arXiv:2407.09879).

As in the paper: a model translates instruction and answer selectively, so that code, names, and
what a task works on stay where the task needs them (`method: selective`); the translations go
with rows before them in the same language (`compose.demonstrations` with `method: sphinx`).

Ours: the wording; a row is translated as one text of numbered parts (one by one they lose what
they refer to); what must stay is replaced by marks beforehand and looked for afterwards (see
`protect.py`); languages are drawn alike for each row, where the paper has 100,000, 50,000 and
25,000 rows of each high-, mid- and low-resource language; the language of what comes back is
identified, and its length compared. The authors published no code.

M2Lingual: Enhancing Multilingual, Multi-Turn Instruction Alignment in Large Language Models
(Maheshwary et al. 2024, arXiv:2406.16783).

As in the paper: languages and tasks of which people wrote no seeds get some.

Ours: seeds in English are translated whole (`method: full`), to be evolved in their language
(`rewrite.evolve` with `method: m2lingual`); the paper begins with Aya's rows and task sets.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import AfterValidator, Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Records, stage
from pipeline.types import Count, Fraction, NonEmpty, NonNegativeFloat, increasing
from stages._common.option_types import Distinct
from stages._llm.drafts import (
    Draft,
    Prompt,
    RowMessages,
    filter_drafts,
    generate_field,
    to_frame,
    user,
)
from stages._llm.rows import Rejection, has_tools, license_of
from stages._text.languages import MIN_LETTERS, NAMES, language_of, letters, other_language
from stages.compose.translate.methods import Full, Selective, request
from stages.compose.translate.parts import (
    FIELDS,
    Part,
    is_copy,
    new_sentences,
    parts_of,
    read_parts,
    translated,
)
from stages.compose.translate.parts import Field as PartField
from stages.compose.translate.protect import KINDS, Kind, Protection

Method = Annotated[Selective | Full, Field(discriminator="name")]

ADDS: Final[dict[str, Any]] = {
    "language": pl.String(),
    "left_as_is": pl.List(pl.String),
    "protected": pl.Int32(),
    "journal": pl.List(pl.String),
}

_MIN_BYTES: Final = 40
"""Of shorter texts the lengths are not compared."""

_COPIED: Final = 0.5
"""The part of a translation's letters that may be sentences of the text itself, with `full`."""


def _known(language: str) -> str:
    if language not in NAMES:
        raise ValueError(f"must be a code such as de, fr or zh, got {language!r}")
    return language


Language = Annotated[str, AfterValidator(_known)]
Ratios = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(increasing)]


def _check(options: SimpleNamespace) -> None:
    if options.per_row > len(options.languages):
        raise OptionError(
            *("per_row", f"must be at most {len(options.languages)}, got {options.per_row}"),
            why="so many languages are named",
            hint="per_row: 1",
        )


@stage(
    version=1,
    scope="set",
    reads=["messages", "tools", "input_start", "origins"],
    adds=ADDS,
    check=_check,
)
def translate(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    languages: Annotated[tuple[Language, ...], NonEmpty, Distinct],
    method: Method = Selective(),
    per_row: Count = 1,
    fields: Annotated[tuple[PartField, ...], NonEmpty, Distinct] = FIELDS,
    protect: Annotated[tuple[Kind, ...], Distinct] = KINDS,
    keep: tuple[str, ...] = (),
    min_language_probability: Fraction = 0.2,
    length_ratio: Ratios = (0.25, 4.0),
    seed: int = 0,
    temperature: NonNegativeFloat = 0.0,
    top_p: Fraction = 1.0,
    max_tokens: Count = 4096,
    source: str = "translate",
) -> Records:
    """New records: each row in one or several of the languages.

    The rows themselves are not among them: `load.concat` puts both together. `parents` is the
    row, whose license stays. Adds `language`, the code of the language; `left_as_is`, the fields
    of which a part came back as it was; `protected`, how many texts had marks in their place; and
    `journal`.

    Args:
        rows: Conversations.
        model: Translates.
        languages: ISO 639 codes.
        method: selective or full.
        per_row: How many of the languages, drawn for each row.
        fields: What is translated: system (that turn), instruction (the user's turns without
            the input), input, response (the assistant's turns). The rest stays, so that
            `[input, response]` keeps the instructions' language.
        protect: What is replaced by marks and must come back: code, math, url, placeholder
            (`{name}`, `[NAME]`, tags), name (identifiers, acronyms, names of several words within
            a sentence), number.
        keep: Texts that stay too, such as the names of products.
        min_language_probability: The least probability of the language for what was written
            anew, of 20 letters and more; 0 to identify nothing. 0.2 is ours.
        length_ratio: The least and the greatest length of a part, in bytes, as a multiple of
            what it was. The bounds are ours.
        seed: Of the languages and the sampling.
        temperature: Of the sampling.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of a row's translation in tokens.
        source: Name of the new records' source.

    Returns:
        The new records. Rows are dropped as `has_tools`, `has_reasoning` or `nothing_to_translate`
        (nothing is said in any of the fields), or for what came back: `translated_cut`,
        `translated_unparsed` (a part is missing, empty or there twice); `code_lost`, `math_lost`,
        `url_lost`, `placeholder_lost`, `name_lost` and `number_lost`; `markers_lost` (a mark in
        another part, or of nothing); `untranslated` (nothing was translated, with full also a
        single part), `wrong_language`, `length_ratio`; as `same_language` where the row was in
        the language from the outset. Equal ones are `duplicate`.

    Example:
        ```yaml
        spoken:
          uses: compose.translate
          needs: pool
          with: {model: writer, languages: [de, fr, hi], fields: [instruction, input, response]}
        ```
    """
    drafts = []
    columns = rows.select("id", "messages", "tools", "input_start", "origins").iter_rows()
    for id_, messages, tools, start, origins in columns:
        chosen = random.Random(f"{seed} translate {id_}").sample([*languages], per_row)
        for language in chosen:
            fields_ = {"messages": messages or [], "input_start": start, "language": language}
            draft = Draft((id_,), fields_, license_of(origins))
            _begin(draft, tools, fields, Protection(protect, keep))
            drafts.append(draft)
    if min_language_probability:
        filter_drafts(drafts, _same_language)
    decoding = Decoding(max_tokens, temperature, top_p)
    write = partial(generate_field, ctx.open(model), decoding=decoding, seed=seed)
    write(drafts, "translated", partial(_prompt, method), parse=read_parts)
    for draft in drafts:
        if draft.active:
            _finish(draft)
    filter_drafts(drafts, lambda draft: draft["rejection"])
    filter_drafts(drafts, partial(_copied, isinstance(method, Full)))
    filter_drafts(drafts, partial(_length, length_ratio))
    if min_language_probability:
        filter_drafts(drafts, partial(_other_language, min_language_probability))
    return to_frame(drafts, _messages, source, ADDS)


def _begin(
    draft: Draft, tools: str | None, fields: Sequence[PartField], protection: Protection
) -> None:
    """Set the parts of a row and their texts with marks, or say why it has none."""
    messages = draft["messages"]
    parts = parts_of(messages, draft["input_start"], fields)
    masked = [protection.mask(part.text, part.number) for part in parts]
    draft.fields |= {"parts": parts, "masked": masked, "protection": protection}
    draft.fields |= {"protected": len(protection.spans), "rejection": None}
    if has_tools(messages, tools) or any(turn["role"] == "tool" for turn in messages):
        draft.reject("has_tools")
    elif any((turn.get("reasoning") or "").strip() for turn in messages):
        draft.reject("has_reasoning")
    elif not any(letters(protection.bare(part.text)) for part in parts):
        draft.reject("nothing_to_translate", fields=[*fields])


def _prompt(method: Selective | Full, draft: Draft) -> Prompt:
    return user(request(method, draft["parts"], draft["masked"], NAMES[draft["language"]]))


def _same_language(draft: Draft) -> Rejection | None:
    texts = (draft["protection"].bare(part.text) for part in draft["parts"])
    text = " ".join(texts)
    if language_of(text) == draft["language"]:
        return "same_language", {"language": draft["language"]}
    return None


def _finish(draft: Draft) -> None:
    """Put what is protected in the place of its marks, or note why that cannot be done."""
    written, new = draft["translated"], {}
    if [*written] != [part.number for part in draft["parts"]]:
        evidence = {"parts": len(draft["parts"]), "written": len(written)}
        draft.fields["rejection"] = "translated_unparsed", evidence
    for part in draft["parts"]:
        text, rejection = draft["protection"].restore(written.get(part.number, ""), part.number)
        new[part.turn, part.field] = text
        draft.fields["rejection"] = draft["rejection"] or rejection
    draft.fields["new"] = new


def _pairs(draft: Draft) -> Iterator[tuple[Part, str]]:
    """The parts with their translations."""
    for part in draft["parts"]:
        yield part, draft["new"][part.turn, part.field]


def _copied(complete: bool, draft: Draft) -> Rejection | None:
    """Why too much of a translation is the text itself; notes the fields that are."""
    bare = draft["protection"].bare
    left: list[str] = []
    changed = False
    for part, new in _pairs(draft):
        count = letters(bare(part.text))
        anew = letters(new_sentences(bare(new), bare(part.text)))
        copied = is_copy(new, part.text)
        changed |= not copied and count > 0
        left += [part.field] if copied else []
        few = anew < _COPIED * letters(bare(new))
        if complete and count >= MIN_LETTERS and (copied or few):
            return "untranslated", {"part": part.number, "field": part.field}
    draft.fields["left_as_is"] = [*dict.fromkeys(left)]
    return None if changed else ("untranslated", {"parts": len(draft["parts"])})


def _length(ratios: tuple[float, float], draft: Draft) -> Rejection | None:
    for part, new in _pairs(draft):
        before, after = (len(text.encode()) for text in (part.text, new))
        within = ratios[0] * before <= after <= ratios[1] * before
        if before >= _MIN_BYTES and not within:
            return "length_ratio", {"part": part.number, "ratio": round(after / before, 3)}
    return None


def _other_language(min_probability: float, draft: Draft) -> Rejection | None:
    bare = draft["protection"].bare
    for part, new in _pairs(draft):
        text = new_sentences(bare(new), bare(part.text))
        evidence = other_language(text, draft["language"], min_probability)
        if evidence:
            return "wrong_language", {"part": part.number, **evidence}
    return None


def _messages(draft: Draft) -> RowMessages:
    """The conversation in its language; the row itself where it is not written."""
    new = draft.fields.get("new", {})
    messages, start = translated(draft["messages"], draft["input_start"], new)
    return messages, start  # type: ignore[return-value]
