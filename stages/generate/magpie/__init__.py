"""Magpie (Xu et al. 2024, arXiv:2406.08464): a chat model writes what its users would say.

Left where a user's words begin in its chat template, a model writes the instructions that it was
aligned with; then it answers them. Nothing is shown to it, and there are no seeds.

- As in the paper: the prompt is the template up to the user's words (the pre-query template);
  instructions are sampled at a temperature of 1 with all tokens, answers are greedy; a system
  prompt before it steers what the users are about (`domain`); further turns are written behind the
  conversation so far, which a system prompt announces as one of several rounds.
- As in the authors' code (magpie-align/magpie, MIT): 512 tokens for an instruction and 2,048 for
  an answer; neither system prompt is before the answers, nor in the rows; any control token of
  the template ends an instruction. Their code also ends it at the first line break (`stop: ["\\n"]`
  here), and drops instructions that end with a colon when it selects rows; here they are dropped
  before they are answered.
- Ours: the pre-query text is cut out of the model's own chat template, where the authors have a
  table of models; instructions that were cut, and answers that were, are dropped; the words of the
  system prompts are ours (`prompts:` puts others in their place). A template that takes no system
  prompt (Gemma's) goes without the one for further turns, with a warning.

Magpie's tags are `tag.intent`; its filters are `select.top` and `dedup.semantic`: see the recipe
`magpie`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, Engine, LanguageModel
from pipeline.models.local.chat_template import Unrenderable, chat_text
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from schemas.records import Message
from stages._llm.drafts import (
    Draft,
    Prompt,
    RowMessages,
    filter_drafts,
    generate_field,
    to_frame,
)
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, has_tools, license_of
from stages.generate._user_turn import check_template, users_words

PROMPTS: Final = Prompts(__file__)

ADDS: Final = {"journal": pl.List(pl.String)}

Domain = Literal["math", "code", "translation"]

_EMPTY: Final[Message] = {"role": "user", "content": ""}
"""The turn of a row of which nothing was written."""

_log = logging.getLogger(__name__)


def _check(options: SimpleNamespace) -> None:
    check_template(options.model)
    if options.domain and options.system is not None:
        raise OptionError(
            *("system", "must be left out with a domain, which has a system prompt of its own"),
            hint="leave domain out",
        )
    if options.keep_system and not options.domain and options.system is None:
        raise OptionError(
            *("keep_system", "must be false without a domain or a system prompt, got true"),
            hint="domain: math, or system: TEXT",
        )
    if not options.answer:
        for option, value, plain in (
            ("num_turns", options.num_turns, 1),
            ("keep_reasoning", options.keep_reasoning, False),
        ):
            if value != plain:
                what = f"must be left out with answer: false, got {value}"
                raise OptionError(option, what, why="no turn is answered")


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    if not edges.get("rows"):
        if options.num_rows is None:
            what = "must be given where no rows come in"
            raise OptionError("num_rows", what, hint="num_rows: 1000")
        return ADDS
    for option in ("num_rows", "domain", "system"):
        if getattr(options, option) is not None:
            what = f"must be left out where rows come in, got {getattr(options, option)}"
            raise OptionError(option, what, why="their conversations are continued")
    return ADDS


@stage(
    version=1,
    scope="set",
    reads={"rows": ["messages", "tools", "input_start", "origins"]},
    adds=_adds,
    check=_check,
)
def magpie(
    ctx: Context,
    rows: Records | None = None,
    *,
    model: LanguageModel,
    num_rows: Count | None = None,
    num_turns: Count = 1,
    domain: Domain | None = None,
    system: str | None = None,
    keep_system: bool = False,
    answer: bool = True,
    seed: int = 0,
    temperature: NonNegativeFloat = 1.0,
    top_p: Fraction = 1.0,
    max_tokens: Count = 512,
    stop: tuple[str, ...] = (),
    answer_temperature: NonNegativeFloat = 0.0,
    answer_max_tokens: Count = 2048,
    keep_reasoning: bool = False,
    source: str = "magpie",
    license: str = "unspecified",
) -> Records:
    """New records: conversations whose user's turns a chat model wrote, as its users would.

    The model's chat template must be at hand: weights here (`transformers`, `vllm`), or a
    `tokenizer` for a server with a completions endpoint. Adds `journal`; `parents` is the row that
    was continued.

    Args:
        rows: Conversations to continue, such as the rows that a selection kept of single turns;
            without them new ones are begun.
        model: Writes the user's turns, and answers them.
        num_rows: New conversations, where no rows come in.
        num_turns: The user's turns that are written, each with its answer.
        domain: What the users are about: a shipped system prompt, before the instructions alone.
        system: A system prompt of your own in its place.
        keep_system: Whether that stays in the row, and is before the answers too.
        answer: Whether the turns are answered. Without, another model may do that
            (`generate.respond`), or a selection may come before it.
        seed: Of the sampling.
        temperature: Of the user's turns.
        top_p: Nucleus of their sampling.
        max_tokens: Limit of a user's turn in tokens.
        stop: Texts that end a user's turn, beside what ends it in the template: at the first
            line break with ["\\n"].
        answer_temperature: Of the answers.
        answer_max_tokens: Limit of an answer in tokens.
        keep_reasoning: Whether what the model reasoned before an answer becomes its
            `reasoning`. It is never part of the content.
        source: Name of the new records' source.
        license: License of what the model writes, which only the user can know. A row that was
            continued keeps its own.

    Returns:
        The new records. Rows are dropped as `instruction_cut`, `instruction_unparsed` (empty),
        `ends_with_colon`, `response_cut`, `response_unparsed`, `reasoning_unclosed` and
        `duplicate`, and rows that come in as `no_answer` (they do not end with one) and
        `has_tools`. A conversation of which a later turn is dropped is dropped with all turns.

    Example:
        ```yaml
        sampled:
          uses: generate.magpie
          with: {model: chat, num_rows: 1000, num_turns: 2, domain: math}
        ```
    """
    if rows is None:
        drafts = _new(num_rows or 0, domain, system, keep_system, license)
    else:
        drafts = _begun(rows)
    engine = ctx.open(model)
    follow_up = _follow_up(engine) if rows is not None or num_turns > 1 else None
    write = partial(generate_field, engine, drafts, seed=seed)
    instruct = partial(
        write,
        "instruction",
        partial(_before, follow_up=follow_up),
        Decoding(max_tokens, temperature, top_p, stop=stop),
        parse=users_words,
        role="user",
    )
    respond = partial(
        write,
        "response",
        lambda d: _turns(d["messages"]),
        Decoding(answer_max_tokens, answer_temperature),
    )
    for _ in range(num_turns):
        _write_turn(drafts, instruct)
        if answer:
            _write_answer(drafts, respond, keep_reasoning)
    return to_frame(drafts, _messages, source, ADDS)


def _new(
    number: int, domain: Domain | None, system: str | None, keep_system: bool, license: str
) -> list[Draft]:
    """A draft for each conversation to begin, with the system prompt before its first turn."""
    text = PROMPTS.render(domain) if domain else system
    kept: list[Message] = [{"role": "system", "content": text}] if text and keep_system else []
    drafts = [
        Draft((), {"messages": [*kept], "system": text, "sample": sample}, license)
        for sample in range(number)
    ]
    for draft in drafts:
        draft.notes |= {"domain": domain} if domain else {}
    return drafts


def _begun(rows: pl.DataFrame) -> list[Draft]:
    """A draft for each conversation to continue."""
    drafts = []
    columns = rows.select("id", "messages", "tools", "input_start", "origins")
    for id_, messages, tools, input_start, origins in columns.iter_rows():
        turns = [{k: v for k, v in m.items() if v is not None} for m in messages or ()]
        fields = {"messages": turns, "sample": 0, "input_start": input_start}
        draft = Draft((id_,), fields, license_of(origins))
        last = turns[-1] if turns else {}
        if has_tools(turns, tools):
            draft.reject("has_tools")
        elif last.get("role") != "assistant" or not (last.get("content") or "").strip():
            draft.reject("no_answer")
        drafts.append(draft)
    return drafts


def _follow_up(engine: Engine) -> str | None:
    """The system prompt before the turns after the first; None where the template takes none."""
    text = PROMPTS.render("follow_up")
    turns = [{"role": "system", "content": text}, {"role": "user", "content": "?"}]
    try:
        if text in chat_text(engine.tokenizer, turns):
            return text
    except Unrenderable:
        pass
    _log.warning(
        "magpie: the chat template of %s takes no system prompt: turns after the first are written "
        "without one",
        engine.name,
    )
    return None


def _turns(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"] or "") for message in messages)


def _before(draft: Draft, follow_up: str | None) -> Prompt:
    """What stands before a user's turn: the conversation so far, under its own system prompt."""
    turns = _turns(draft["messages"])
    system = follow_up if turns else draft.fields.get("system")
    if system is None or (turns and turns[0][0] == "system"):
        return turns
    return (("system", system), *turns)


def _write_turn(drafts: Sequence[Draft], instruct: partial[None]) -> None:
    """Add a user's turn to each conversation."""
    for draft in drafts:
        draft.number = draft["sample"]
    instruct()
    filter_drafts(drafts, _announces)
    for draft in drafts:
        if (text := draft.fields.pop("instruction", None)) is not None:
            draft["messages"].append({"role": "user", "content": text})


def _announces(draft: Draft) -> Rejection | None:
    text: str = draft["instruction"]
    evidence = {"instruction_end": text[-80:]}
    return ("ends_with_colon", evidence) if text.endswith((":", "：")) else None


def _write_answer(drafts: Sequence[Draft], respond: partial[None], keep_reasoning: bool) -> None:
    """Answer each conversation; equal ones are one request."""
    for draft in drafts:
        draft.number = 0
    respond()
    for draft in drafts:
        if (text := draft.fields.pop("response", None)) is not None:
            answer: Message = {"role": "assistant", "content": text}
            if keep_reasoning and draft.reasoning.get("response"):
                answer["reasoning"] = draft.reasoning["response"]
            draft["messages"].append(answer)


def _messages(draft: Draft) -> RowMessages:
    return draft["messages"] or [_EMPTY], draft.fields.get("input_start")
