"""Drafts: what a language model writes step by step, until each is a row or is told why not.

A method that generates is a short list of steps over drafts: `generate_field` asks one
request for every draft that is still alive and puts what was read from the answer
into a field of it, `expand` makes several drafts of one, `filter_drafts` applies a filter,
and `to_frame` makes the rows. All drafts take a step together, so that the engine sees
one long list of requests. Nothing is left out in silence: a request that failed for
good makes its draft *failed*; an answer that was cut, or that the parser makes
nothing of, makes it *dropped*, with the end of the answer as evidence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from pipeline.models.ask import ask
from pipeline.models.base import Decoding, Engine, LanguageModel, Request
from schemas.records import Message
from stages._llm.label_scores import TOP_LOGPROBS, YES, expectation
from stages._llm.rows import Rejection, make_row, rows_to_frame

Prompt = str | tuple[tuple[str, str], ...]
"""A text to continue, or the turns of a chat as (role, content)."""

RowMessages = tuple[list[Message], int | None]
"""The messages of a row, and where its input begins (see `stages._llm.rows.conversation`)."""

GenerateField = Callable[..., None]
"""`generate_field` with the engine, the decoding and the seed filled in, as methods hand it on."""

YES_OR_NO: Final = Decoding(max_tokens=4, choice=("yes", "no"))
"""How a question is answered that is answered by yes or no."""

JUDGED: Final = 8
"""Tokens of the label that `score_field` asks for, at most."""

_SHOWN: Final = 200
"""Characters of an answer that nothing was read from, kept as evidence: its end."""


@dataclass
class Draft:
    """One thing that is being written.

    parents: ids of the records or documents that it is made from; license: theirs.
    fields: what the prompts and the row are made of, by name.
    number: tells drafts of equal prompts apart; it is the sample number of their requests.
    notes: what goes into the row's `extra`. journal: keys of all answers it was read from.
    """

    parents: tuple[str, ...]
    fields: dict[str, Any]
    license: str | None = None
    number: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    journal: list[str] = field(default_factory=list)
    rejection: Rejection | None = None
    error: str | None = None

    @property
    def active(self) -> bool:
        return self.rejection is None and self.error is None

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def reject(self, reason: str, **evidence: Any) -> None:
        """Drop the draft for a reason."""
        self.rejection = reason, evidence

    def child(self, **fields: Any) -> Draft:
        """A copy with some fields replaced, for a draft that becomes several."""
        return Draft(
            *(self.parents, self.fields | fields, self.license, self.number),
            notes=dict(self.notes),
            journal=list(self.journal),
        )


def user(text: str, system: str | None = None) -> Prompt:
    """A chat prompt of one user turn, after a system turn where there is one."""
    turns = (("user", text),)
    return turns if system is None else (("system", system), *turns)


def stripped(text: str) -> str | None:
    """The plainest parser: the text without the white space around it; None if none is left."""
    return text.strip() or None


def says_yes(text: str) -> bool:
    """Whether the first word is "yes". Whatever follows it, and any other answer, is no yes."""
    word = re.match(r"\W*(\w+)", text)
    return word is not None and word[1].lower() == "yes"


def generate_field(
    engine: Engine,
    drafts: Sequence[Draft],
    into: str,
    render: Callable[[Draft], Prompt],
    decoding: Decoding,
    *,
    seed: int = 0,
    read: Callable[[Any], Any] | None = None,
    keep_cut: bool = False,
    larger: Sequence[int] = (),
) -> None:
    """Have a field written for every draft that is alive.

    into: the field's name; what goes wrong is told by it: `<into>_cut` for an answer
        that ended on its length (unless `keep_cut`), `<into>_unparsed` for one of which
        `read` made None.
    render: the prompt of a draft. read: a pure function of the answer's text, by
        default `stripped`. Where the decoding asks for one of several choices or for JSON
        of a schema, it is given that value; an answer without it is asked for once
        more, and then the draft has failed.
    larger: limits in tokens, rising, with which cut answers are asked for again.
    """
    formed = bool(decoding.choice) or decoding.json_schema is not None
    read = read or (_same if formed else stripped)
    alive = [draft for draft in drafts if draft.active]
    requests = [Request(render(draft), decoding, seed, draft.number) for draft in alive]
    answers = ask(engine, requests, retry_max_tokens=larger, repair=formed)
    for draft, answer in zip(alive, answers, strict=True):
        completion = answer.completion
        draft.journal += answer.journal
        draft.error = answer.error
        if not draft.active:
            continue
        if completion.finish_reason == "length" and not keep_cut and not formed:
            draft.reject(f"{into}_cut", tokens=completion.completion_tokens)
            continue
        draft.fields[into] = read(answer.value)
        if draft.fields[into] is None:
            draft.reject(f"{into}_unparsed", response_end=completion.text[-_SHOWN:])


def score_field(
    engine: Engine,
    drafts: Sequence[Draft],
    into: str,
    render: Callable[[Draft], Prompt],
    labels: Mapping[str, float] = YES,
    *,
    seed: int = 0,
) -> None:
    """Have every draft that is alive judged by one of the labels: `into` is their expectation.

    See `label_scores.expectation`; a judgement that cannot be read makes its draft fail.
    """
    alive = [draft for draft in drafts if draft.active]
    decoding = Decoding(max_tokens=JUDGED, choice=tuple(labels), logprobs=TOP_LOGPROBS)
    requests = [Request(render(draft), decoding, seed, draft.number) for draft in alive]
    for draft, answer in zip(alive, ask(engine, requests), strict=True):
        draft.journal += answer.journal
        draft.error = answer.error
        if draft.active:
            found = expectation(answer.completion, labels)
            draft.fields[into] = labels[answer.value] if found is None else found


def _same(value: Any) -> Any:
    return value


def model_names(models: Sequence[LanguageModel]) -> list[str]:
    """A name for each model: what its weights are called, numbered where that is not enough."""
    seen: Counter[str] = Counter()
    found = []
    for model in models:
        name = model.id or model.served_name or model.made_by
        name = name or model.model.rstrip("/").split("/")[-1]
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found


def expand(
    drafts: Sequence[Draft], parts: Callable[[Draft], Sequence[Mapping[str, Any]]]
) -> list[Draft]:
    """Each draft that is alive as several, one for each mapping of fields; others stay as they are.

    A draft without any part is dropped as `nothing_parsed`.
    """
    result = []
    for draft in drafts:
        found = parts(draft) if draft.active else []
        if draft.active and not found:
            draft.reject("nothing_parsed")
        result += [draft.child(**fields) for fields in found] or [draft]
    return result


def filter_drafts(drafts: Sequence[Draft], judge: Callable[[Draft], Rejection | None]) -> None:
    """Drop every draft that is alive and for which `judge` names a reason."""
    for draft in drafts:
        if draft.active:
            draft.rejection = judge(draft)


def to_frame(
    drafts: Sequence[Draft],
    talk: Callable[[Draft], RowMessages],
    source: str,
    adds: Mapping[str, Any],
    license: str | None = None,
) -> pl.DataFrame:
    """The table that a generating stage returns: a line per draft, kept, dropped or failed.

    talk: a draft's messages, as far as they were written (fields may be missing where
        the draft is not alive). adds: the stage's own columns, each read from the field
        of that name, `journal` from the draft itself.
    license: of the rows whose draft has none.
    """
    lines = []
    for draft in drafts:
        messages, input_start = talk(draft)
        added: dict[str, Any] = {name: draft.fields.get(name) for name in adds if name != "journal"}
        lines.append(
            make_row(
                messages,
                input_start,
                license=draft.license or license,
                parents=draft.parents,
                extra=draft.notes,
                rejection=draft.rejection,
                error=draft.error,
                journal=draft.journal,
                **added,
            )
        )
    return rows_to_frame(lines, source, adds)
