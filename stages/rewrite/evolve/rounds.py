"""The rounds of an evolution: rewrite, eliminate, answer, eliminate."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from stages._llm.drafts import (
    Draft,
    GenerateField,
    Prompt,
    RowMessages,
    ScoreField,
    filter_drafts,
)
from stages._llm.preambles import instruction_text
from stages._llm.rows import continued, has_tools, license_of, task_messages
from stages.rewrite.evolve import lift, m2lingual, operators, rubric, smaller, turns
from stages.rewrite.evolve.checks import Method, answers
from stages.rewrite.evolve.contrast import goes_on, keep_gaps
from stages.rewrite.evolve.elimination import (
    drop_echoes,
    drop_leaks,
    drop_refusals,
    drop_without_gain,
)
from stages.rewrite.evolve.lift import Lift
from stages.rewrite.evolve.m2lingual import M2Lingual
from stages.rewrite.evolve.operators import WizardLM
from stages.rewrite.evolve.rubric import Rubric
from stages.rewrite.evolve.smaller import SmallerEvolvers
from stages.rewrite.evolve.turns import Turns


@dataclass(frozen=True)
class Evolution:
    """The rounds of a method.

    Attributes:
        method: The method with its options.
        write: `generate_field` with the engine that rewrites and compares.
        answer: `generate_field` with the engine that answers.
        contrast: `generate_field` with the target and `score_field` with the judge.
        seed: Seed of the choice of operators.
        judge_max_tokens: Limit of a comparison or a grade in tokens.
        keep_reasoning: Whether answers get the reasoning before them.
    """

    method: Method
    write: GenerateField
    answer: GenerateField
    contrast: tuple[GenerateField, ScoreField] | None
    seed: int
    judge_max_tokens: int
    keep_reasoning: bool

    def begin(self, rows: pl.DataFrame) -> list[Draft]:
        """A draft for each row with all that the rounds need; those that are none are rejected.

        Args:
            rows: Records.
        """
        drafts = _first_drafts(rows)
        method = self.method
        if isinstance(method, Rubric) and method.metadata:
            rubric.metadata_of(drafts, rows[method.metadata].to_list())
            rubric.write_metadata_actions(self.write, drafts, method)
        if isinstance(method, Turns):
            filter_drafts(drafts, turns.without_answer)
        if isinstance(method, M2Lingual):
            m2lingual.set_facts(drafts, rows, method)
        if isinstance(method, SmallerEvolvers) and method.input == "regenerate":
            smaller.part_inputs(drafts)
        active = sorted((draft for draft in drafts if draft.active), key=lambda d: d.parents)
        for index, draft in enumerate(active):
            draft.fields["index"] = index
        return drafts

    def round(self, drafts: Sequence[Draft], number: int) -> list[Draft]:
        """The drafts after one round: rewrite, eliminate, answer, eliminate.

        Args:
            drafts: The instructions before it.
            number: Of the round, from 1.
        """
        evolved = [self._begin(draft, number) for draft in drafts]
        if isinstance(self.method, Rubric):
            rubric.write_actions(self.write, evolved, self.method, self.seed)
        prompts = {id(draft): self._prompt(draft) for draft in evolved if draft.active}
        self.write(evolved, "evolved", lambda d: prompts[id(d)], parse=instruction_text)
        for draft in evolved:
            if draft.active:
                draft.fields["instruction"] = draft["evolved"]
        if isinstance(self.method, SmallerEvolvers):
            drop_echoes(evolved, lambda d: prompts[id(d)])
            smaller.write_inputs(self.write, evolved)
        for draft in evolved:
            if draft.active:
                draft.fields |= self._rewritten(draft)
        if self.method.eliminate:
            self._eliminate(evolved, lambda d: prompts[id(d)])
        if answers(self.method):
            self._answer(evolved)
        return evolved

    def _eliminate(self, evolved: Sequence[Draft], prompt: Callable[[Draft], Prompt]) -> None:
        """Drop instructions that are none, are in another language or request no more."""
        method = self.method
        drop_echoes(evolved, prompt)
        drop_leaks(evolved)
        if isinstance(method, M2Lingual):
            language: Callable[[Draft], str | None] = lambda draft: draft["language"]  # noqa: E731
            m2lingual.drop_other_languages(evolved, language, method.min_language_probability)
        if isinstance(method, Turns):
            filter_drafts(evolved, turns.said_before)
            m2lingual.drop_other_languages(evolved, turns.language, method.min_language_probability)
            return  # a further turn is always something new
        drop_without_gain(self.write, evolved, self.judge_max_tokens)

    def _answer(self, evolved: Sequence[Draft]) -> None:
        self.answer(evolved, "response", lambda d: tuple(d["turns"]))
        if self.method.eliminate:
            drop_refusals(evolved)
        if self.contrast and isinstance(self.method, Rubric):
            keep_gaps(*self.contrast, evolved, self.method.min_gap)
        for draft in evolved:
            if draft.active:
                self._append_answer(draft)

    def next(self, before: Sequence[Draft], after: Sequence[Draft]) -> list[Draft]:
        """What the next round begins with: the evolved drafts, in the place of failed ones the old.

        With a target, one that was kept is done, and one that shows no gap goes on.

        Args:
            before: What the round began with.
            after: What came of it.
        """
        pairs = [*zip(before, after, strict=True)]
        if self.contrast is None:
            return [new if new.active else old for old, new in pairs]
        going = [(old, new, goes_on(new)) for old, new in pairs]
        return [new if goes else old for old, new, goes in going if goes or not new.active]

    def _append_answer(self, draft: Draft) -> None:
        """The answer as the last turn, with the reasoning before it where that is kept."""
        reasoning = draft.reasoning["response"] if self.keep_reasoning else ""
        if reasoning:
            draft.fields["reasoned"] = {**draft["reasoned"], len(draft["turns"]): reasoning}
        draft.fields["turns"] = [*draft["turns"], ("assistant", draft["response"])]

    def _begin(self, draft: Draft, number: int) -> Draft:
        """A draft for one round of a row, with its operator drawn."""
        rng = random.Random(f"{self.seed} evolve {draft.parents} {number}")
        match self.method:
            case Rubric():
                name: str = "rubric"
            case SmallerEvolvers() as method:
                name = smaller.operator(method, draft, number)
            case M2Lingual():
                name = rng.choice(m2lingual.evolutions(draft["task"]))
            case method:
                name = rng.choice(method.operators)
        new = draft.child(
            round=number,
            operator=name,
            draw=rng.random(),
            operators=[*draft["operators"], name],
            evolved_from=draft["instruction"],
            quality_gap=None,
        )
        new.number = number
        return new

    def _prompt(self, draft: Draft) -> Prompt:
        match self.method:
            case Rubric():
                return rubric.prompt(draft)
            case Turns():
                return turns.prompt(draft)
            case M2Lingual():
                return m2lingual.prompt(draft)
            case Lift():
                return lift.prompt(draft)
            case WizardLM(data_formats=formats):
                return operators.prompt(draft, formats)
            case _:
                return operators.prompt(draft)

    def _rewritten(self, draft: Draft) -> dict[str, Any]:
        """The new instruction in place of the old one, or as a turn after it."""
        if isinstance(self.method, Turns):
            return {"turns": [*draft["turns"], ("user", draft["instruction"])]}
        system = [turn for turn in draft["turns"] if turn[0] == "system"]
        [new], start = task_messages(draft["instruction"], draft["input"])
        turn = ("user", new["content"])
        return {"turns": [*system, turn], "reasoned": {}, "input_start": start}


def _first_drafts(rows: pl.DataFrame) -> list[Draft]:
    """A draft for each row, with its turns and its instruction, the first turn of the user."""
    drafts = []
    columns = rows.select("id", "messages", "tools", "origins", "input_start")
    for id_, messages, tools, origins, start in columns.iter_rows():
        conversation = [(m["role"], m["content"] or "") for m in messages or ()]
        instruction = next((text for role, text in conversation if role == "user"), "")
        fields = {"turns": conversation, "instruction": instruction, "operators": []}
        fields |= {"originals": messages or [], "reasoned": {}, "input": "", "input_start": start}
        draft = Draft((id_,), fields, license_of(origins))
        if not instruction.strip():
            draft.reject("no_instruction")
        elif has_tools(messages, tools):
            draft.reject("has_tools")
        drafts.append(draft)
    return drafts


def messages_of(draft: Draft) -> RowMessages:
    """The conversation of a draft.

    Args:
        draft: One of a round.
    """
    messages = continued(draft["turns"], draft["originals"])
    for position, reasoning in draft["reasoned"].items():
        messages[position]["reasoning"] = reasoning
    return messages, draft["input_start"]
