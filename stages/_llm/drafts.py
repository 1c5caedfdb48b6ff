"""Drafts: rows under construction, which language models fill in step by step.

A method that generates rows is a short list of steps over a list of drafts:
`generate_field` sends one request for every active draft and stores what was parsed from
the completion in a field of it, `score_field` stores a score, `expand` makes several
drafts of one, `filter_drafts` applies a filter, and `to_frame` makes the rows. All drafts
take a step together, so that the engine receives one long list of requests.

Nothing is lost in silence. A request that failed for good makes its draft *failed*; a
completion that was cut, or that the parser cannot read however often it is sampled, makes
it *dropped*, with the end of the completion as evidence. Reasoning is no part of a
completion's text; where it did not come to an answer, its draft is `reasoning_unclosed`. Where
a model's fallback answered, `extra` says so: `{"fallback": {FIELD: MODEL}}`.

Example:
    A method with two requests per document, as a stage calls it:

        drafts = [Draft((id,), {"passage": text}, license) for id, text, license in documents]
        generate = partial(generate_field, ctx.open(model), decoding=decoding, seed=seed)
        generate(
            *(drafts, "questions"),
            lambda d: user(PROMPTS.render("questions", passage=d["passage"])),
            parse=listed_items,
        )
        drafts = expand(drafts, lambda d: [{"instruction": q} for q in d["questions"]])
        generate(drafts, "response", lambda d: user(d["instruction"]))
        return to_frame(drafts, messages_of, source, ADDS)

    A draft without its last field is dropped as `response_cut` or `response_unparsed`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import polars as pl

from pipeline.models.ask import ask
from pipeline.models.base import Decoding, Engine, LanguageModel, Request
from pipeline.models.counting import is_counting
from pipeline.models.structured_output import Unreadable
from schemas.records import Message
from stages._llm.label_scores import MIN_MASS, TOP_LOGPROBS, YES, ask_labels, warn_of_written_labels
from stages._llm.preambles import without_preamble
from stages._llm.rows import Rejection, Row, make_row, rows_to_frame

Prompt = str | tuple[tuple[str, str], ...]
"""A text to continue, or the turns of a chat as (role, content)."""

RowMessages = tuple[list[Message], int | None]
"""The messages of a row, and the offset of its input (see `rows.task_messages`)."""

GenerateField = Callable[..., None]
"""`generate_field` with the engine, the decoding and the seed filled in.

It is called with the drafts, the name of the field, the function that renders the prompt,
and with `parse`, `decoding` or `keep_cut` where they differ.
"""

ScoreField = Callable[..., None]
"""`score_field` with the engine and what it is asked with filled in."""

LABEL_TOKENS: Final = 8
"""Limit in tokens of the label that `score_field` requests."""

_EVIDENCE_CHARACTERS: Final = 200
"""How much of the end of an unreadable completion is kept as evidence."""


@dataclasses.dataclass
class Draft:
    """One row under construction. It is active until it is rejected or has failed.

    Attributes:
        parents: Ids of the records or documents that it is made from.
        fields: Values from which prompts and the row are made, by name.
        license: The license of the row; see `rows.license_of`.
        number: Distinguishes drafts with equal prompts: the sample number of their requests.
        notes: What the row's column `extra` will hold.
        journal: The keys of all completions that it was parsed from.
        reasoning: What the model reasoned before each field, where it did.
        rejection: Why it is dropped.
        error: Why it has failed.

    Example:
        >>> draft = Draft(("d1",), {"passage": "Whales breathe air."}, "MIT")
        >>> first, second = expand([draft], lambda d: [{"kind": "fact"}, {"kind": "opinion"}])
        >>> second["passage"], second["kind"]
        ('Whales breathe air.', 'opinion')
        >>> second.reject("too_short", words=3)
        >>> first.active, second.active, second.rejection
        (True, False, ('too_short', {'words': 3}))
    """

    parents: tuple[str, ...]
    fields: dict[str, Any]
    license: str | None = None
    number: int = 0
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    journal: list[str] = dataclasses.field(default_factory=list)
    reasoning: dict[str, str] = dataclasses.field(default_factory=dict)
    rejection: Rejection | None = None
    error: str | None = None

    @property
    def active(self) -> bool:
        """Whether it has been neither rejected nor failed."""
        return self.rejection is None and self.error is None

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def reject(self, reason: str, **evidence: Any) -> None:
        """Drop the draft for a reason."""
        self.rejection = reason, evidence

    def child(self, **fields: Any) -> Draft:
        """An active copy with some fields added or replaced."""
        return Draft(
            *(self.parents, self.fields | fields, self.license, self.number),
            notes=dict(self.notes),
            journal=list(self.journal),
            reasoning=dict(self.reasoning),
        )


def yes_or_no(max_tokens: int) -> Decoding:
    """Decoding of a question with the answers yes and no.

    Args:
        max_tokens: Limit of the answer in tokens.
    """
    return Decoding(max_tokens=max_tokens, choice=("yes", "no"))


def user(text: str, system: str | None = None) -> Prompt:
    """A chat prompt of one user turn, after a system turn where `system` is not None."""
    turns = (("user", text),)
    return turns if system is None else (("system", system), *turns)


def answer_text(text: str) -> str | None:
    """The default parser: the text without a preamble or white space, None if it is empty."""
    return without_preamble(text) or None


def generate_field(
    engine: Engine,
    drafts: Sequence[Draft],
    field: str,
    prompt_of: Callable[[Draft], Prompt],
    decoding: Decoding,
    *,
    seed: int = 0,
    parse: Callable[[Any], Any] | None = None,
    keep_cut: bool = False,
    retry_max_tokens: Sequence[int] = (),
    role: Literal["assistant", "user"] = "assistant",
) -> None:
    """Send one request for every active draft and store the parsed completion in a field.

    Args:
        engine: Where the requests are sent, all at once.
        drafts: Changed in place; only the active ones are requested.
        field: Name of the field. A completion that ended on its length drops its draft as
            `<field>_cut` (unless `keep_cut`), one of which `parse` returns None, also when it
            is sampled anew, as `<field>_unparsed`.
        prompt_of: From a draft to its prompt.
        decoding: Sampling parameters of the requests. Where it names choices or a JSON
            schema, an answer of another form is requested once more and then sampled anew;
            what stays unreadable drops its draft as `unreadable`.
        seed: Sampling seed of the requests.
        parse: A pure function of the completion's text (of the choice or the JSON value,
            where the decoding names them), by default `answer_text`. None means unreadable.
        keep_cut: Parse completions that ended on their length too.
        retry_max_tokens: Increasing limits with which cut completions are requested again.
        role: Whose turn is written; see `Request`.
    """
    structured = bool(decoding.choice) or decoding.json_schema is not None
    parse = parse or (_identity if structured else answer_text)
    active = [draft for draft in drafts if draft.active]
    requests = [
        Request(prompt_of(draft), decoding, seed, draft.number, role=role) for draft in active
    ]
    answers = ask(
        engine,
        requests,
        parse=None if structured else _readable(parse),
        retry_max_tokens=retry_max_tokens,
        repair=structured,
    )
    for draft, answer in zip(active, answers, strict=True):
        completion = answer.completion
        draft.journal += answer.journal
        draft.error = answer.error
        draft.reasoning[field] = completion.reasoning
        _note_fallback(draft, field, answer.fallback)
        if answer.rejection and (structured or answer.rejection[0] != "unreadable"):
            draft.rejection = answer.rejection
        if not draft.active:
            continue
        if completion.finish_reason == "length" and not keep_cut and not structured:
            draft.reject(f"{field}_cut", tokens=completion.completion_tokens)
            continue
        draft.fields[field] = parse(answer.value) if structured else answer.value
        if draft.fields[field] is None:
            end = completion.text[-_EVIDENCE_CHARACTERS:]
            draft.reject(f"{field}_unparsed", response_end=end)


def _note_fallback(draft: Draft, field: str, name: str | None) -> None:
    """Note in the draft whose answer the field is, where it is not the model's own."""
    others = {k: v for k, v in draft.notes.get("fallback", {}).items() if k != field}
    others |= {} if name is None else {field: name}
    draft.notes.pop("fallback", None)
    if others:
        draft.notes["fallback"] = others


def _readable(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser that raises `Unreadable` where this one returns None."""

    def readable(text: str) -> Any:
        value = parse(text)
        if value is None:
            raise Unreadable("the answer must have the form that was asked for")
        return value

    return readable


def score_field(
    engine: Engine,
    drafts: Sequence[Draft],
    field: str,
    prompt_of: Callable[[Draft], Prompt],
    labels: Mapping[str, float] = YES,
    *,
    seed: int = 0,
    min_mass: float = MIN_MASS,
    max_tokens: int = LABEL_TOKENS,
) -> None:
    """Have every active draft judged by one of several labels and store the expected value.

    See `label_scores.ask_labels`; without probabilities, the value of the label that was
    written, with a warning. An answer that is not a label drops its draft as `unreadable`.

    Args:
        engine: Where the requests are sent, all at once.
        drafts: Changed in place; only the active ones are judged.
        field: Name of the field that receives the score.
        prompt_of: From a draft to its prompt.
        labels: The possible answers with their values.
        seed: Sampling seed of the requests.
        min_mass: The least probability of all labels together.
        max_tokens: Limit of the answer in tokens.
    """
    active = [draft for draft in drafts if draft.active]
    decoding = Decoding(max_tokens=max_tokens, choice=tuple(labels), logprobs=TOP_LOGPROBS)
    requests = [Request(prompt_of(draft), decoding, seed, draft.number) for draft in active]
    written = 0
    answers = ask_labels(engine, requests, labels, min_mass=min_mass)
    for draft, answer in zip(active, answers, strict=True):
        draft.journal += answer.journal
        draft.error, draft.rejection = answer.error, answer.rejection
        _note_fallback(draft, field, answer.fallback)
        if draft.active:
            written += not answer.from_logprobs
            draft.fields[field] = answer.value
    warn_of_written_labels(field, written, len(active))


def _identity(value: Any) -> Any:
    return value


def model_names(models: Sequence[LanguageModel]) -> list[str]:
    """A distinct name for each model: that of its weights, numbered where it occurs again.

    Example:
        >>> model_names([LanguageModel(model="m/a"), LanguageModel(model="n/a")])
        ['a', 'a#2']
    """
    counts: Counter[str] = Counter()
    names = []
    for model in models:
        name = model.short_name
        counts[name] += 1
        names.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
    return names


def expand(
    drafts: Sequence[Draft], fields_of: Callable[[Draft], Sequence[Mapping[str, Any]]]
) -> list[Draft]:
    """Replace each active draft by one child for each mapping of fields; keep all others.

    A draft for which `fields_of` returns nothing is dropped as `nothing_parsed`.
    """
    expanded = []
    for draft in drafts:
        children = fields_of(draft) if draft.active else []
        if draft.active and not children:
            draft.reject("nothing_parsed")
        expanded += [draft.child(**fields) for fields in children] or [draft]
    return expanded


def filter_drafts(
    drafts: Sequence[Draft], rejection_of: Callable[[Draft], Rejection | None]
) -> None:
    """Drop every active draft for which `rejection_of` returns a reason.

    While requests are only counted, all drafts pass: samples say nothing about real answers.
    """
    for draft in [] if is_counting() else drafts:
        if draft.active:
            draft.rejection = rejection_of(draft)


def to_frame(
    drafts: Sequence[Draft],
    messages_of: Callable[[Draft], RowMessages],
    source: str,
    adds: Mapping[str, Any],
    license: str | None = None,
    keep_reasoning: str | None = None,
) -> pl.DataFrame:
    """The table that a generating stage returns: one row per draft, kept, dropped or failed.

    Args:
        drafts: In the order of the rows.
        messages_of: The messages of a draft, as far as they were written: fields may be
            missing where the draft is not active.
        source: The source of every row.
        adds: The stage's own columns with their polars types. Each is read from the field
            of its name, `journal` from the draft itself.
        license: The license of rows whose draft has none.
        keep_reasoning: The field whose reasoning becomes that of the last turn of the
            assistant; None to leave it out.
    """
    rows = draft_rows(drafts, messages_of, adds, license, keep_reasoning)
    return rows_to_frame(rows, source, adds)


def draft_rows(
    drafts: Sequence[Draft],
    messages_of: Callable[[Draft], RowMessages],
    adds: Mapping[str, Any],
    license: str | None = None,
    keep_reasoning: str | None = None,
) -> list[Row]:
    """One row for each draft, kept, dropped or failed, as `rows_to_frame` takes them.

    Args:
        drafts: In the order of the rows.
        messages_of: As of `to_frame`, as the other arguments.
        adds: The stage's own columns.
        license: The license of rows whose draft has none.
        keep_reasoning: The field whose reasoning becomes that of the last answer.
    """
    rows = []
    for draft in drafts:
        messages, input_start = messages_of(draft)
        reasoning = draft.reasoning.get(keep_reasoning or "")
        if reasoning and messages and messages[-1]["role"] == "assistant":
            messages = [*messages[:-1], {**messages[-1], "reasoning": reasoning}]
        added: dict[str, Any] = {name: draft.fields.get(name) for name in adds if name != "journal"}
        rows.append(
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
    return rows
