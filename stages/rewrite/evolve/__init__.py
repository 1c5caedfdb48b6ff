"""Instructions made harder or rarer in rounds, without the evolutions that failed.

- `wizardlm`, `wizardlm-code`, `wizardcoder`: Evol-Instruct's operators (see `operators.py`).
- `rubric`: CodecLM's Self-Rubrics (see `rubric.py`).
- `turns`: conversations grow by a turn each round (see `turns.py`).

What fails is dropped (see `elimination.py`), and its instruction goes into the next round
as it was. Small models evolve well (Hua et al. 2024, arXiv:2412.11231); `score.loss` has the
IFD by which they choose the result.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from stages._llm.drafts import Draft, GenerateField, Prompt, RowMessages, generate_field, to_frame
from stages._llm.preambles import instruction_text
from stages._llm.rows import continued, has_tools, license_of
from stages.rewrite.evolve import operators, rubric, turns
from stages.rewrite.evolve.elimination import (
    MAX_TOKENS,
    drop_leaks,
    drop_refusals,
    drop_without_gain,
)
from stages.rewrite.evolve.operators import WizardCoder, WizardLM, WizardLMCode
from stages.rewrite.evolve.rubric import Rubric
from stages.rewrite.evolve.turns import Turns

ADDS: Final = {
    "journal": pl.List(pl.String),
    "round": pl.Int32,
    "operators": pl.List(pl.String),
    "evolved_from": pl.String,
}

Method = Annotated[
    WizardLM | WizardLMCode | WizardCoder | Rubric | Turns, Field(discriminator="name")
]


def _check(options: SimpleNamespace) -> None:
    if options.answerer is not None and not _answers(options.method):
        raise OptionError(
            *("answerer", "must be left out where nothing is answered"),
            why="write_answers is false",
            hint="leave answerer out, or write_answers: true in the method",
        )
    if options.keep_reasoning and not _answers(options.method):
        raise OptionError(
            *("keep_reasoning", "must be left out where nothing is answered"),
            why="write_answers is false",
            hint="write_answers: true in the method",
        )
    compares = options.method.eliminate and not isinstance(options.method, Turns)
    if not compares and options.judge_max_tokens != MAX_TOKENS:
        raise OptionError(
            *("judge_max_tokens", f"must be left out, got {options.judge_max_tokens}"),
            why="no instruction is compared with the one before",
        )


def _answers(method: Method) -> bool:
    # A conversation cannot go on without answers.
    return isinstance(method, Turns) or method.write_answers


@stage(
    version=4,
    scope="set",
    reads=["messages", "tools", "origins"],
    adds=ADDS,
    check=_check,
    later=("judge_max_tokens", "keep_reasoning"),
)
def evolve(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    answerer: LanguageModel | None = None,
    method: Method = WizardLM(),
    rounds: Count = 4,
    seed: int = 0,
    temperature: NonNegativeFloat = 1.0,
    top_p: Fraction = 0.95,
    max_tokens: Count = 2048,
    judge_max_tokens: Count = MAX_TOKENS,
    keep_reasoning: bool = False,
    source: str = "evolve",
) -> Records:
    """New records: one for each row and round, evolved or dropped with a reason.

    The rows themselves are not among them: `load.concat` puts both together, as the
    paper does. Adds `journal`, `round` (from 1), `operators` (all that led here, in
    order) and `evolved_from`: the instruction before this round. `parents` is the row
    that it began with, whose license stays.

    Args:
        rows: Conversations; the first turn of the user is the instruction.
        model: Rewrites and compares.
        answerer: Answers; by default the same model.
        method: wizardlm, wizardlm-code, wizardcoder, rubric or turns, each with its own
            options.
        rounds: How often each row is evolved; WizardLM's number.
        seed: Seed of the sampling and of the choice of operators.
        temperature: Of instructions and answers; comparisons are greedy.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of an instruction or an answer in tokens.
        judge_max_tokens: Limit of a comparison in tokens.
        keep_reasoning: Whether what the model reasoned before its answers becomes their
            `reasoning`.
        source: Name of the new records' source.

    Returns:
        The new records. Rows are dropped as `no_gain`, `prompt_leaked`, `refusal`,
        `no_content`, `no_instruction`, `has_tools` (the model would not have them), and for
        answers that were cut or unreadable as `evolved_cut`, `evolved_unparsed`,
        `actions_cut`, `actions_unparsed`, `response_cut`, `response_unparsed`, for comparisons
        as `unreadable`. What is dropped is tried again in the next round with another operator.

    Example:
        ```yaml
        evolved:
          uses: rewrite.evolve
          needs: pool
          with: {model: writer, method: {name: wizardcoder, eliminate: false}, rounds: 3}
        ```
    """
    engine = ctx.open(model)
    decoding = Decoding(max_tokens, temperature, top_p)
    write = partial(generate_field, engine, decoding=decoding, seed=seed)
    answering = ctx.open(answerer) if answerer else engine
    answer = partial(generate_field, answering, decoding=decoding, seed=seed)
    evolution = _Evolution(method, write, answer, seed, judge_max_tokens, keep_reasoning)
    current = _first_drafts(rows)
    drafts = [draft for draft in current if not draft.active]
    current = [draft for draft in current if draft.active]
    for number in range(1, rounds + 1):
        evolved = evolution.round(current, number)
        drafts += evolved
        current = [new if new.active else old for new, old in zip(evolved, current, strict=True)]
        ctx.progress(number, rounds)
    return to_frame(drafts, _messages, source, ADDS)


@dataclass(frozen=True)
class _Evolution:
    """The rounds of a method.

    Attributes:
        method: The method with its options.
        write: `generate_field` with the engine that rewrites and compares.
        answer: `generate_field` with the engine that answers.
        seed: Seed of the choice of operators.
        judge_max_tokens: Limit of a comparison in tokens.
        keep_reasoning: Whether answers get the reasoning before them.
    """

    method: Method
    write: GenerateField
    answer: GenerateField
    seed: int
    judge_max_tokens: int
    keep_reasoning: bool

    def round(self, drafts: Sequence[Draft], number: int) -> list[Draft]:
        """The drafts after one round: rewrite, eliminate, answer, eliminate."""
        evolved = [self._begin(draft, number) for draft in drafts]
        if isinstance(self.method, Rubric):
            rubric.write_actions(self.write, evolved)
        self.write(evolved, "evolved", self._prompt, parse=instruction_text)
        for draft in evolved:
            if draft.active:
                draft.fields |= self._rewritten(draft)
        if self.method.eliminate:
            drop_leaks(evolved)
            # A further turn is always something new.
            if not isinstance(self.method, Turns):
                drop_without_gain(self.write, evolved, self.judge_max_tokens)
        if _answers(self.method):
            self.answer(evolved, "response", lambda d: tuple(d["turns"]))
            if self.method.eliminate:
                drop_refusals(evolved)
            for draft in evolved:
                if draft.active:
                    self._append_answer(draft)
        return evolved

    def _append_answer(self, draft: Draft) -> None:
        """The answer as the last turn, with the reasoning before it where that is kept."""
        reasoning = draft.reasoning["response"] if self.keep_reasoning else ""
        if reasoning:
            draft.fields["reasoned"] = {**draft["reasoned"], len(draft["turns"]): reasoning}
        draft.fields["turns"] = [*draft["turns"], ("assistant", draft["response"])]

    def _begin(self, draft: Draft, number: int) -> Draft:
        """A draft for one round of a row, with its operator drawn."""
        rng = random.Random(f"{self.seed} evolve {draft.parents} {number}")
        method = self.method
        name = "rubric" if isinstance(method, Rubric) else rng.choice(method.operators)
        new = draft.child(
            round=number,
            operator=name,
            draw=rng.random(),
            operators=[*draft["operators"], name],
            evolved_from=draft["instruction"],
        )
        new.number = number
        return new

    def _prompt(self, draft: Draft) -> Prompt:
        match self.method:
            case Rubric():
                return rubric.prompt(draft)
            case Turns():
                return turns.prompt(draft)
            case WizardLM(data_formats=formats):
                return operators.prompt(draft, formats)
            case _:
                return operators.prompt(draft)

    def _rewritten(self, draft: Draft) -> dict[str, Any]:
        """The new instruction in place of the old one, or as a turn after it."""
        new = ("user", draft["evolved"])
        if isinstance(self.method, Turns):
            return {"instruction": draft["evolved"], "turns": [*draft["turns"], new]}
        system = [turn for turn in draft["turns"] if turn[0] == "system"]
        return {"instruction": draft["evolved"], "turns": [*system, new], "reasoned": {}}


def _first_drafts(rows: pl.DataFrame) -> list[Draft]:
    """A draft for each row, with its turns and its instruction, the first turn of the user."""
    drafts = []
    columns = rows.select("id", "messages", "tools", "origins")
    for id_, messages, tools, origins in columns.iter_rows():
        conversation = [(m["role"], m["content"] or "") for m in messages or ()]
        instruction = next((text for role, text in conversation if role == "user"), "")
        fields = {"turns": conversation, "instruction": instruction, "operators": []}
        fields |= {"originals": messages or [], "reasoned": {}}
        draft = Draft((id_,), fields, license_of(origins))
        if not instruction.strip():
            draft.reject("no_instruction")
        elif has_tools(messages, tools):
            draft.reject("has_tools")
        drafts.append(draft)
    return drafts


def _messages(draft: Draft) -> RowMessages:
    messages = continued(draft["turns"], draft["originals"])
    for position, reasoning in draft["reasoned"].items():
        messages[position]["reasoning"] = reasoning
    return messages, None
