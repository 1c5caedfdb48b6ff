"""Instructions made harder or rarer in rounds, without the evolutions that failed.

- `wizardlm`, `wizardlm-code`, `wizardcoder`: Evol-Instruct's operators (see `operators.py`).
- `rubric`: CodecLM's Self-Rubrics (see `rubric.py`), with `target` also its Contrastive
  Filtering (see `contrast.py`).
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
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from stages._llm.drafts import (
    Draft,
    GenerateField,
    Prompt,
    RowMessages,
    ScoreField,
    generate_field,
    score_field,
    to_frame,
)
from stages._llm.label_scores import MIN_MASS
from stages._llm.preambles import instruction_text
from stages._llm.rows import continued, has_tools, license_of
from stages.rewrite.evolve import operators, rubric, turns
from stages.rewrite.evolve.contrast import goes_on, keep_gaps
from stages.rewrite.evolve.elimination import (
    MAX_TOKENS,
    drop_leaks,
    drop_refusals,
    drop_without_gain,
)
from stages.rewrite.evolve.operators import WizardCoder, WizardLM, WizardLMCode
from stages.rewrite.evolve.rubric import MIN_GAP, Rubric
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
    if not (compares or options.target) and options.judge_max_tokens != MAX_TOKENS:
        raise OptionError(
            *("judge_max_tokens", f"must be left out, got {options.judge_max_tokens}"),
            why="no instruction is compared with the one before",
        )
    _check_contrast(options)


def _check_contrast(options: SimpleNamespace) -> None:
    """Check what Contrastive Filtering needs, and what nothing else uses."""
    method = options.method
    if options.target is not None:
        if not (isinstance(method, Rubric) and method.write_answers):
            raise OptionError(
                *("target", f"must be left out with method: {method.name} as it is"),
                why="only method: rubric with write_answers: true compares two models",
                hint="method: {name: rubric, metadata: attributes}",
            )
        return
    for name, value, default in (
        ("judge", options.judge and options.judge.short_name, None),
        ("min_mass", options.min_mass, MIN_MASS),
        ("method.min_gap", getattr(method, "min_gap", MIN_GAP), MIN_GAP),
    ):
        if value != default:
            raise OptionError(
                *(name, f"must be left out without target, got {value}"),
                why="no answers are compared",
                hint="target: NAME, the model that will be tuned",
            )


def _answers(method: Method) -> bool:
    # A conversation cannot go on without answers.
    return isinstance(method, Turns) or method.write_answers


def _reads(options: SimpleNamespace) -> list[str]:
    metadata = getattr(options.method, "metadata", None)
    return ["messages", "tools", "origins", *([metadata] if metadata else [])]


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    metadata = getattr(options.method, "metadata", None)
    (columns,) = edges["rows"]
    if metadata and columns.get(metadata) != pl.List(pl.String):
        raise OptionError(
            *("method.metadata", f"must name a column of lists of texts, got {metadata!r}"),
            hint="metadata: attributes, the column of generate.taxonomy with method: metadata",
        )
    return _columns(with_gap=options.target is not None)


def _columns(*, with_gap: bool) -> dict[str, Any]:
    return {**ADDS, **({"quality_gap": pl.Float64} if with_gap else {})}


@stage(
    version=4,
    scope="set",
    reads=_reads,
    adds=_adds,
    check=_check,
    later=("judge_max_tokens", "keep_reasoning", "target", "judge", "min_mass"),
)
def evolve(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    answerer: LanguageModel | None = None,
    target: LanguageModel | None = None,
    judge: LanguageModel | None = None,
    method: Method = WizardLM(),
    rounds: Count = 4,
    seed: int = 0,
    temperature: NonNegativeFloat = 1.0,
    top_p: Fraction = 0.95,
    max_tokens: Count = 2048,
    judge_max_tokens: Count = MAX_TOKENS,
    min_mass: Fraction = MIN_MASS,
    keep_reasoning: bool = False,
    source: str = "evolve",
) -> Records:
    """New records: one for each row and round, evolved or dropped with a reason.

    The rows themselves are not among them: `load.concat` puts both together, as the
    paper does. Adds `journal`, `round` (from 1), `operators` (all that led here, in
    order) and `evolved_from`: the instruction before this round; with `target`
    `quality_gap`. `parents` is the row that it began with, whose license stays.

    Args:
        rows: Conversations; the first turn of the user is the instruction.
        model: Rewrites and compares.
        answerer: Answers; by default the same model.
        target: With method: rubric, the model that will be tuned. An instruction is kept, and
            its rounds end, where the grades of its answer and of the answerer's differ enough.
        judge: Grades the answers of both; by default the model that rewrites.
        method: wizardlm, wizardlm-code, wizardcoder, rubric or turns, each with its own
            options.
        rounds: How often each row is evolved; WizardLM's number.
        seed: Seed of the sampling and of the choice of operators.
        temperature: Of instructions and answers; comparisons are greedy.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of an instruction or an answer in tokens.
        judge_max_tokens: Limit of a comparison or a grade in tokens.
        min_mass: The least probability that all grades together must have; with less the
            grade cannot be read.
        keep_reasoning: Whether what the model reasoned before its answers becomes their
            `reasoning`.
        source: Name of the new records' source.

    Returns:
        The new records. Rows are dropped as `no_gain`, `prompt_leaked`, `refusal`,
        `no_content`, `no_instruction`, `no_metadata`, `has_tools` (the model would not have
        them), and for answers that were cut or unreadable as `evolved_cut`, `evolved_unparsed`,
        `actions_cut`, `response_cut`, `target_response_cut` and so on, for comparisons and
        grades as `unreadable`. What is dropped is tried again in the next round with another
        operator; what is dropped as `no_gap` goes on as it is now.

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

    def writing(model: LanguageModel | None) -> GenerateField:
        opened = ctx.open(model) if model else engine
        return partial(generate_field, opened, decoding=decoding, seed=seed)

    limits: dict[str, Any] = {"min_mass": min_mass, "max_tokens": judge_max_tokens}
    grade = partial(score_field, ctx.open(judge) if judge else engine, seed=seed, **limits)
    contrast = (writing(target), grade) if target else None
    evolution = _Evolution(
        *(method, writing(None), writing(answerer), contrast),
        *(seed, judge_max_tokens, keep_reasoning),
    )
    current = _first_drafts(rows)
    if isinstance(method, Rubric) and method.metadata:
        rubric.metadata_of(current, rows[method.metadata].to_list())
        rubric.write_metadata_actions(evolution.write, current, method)
    drafts = [draft for draft in current if not draft.active]
    current = [draft for draft in current if draft.active]
    for number in range(1, rounds + 1):
        evolved = evolution.round(current, number)
        drafts += evolved
        current = evolution.next(current, evolved)
        ctx.progress(number, rounds)
    columns = _columns(with_gap=target is not None)
    return to_frame(drafts, _messages, source, columns)


@dataclass(frozen=True)
class _Evolution:
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

    def round(self, drafts: Sequence[Draft], number: int) -> list[Draft]:
        """The drafts after one round: rewrite, eliminate, answer, eliminate."""
        evolved = [self._begin(draft, number) for draft in drafts]
        if isinstance(self.method, Rubric):
            rubric.write_actions(self.write, evolved, self.method, self.seed)
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
            if self.contrast and isinstance(self.method, Rubric):
                keep_gaps(*self.contrast, evolved, self.method.min_gap)
            for draft in evolved:
                if draft.active:
                    self._append_answer(draft)
        return evolved

    def next(self, before: Sequence[Draft], after: Sequence[Draft]) -> list[Draft]:
        """What the next round begins with: the evolved drafts, in the place of failed ones the old.

        With a target, one that was kept is done, and one that shows no gap goes on.
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
        method = self.method
        name = "rubric" if isinstance(method, Rubric) else rng.choice(method.operators)
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
