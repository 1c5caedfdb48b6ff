"""Labels of fixed sets for a request, and metadata: one request to a tagger for each set.

Magpie (Xu et al. 2024, arXiv:2406.08464), `task_category`, `difficulty`, `quality`, `language` and
`safety`:

- As in the paper: 12 categories of tasks, difficulty and quality of the request in five levels
  each, its language and its safety.
- As in the authors' code (magpie-align/magpie, MIT): one request for each set, greedily, answered
  in JSON; before the label the model says what the user wants and needs to know (difficulty), or
  what is strong and weak about the request (quality); beside the main category there may be others.
- Ours: the words of the prompts; a label that cannot be read drops the row, where their code leaves
  it empty; `explain: false` asks for the label alone, which costs a few tokens; the language comes
  from py3langid, and the safety from the tagger. (The authors have Llama-Guard-2 judge safety: that
  is a model of its own with `score.column`, as is a reward model's score.)

Beyond IID (Zhao et al. 2024, arXiv:2409.07045), `ability` and `domain`, and ReAlign (Fan et al.
2024, arXiv:2402.12219), `task_type`: see `label_sets.py`, where the sets are.

CodecLM (Wang et al. 2024, arXiv:2404.05875), `metadata`: as in the paper a request is encoded as
its use case and the skills that a good answer needs; ours are the words and the form in JSON. Their
values are open. `generate.taxonomy` makes new requests of them, and `rewrite.evolve` improves rows
by them (`method: {name: rubric, metadata: attributes}`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.models.ask import ParsedCompletion, ask
from pipeline.models.base import Decoding, Engine, Request
from pipeline.models.structured_output import Unreadable, choice_parser, json_parser
from pipeline.types import NonEmpty, option_group
from schemas.records import first_user_turn
from stages._common.option_types import Distinct
from stages._llm.prompts import Prompts
from stages._llm.rows import to_json
from stages._text.languages import identifier
from stages.tag.intent.label_sets import SETS, LabelSet

PROMPTS: Final = Prompts(__file__)

SetName = Literal[
    "task_category", "difficulty", "quality", "language", "safety", "ability", "domain",
    "task_type", "metadata",
]  # fmt: skip

METADATA: Final = "metadata"
_METADATA_COLUMNS: Final = {
    "use_case": pl.String(),
    "skills": pl.List(pl.String),
    "attributes": pl.List(pl.String),
}
_METADATA_SCHEMA: Final = json.dumps(
    {
        "type": "object",
        "properties": {
            "use_case": {"type": "string"},
            "skills": {"type": "array", "minItems": 1, "items": {"type": "string"}},
        },
        "required": ["use_case", "skills"],
    }
)

UNDETERMINED: Final = "und"
"""ISO 639's code for a language that is not known."""

_MIN_CONFIDENCE: Final = 0.5
_MAX_CHARACTERS: Final = 1000
"""Of the identifier of languages, as in `tag.surface`."""

_MAX_LABEL_WORDS: Final = 4
"""Of a label that the set lacks; what is longer, or a sentence, is no label."""
_LABEL: Final = re.compile(r"[\w &/-]*\w[\w &/-]*")
_SENTENCE: Final = re.compile(
    r"\b(?:i|we|you|it|this|that|is|are|am|can|cannot|not|sorry|apologies|unfortunately)\b", re.I
)
"""What sentences have and names of labels do not."""

_VERDICT: Final = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())


@option_group
class ClosedSets:
    """Labels of fixed sets: those of Magpie, Beyond IID and ReAlign, and CodecLM's metadata.

    Args:
        name: "closed_sets".
        sets: Which. `task_category` adds `task_category`, one of 12, and with `explain`
            `other_task_categories`. `difficulty` adds `difficulty` from very easy to very hard,
            `difficulty_level` from 1 to 5, and with `explain` `intent` and `knowledge`. `quality`
            adds `input_quality` from very poor to excellent, `input_quality_level` from 1 to 5, and
            with `explain` `quality_explanation`. `safety` adds `safety` (safe or unsafe), and with
            `explain` `safety_explanation`. `language` adds `input_language`, an ISO 639 code, or
            und where that is not clear; no model is asked for it. `ability` adds `ability`, one of
            16, and with `explain` `other_abilities`; `domain` adds `domain`, one of 8 or none, and
            with `explain` `other_domains`. `task_type` adds `task_type`, one of 46, of which
            "default" stands for any other that the model names, and `task_type_unknown`, what it
            named then, which is counted as `unknown_labels`. `metadata` adds `use_case`, `skills`,
            and `attributes`, which is both.
        explain: Whether the model says in words what it sees before it says the label, in JSON.
            Metadata are asked for in JSON either way.
    """

    name: Literal["closed_sets"] = "closed_sets"
    sets: Annotated[tuple[SetName, ...], NonEmpty, Distinct] = (
        "task_category",
        "difficulty",
        "quality",
    )
    explain: bool = True


def asked_sets(method: ClosedSets) -> list[str]:
    """Those of the sets that a model is asked for."""
    return [name for name in method.sets if name != "language"]


def added_columns(method: ClosedSets) -> dict[str, Any]:
    """The columns that the method adds, with their types."""
    columns: dict[str, Any] = {}
    for name in method.sets:
        columns |= _columns(name, method.explain)
    journal = {"intent_journal": pl.List(pl.String)} if asked_sets(method) else {}
    return columns | journal


def _columns(name: str, explain: bool) -> dict[str, Any]:
    """The columns of one set."""
    if name == "language":
        return {"input_language": pl.String()}
    if name == METADATA:
        return _METADATA_COLUMNS
    labels = SETS[name]
    columns: dict[str, Any] = {labels.column: pl.String()}
    if labels.are_levels:
        columns[f"{labels.column}_level"] = pl.Int32()
    if explain:
        columns |= dict.fromkeys(labels.words, pl.String())
        columns |= {labels.others: pl.List(pl.String)} if labels.others else {}
    return columns | ({labels.unknown: pl.String()} if labels.default else {})


def tag_closed_sets(
    ctx: Context,
    engine: Engine | None,
    rows: pl.DataFrame,
    method: ClosedSets,
    max_tokens: int,
    seed: int,
) -> pl.DataFrame:
    """The columns of the method, and the verdict of each row.

    Args:
        ctx: Counts labels that a set lacks.
        engine: The tagger; None where no set needs one.
        rows: Conversations.
        method: The sets.
        max_tokens: Limit of an answer in tokens.
        seed: Of the requests.
    """
    texts = rows.select(first_user_turn())["first_user_turn"].to_list()
    tagged: list[dict[str, Any]] = [{"text": text or "", "intent_journal": []} for text in texts]
    for row in tagged:
        if not row["text"].strip():
            _drop(row, "no_instruction", {})
    if "language" in method.sets:
        for row in tagged:
            row["input_language"] = _language(row["text"])
    for name in asked_sets(method):
        assert engine is not None  # checked with the options
        active = [row for row in tagged if not row.get("drop_reason") and not row.get("error")]
        decoding, parse = _form(name, method.explain, max_tokens)
        prompts = [_prompt(name, row["text"], method.explain) for row in active]
        requests = [Request((("user", prompt),), decoding, seed) for prompt in prompts]
        for row, answer in zip(active, ask(engine, requests, parse=parse), strict=True):
            _add(row, name, answer)
        if (labels := SETS.get(name)) and labels.default:
            ctx.count(unknown_labels=sum(row.get(labels.unknown) is not None for row in active))
    columns = {**added_columns(method), **_VERDICT}
    kept = [{column: row.get(column) for column in columns} for row in tagged]
    return pl.DataFrame(kept, schema=columns)


def _form(
    name: str, explain: bool, max_tokens: int
) -> tuple[Decoding, Callable[[str], dict[str, Any]]]:
    """How the model is asked for one set, and how its answer is read."""
    if name == METADATA:
        return Decoding(max_tokens, json_schema=_METADATA_SCHEMA), _metadata
    labels = SETS[name]
    if explain:
        schema = json.dumps(_schema(labels, closed=True))
        return Decoding(max_tokens, json_schema=schema), partial(_explained, labels)
    return Decoding(max_tokens, choice=labels.labels), partial(_label, labels)


def _prompt(name: str, text: str, explain: bool) -> str:
    if name == METADATA:
        return PROMPTS.render("codeclm/metadata", instruction=text)
    labels = SETS[name]
    return PROMPTS.render(
        name,
        instruction=text,
        labels=labels.labels,
        words=labels.words,
        explain=explain,
        column=labels.column,
        others=labels.others,
    )


def _schema(labels: LabelSet, *, closed: bool) -> dict[str, Any]:
    """The JSON schema of an answer; closed: with the labels, to which an engine may hold it."""
    text = {"type": "string"}
    label = {"enum": [*labels.labels], **text} if closed else text
    properties: dict[str, Any] = {**dict.fromkeys(labels.words, text), labels.column: label}
    if labels.others:
        properties[labels.others] = {"type": "array", "items": label}
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    return schema | ({"additionalProperties": False} if closed else {})


def _explained(labels: LabelSet, text: str) -> dict[str, Any]:
    """The values in an answer in JSON; a label may be spelled in another case."""
    value = json_parser(json.dumps(_schema(labels, closed=False)))(text)
    parse = choice_parser(labels.labels)
    values = {name: value[name].strip() for name in labels.words}
    values |= _label(labels, value[labels.column])
    label = values[labels.column]
    if labels.others:
        others = [_parsed(parse, other) for other in value[labels.others]]
        distinct = dict.fromkeys(other for other in others if other not in (None, label))
        values[labels.others] = [*distinct]
    return values


def _parsed(parse: Any, text: str) -> str | None:
    """A further label; None for a text that is none of the set."""
    try:
        return str(parse(text))
    except Unreadable:
        return None


def _label(labels: LabelSet, text: str) -> dict[str, Any]:
    """The label that a text says; where the set has a default, also for one that it lacks."""
    parse = choice_parser(labels.labels)
    if labels.default is None:
        return {labels.column: parse(text)}
    try:
        return {labels.column: parse(text), labels.unknown: None}
    except Unreadable:
        if not _is_label(text):
            raise
    return {labels.column: labels.default, labels.unknown: text.strip()}


def _is_label(text: str) -> bool:
    """Whether a text has the form of a label: a few words and no sentence, least of all a refusal.

    Example:
        >>> _is_label("song_writing"), _is_label("It is a song."), _is_label("I cannot help")
        (True, False, False)
    """
    plain = text.replace("_", " ").strip()
    is_short = 0 < len(plain.split()) <= _MAX_LABEL_WORDS
    return is_short and bool(_LABEL.fullmatch(plain)) and not _SENTENCE.search(plain)


def _metadata(text: str) -> dict[str, Any]:
    """Use case and skills in an answer in JSON."""
    value = json_parser(_METADATA_SCHEMA)(text)
    use_case = value["use_case"].strip()
    skills = [*dict.fromkeys(filter(None, (skill.strip() for skill in value["skills"])))]
    if not use_case or not skills:
        raise Unreadable("the answer must name the use case and at least one skill")
    return {"use_case": use_case, "skills": skills, "attributes": [use_case, *skills]}


def _add(row: dict[str, Any], name: str, answer: ParsedCompletion) -> None:
    """Add what was read for one set to a row, or why nothing was."""
    row["intent_journal"] = [*row["intent_journal"], *answer.journal]
    if answer.error is not None:
        row["error"] = answer.error
    elif answer.rejection is not None:
        reason, evidence = answer.rejection
        _drop(row, reason, {"set": name, **evidence})
    else:
        row |= answer.value
        if (labels := SETS.get(name)) and labels.are_levels:
            row[f"{labels.column}_level"] = 1 + labels.labels.index(row[labels.column])


def _drop(row: dict[str, Any], reason: str, evidence: Mapping[str, Any]) -> None:
    row |= {"drop_reason": reason, "evidence": to_json(evidence)}


def _language(text: str) -> str | None:
    if not text.strip():
        return None
    language, confidence = identifier().classify(text[:_MAX_CHARACTERS])
    return str(language) if confidence >= _MIN_CONFIDENCE else UNDETERMINED
