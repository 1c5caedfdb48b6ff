"""Labels of fixed sets for a request: the tags of Magpie (Xu et al. 2024, arXiv:2406.08464).

- As in the paper: 12 categories of tasks, difficulty and quality of the request in five levels
  each, its language and its safety.
- As in the authors' code (magpie-align/magpie, MIT): one request for each set, greedily, answered
  in JSON; before the label the model says what the user wants and needs to know (difficulty), or
  what is strong and weak about the request (quality); beside the main category there may be others.
- Ours: the words of the prompts; a label that cannot be read drops the row, where their code leaves
  it empty; `explain: false` asks for the label alone, which costs a few tokens; the language comes
  from py3langid, and the safety from the tagger. (The authors have Llama-Guard-2 judge safety: that
  is a model of its own with `score.column`, as is a reward model's score.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Literal

import polars as pl

from pipeline.models.ask import ParsedCompletion, ask
from pipeline.models.base import Decoding, Engine, Request
from pipeline.models.structured_output import Unreadable, choice_parser, json_parser
from pipeline.types import NonEmpty, option_group
from schemas.records import first_user_turn
from stages._common.option_types import Distinct
from stages._llm.prompts import Prompts
from stages._llm.rows import to_json
from stages._text.languages import identifier

PROMPTS: Final = Prompts(__file__)

SetName = Literal["task_category", "difficulty", "quality", "language", "safety"]

UNDETERMINED: Final = "und"
"""ISO 639's code for a language that is not known."""

_MIN_CONFIDENCE: Final = 0.5
_MAX_CHARACTERS: Final = 1000
"""Of the identifier of languages, as in `tag.surface`."""

_LEVELS: Final = ("very easy", "easy", "medium", "hard", "very hard")
_QUALITIES: Final = ("very poor", "poor", "average", "good", "excellent")
_VERDICT: Final = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())


@dataclass(frozen=True)
class LabelSet:
    """A closed set of labels.

    Args:
        column: Where the label stands, in the row and in the model's JSON.
        labels: The labels; of levels the lowest first.
        words: What the model says before it, with the words that ask for it.
        are_levels: Whether the labels are levels: then their number is a column, too.
        others: The column of further labels that apply; None where there is one label alone.
    """

    column: str
    labels: tuple[str, ...]
    words: Mapping[str, str]
    are_levels: bool = False
    others: str | None = None


SETS: Final[dict[str, LabelSet]] = {
    "task_category": LabelSet(
        "task_category",
        (
            "Information seeking", "Reasoning", "Planning", "Editing", "Coding & Debugging",
            "Math", "Role playing", "Data analysis", "Creative writing", "Advice seeking",
            "Brainstorming", "Others",
        ),
        {},
        others="other_task_categories",
    ),
    "difficulty": LabelSet(
        "difficulty",
        _LEVELS,
        {
            "intent": "what the user wants, in a sentence",
            "knowledge": "what one has to know to answer, in a sentence",
        },
        are_levels=True,
    ),
    "quality": LabelSet(
        "input_quality",
        _QUALITIES,
        {"quality_explanation": "what is strong and what is weak about the request"},
        are_levels=True,
    ),
    "safety": LabelSet(
        "safety",
        ("safe", "unsafe"),
        {"safety_explanation": "what might come of an answer, in a sentence"},
    ),
}  # fmt: skip
"""The sets that a model is asked for."""


@option_group
class ClosedSets:
    """Labels of fixed sets: Magpie's tags (arXiv:2406.08464).

    Args:
        name: "closed_sets".
        sets: Which. `task_category` adds `task_category`, one of 12, and with `explain`
            `other_task_categories`. `difficulty` adds `difficulty` from very easy to very hard,
            `difficulty_level` from 1 to 5, and with `explain` `intent` and `knowledge`. `quality`
            adds `input_quality` from very poor to excellent, `input_quality_level` from 1 to 5, and
            with `explain` `quality_explanation`. `safety` adds `safety` (safe or unsafe), and with
            `explain` `safety_explanation`. `language` adds `input_language`, an ISO 639 code, or
            und where that is not clear; no model is asked for it.
        explain: Whether the model says in words what it sees before it says the label, in JSON.
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
    return [name for name in method.sets if name in SETS]


def added_columns(method: ClosedSets) -> dict[str, Any]:
    """The columns that the method adds, with their types."""
    columns: dict[str, Any] = {}
    for name in method.sets:
        if name not in SETS:
            columns["input_language"] = pl.String()
            continue
        labels = SETS[name]
        columns[labels.column] = pl.String()
        if labels.are_levels:
            columns[f"{labels.column}_level"] = pl.Int32()
        if method.explain:
            columns |= dict.fromkeys(labels.words, pl.String())
            columns |= {labels.others: pl.List(pl.String)} if labels.others else {}
    journal = {"intent_journal": pl.List(pl.String)} if asked_sets(method) else {}
    return columns | journal


def tag_closed_sets(
    engine: Engine | None, rows: pl.DataFrame, method: ClosedSets, max_tokens: int, seed: int
) -> pl.DataFrame:
    """The columns of the method, and the verdict of each row.

    Args:
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
        answers = _ask(engine, SETS[name], name, active, method.explain, max_tokens, seed)
        for row, answer in zip(active, answers, strict=True):
            _add(row, name, answer)
    columns = {**added_columns(method), **_VERDICT}
    kept = [{column: row.get(column) for column in columns} for row in tagged]
    return pl.DataFrame(kept, schema=columns)


def _ask(
    engine: Engine,
    labels: LabelSet,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    explain: bool,
    max_tokens: int,
    seed: int,
) -> list[ParsedCompletion]:
    """The answers for one set, all of them asked for at once."""
    if explain:
        decoding = Decoding(max_tokens, json_schema=json.dumps(_schema(labels, closed=True)))
        parse = partial(_explained, labels)
    else:
        decoding = Decoding(max_tokens, choice=labels.labels)
        parse = partial(_label_alone, labels)
    prompts = [_prompt(name, labels, row["text"], explain) for row in rows]
    requests = [Request((("user", prompt),), decoding, seed) for prompt in prompts]
    return ask(engine, requests, parse=parse)


def _prompt(name: str, labels: LabelSet, text: str, explain: bool) -> str:
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
    values[labels.column] = label = parse(value[labels.column])
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


def _label_alone(labels: LabelSet, text: str) -> dict[str, Any]:
    return {labels.column: choice_parser(labels.labels)(text)}


def _add(row: dict[str, Any], name: str, answer: ParsedCompletion) -> None:
    """Add what was read for one set to a row, or why nothing was."""
    row["intent_journal"] = [*row["intent_journal"], *answer.journal]
    if answer.error is not None:
        row["error"] = answer.error
    elif answer.rejection is not None:
        reason, evidence = answer.rejection
        _drop(row, reason, {"set": name, **evidence})
    else:
        labels = SETS[name]
        row |= answer.value
        if labels.are_levels:
            row[f"{labels.column}_level"] = 1 + labels.labels.index(row[labels.column])


def _drop(row: dict[str, Any], reason: str, evidence: Mapping[str, Any]) -> None:
    row |= {"drop_reason": reason, "evidence": to_json(evidence)}


def _language(text: str) -> str | None:
    if not text.strip():
        return None
    language, confidence = identifier().classify(text[:_MAX_CHARACTERS])
    return str(language) if confidence >= _MIN_CONFIDENCE else UNDETERMINED
