"""Instructions made harder or rarer in rounds, with what does not work thrown away.

- `wizardlm`: Evol-Instruct (Xu et al. 2023, arXiv:2304.12244). Each round draws one of
  six operators, five in depth and one in breadth, rewrites the instruction, and has
  it answered. Evolution fails if nothing was gained (the model compares the two), if
  the answer is short and sorry or holds stop words only, or if words of the prompt
  leaked into the instruction; the old instruction then goes into the next round.
- `wizardlm-code`: the released script: one of five operators, no elimination. With
  rounds: 1 it is that script whole.
- `wizardcoder`: five operators for programming tasks (Luo et al. 2023,
  arXiv:2306.08568).
- `rubric`: CodecLM's Self-Rubrics (Wang et al. 2024, arXiv:2404.05875). The model names
  criteria of difficulty for this instruction and how to raise each; one is applied.
- `turns`: conversations grow by a turn of the user and its answer each round, as in
  M2Lingual (Maheshwary et al. 2024, arXiv:2406.16783).

Small models evolve well (Hua et al. 2024, arXiv:2412.11231); `score.loss` has the IFD
by which they are then chosen.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Records, stage
from schemas.records import Message
from stages._common.unused_options import refuse_idle
from stages._llm.drafts import (
    Draft,
    GenerateField,
    RowMessages,
    filter_drafts,
    generate_field,
    to_frame,
    user,
)
from stages._llm.prompts import Prompts
from stages.rewrite._operators import OPERATORS, TURNS, leaked, refused

PROMPTS: Final = Prompts(__file__)

Method = Literal["wizardlm", "wizardlm-code", "wizardcoder", "rubric", "turns"]

ADDS: Final = {
    "journal": pl.List(pl.String),
    "round": pl.Int32,
    "operators": pl.List(pl.String),
    "evolved_from": pl.String,
}
_ACTION: Final = re.compile(r"^[ \t]*(?:\d+[ \t]?[.)]|[-*•])[ \t]+(\S.*)$", re.MULTILINE)
_COMPARED: Final = Decoding(max_tokens=4, choice=("equal", "different"))


def _check(options: SimpleNamespace) -> None:
    if options.rounds < 1:
        raise UserError(f"rounds is {options.rounds}", hint="rounds: 4, as in the paper")
    if options.method == "turns" and not options.answer:
        raise UserError("a conversation does not go on without answers", hint="answer: true")
    known = TURNS if options.method == "turns" else OPERATORS.get(options.method, ())
    every = {*known, *(name for names in OPERATORS.values() for name in names)}
    wrong = sorted(set(options.operators) - (set(known) if options.method == "turns" else every))
    if wrong:
        raise UserError(
            f"operators: there is none called {', '.join(wrong)}",
            hint=f"there are: {', '.join(sorted(every))}",
        )
    method = options.method
    refuse_idle(
        *(evolve, options),
        (options.answer, "answer: true", "answerer"),
        (method != "rubric", "the methods that draw operators", "operators"),
    )


def _drawn(method: str, operators: Sequence[str]) -> tuple[str, ...]:
    """The operators that are drawn from: those of the method, if none are named."""
    return tuple(operators or (TURNS if method == "turns" else OPERATORS.get(method, ())))


def _strict(method: str, eliminate: bool | None) -> bool:
    return method != "wizardlm-code" if eliminate is None else eliminate


@stage(
    version=1,
    scope="set",
    reads=["messages", "origins"],
    adds=ADDS,
    check=_check,
)
def evolve(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    answerer: LanguageModel | None = None,
    method: Method = "wizardlm",
    rounds: int = 4,
    operators: tuple[str, ...] = (),
    eliminate: bool | None = None,
    answer: bool = True,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 0.95,
    max_tokens: int = 2048,
    source: str = "evolve",
) -> Records:
    """New records: a line for each row and round, evolved or told why not.

    The rows themselves are not among them: `load.concat` puts both together, as the
    paper does. Adds `journal`, `round` (from 1), `operators` (all that led here, in
    order) and `evolved_from`: the instruction before this round. `parents` is the row
    that it began with, whose licence stays.

    model: rewrites and compares; answerer: answers, by default the same.
    operators: which are drawn from, by default those of the method.
    eliminate: throw away what failed; by default all methods but wizardlm-code do.
    answer: if not, rows end with the user's turn, and only comparison and leaks count.

    Dropped: `no_gain`, `prompt_leaked`, `sorry`, `no_content`, `no_instruction`, and
    answers that were cut or unreadable, by the name of what was to be written. What is
    dropped is tried again in the next round with another operator.
    """
    engine = ctx.open(model)
    writing = Decoding(max_tokens, temperature, top_p)
    ask = partial(generate_field, engine, decoding=writing, seed=seed)
    reply = partial(
        generate_field, ctx.open(answerer) if answerer else engine, decoding=writing, seed=seed
    )
    drawn = _drawn(method, operators)
    way = _Way(method, drawn, _strict(method, eliminate), answer, ask, reply)
    current = _starts(rows)
    lines = [draft for draft in current if not draft.active]
    current = [draft for draft in current if draft.active]
    for number in range(1, rounds + 1):
        tried = [way.begin(draft, number, seed) for draft in current]
        way.evolve(tried)
        lines += tried
        current = [new if new.active else old for new, old in zip(tried, current, strict=True)]
        ctx.progress(number, rounds)
    return to_frame(lines, _talk, source, ADDS)


@dataclass(frozen=True)
class _Way:
    """How one round goes; the fields are options of the stage."""

    method: Method
    operators: Sequence[str]
    eliminate: bool
    answer: bool
    ask: GenerateField
    reply: GenerateField

    def begin(self, draft: Draft, number: int, seed: int) -> Draft:
        """A draft for one round of a row, with its operator drawn."""
        draw = random.Random(f"{seed} evolve {draft.parents} {number}")
        name = draw.choice(self.operators) if self.operators else "rubric"
        new = draft.child(
            round=number,
            operator=name,
            draw=draw.random(),
            operators=[*draft["operators"], name],
            evolved_from=draft["instruction"],
        )
        new.number = number
        return new

    def evolve(self, drafts: Sequence[Draft]) -> None:
        """One round: rewrite, throw away, answer, throw away."""
        if self.method == "rubric":
            self._write_actions(drafts)
        self.ask(drafts, "evolved", self._prompt)
        for draft in drafts:
            if draft.active:
                draft.fields |= self._taken(draft)
        if self.eliminate:
            filter_drafts(drafts, lambda d: leaked(d["instruction"], d["evolved_from"]))
            self._compare(drafts)
        if not self.answer:
            return
        self.reply(drafts, "response", lambda d: tuple(d["turns"]))
        if self.eliminate:
            filter_drafts(drafts, lambda d: refused(d["response"]))
        for draft in drafts:
            if draft.active:
                draft.fields["turns"] = [*draft["turns"], ("assistant", draft["response"])]

    def _write_actions(self, drafts: Sequence[Draft]) -> None:
        """What to change in each instruction so that it becomes harder, and one of it."""

        def asked(draft: Draft) -> Any:
            return user(PROMPTS.render("actions", count=4, instruction=draft["instruction"]))

        self.ask(drafts, "actions", asked, read=lambda text: _ACTION.findall(text) or None)
        for draft in drafts:
            if draft.active:
                actions = draft["actions"]
                draft.fields["action"] = actions[int(draft["draw"] * len(actions))].strip()

    def _prompt(self, draft: Draft) -> Any:
        given = draft["instruction"]
        if self.method == "turns":
            manner = TURNS[draft["operator"]]
            return user(PROMPTS.render("turn", turns=draft["turns"], manner=manner))
        if self.method == "rubric":
            action = draft["action"]
            return user(PROMPTS.render("apply", instruction=given, action=action))
        return user(PROMPTS.render(f"{draft['operator']}", instruction=given))

    def _compare(self, drafts: Sequence[Draft]) -> None:
        """Drop what asks no more than before. A turn that goes on is always new."""

        def asked(draft: Draft) -> Any:
            given, evolved = draft["evolved_from"], draft["instruction"]
            return user(PROMPTS.render("equal", given=given, evolved=evolved))

        compared = [d for d in drafts if self.method != "turns"]
        self.ask(compared, "gain", asked, decoding=_COMPARED)
        filter_drafts(compared, lambda d: ("no_gain", {}) if d["gain"] == "equal" else None)

    def _taken(self, draft: Draft) -> dict[str, Any]:
        """The new instruction in the place of the old one, or as a turn after it."""
        system = [turn for turn in draft["turns"] if turn[0] == "system"]
        before = draft["turns"] if self.method == "turns" else system
        return {"instruction": draft["evolved"], "turns": [*before, ("user", draft["evolved"])]}


def _starts(rows: pl.DataFrame) -> list[Draft]:
    """Each row as what it says so far, and its instruction: the first turn of the user."""
    drafts = []
    for id_, messages, origins in rows.select("id", "messages", "origins").iter_rows():
        license = next((origin["license"] for origin in origins or ()), None)
        turns = [(m["role"], m["content"] or "") for m in messages or ()]
        instruction = next((text for role, text in turns if role == "user"), "")
        fields = {"turns": turns, "instruction": instruction, "operators": []}
        draft = Draft((id_,), fields, license)
        if not instruction.strip():
            draft.reject("no_instruction")
        drafts.append(draft)
    return drafts


def _talk(draft: Draft) -> RowMessages:
    messages: list[Message] = [{"role": role, "content": text} for role, text in draft["turns"]]
    return messages, None
