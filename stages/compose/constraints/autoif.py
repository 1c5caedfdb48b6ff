"""Constraints with functions that a language model wrote, and answers that these let pass.

AutoIF: Self-play with Execution Feedback: Improving Instruction-following Capabilities of Large
Language Models (Dong et al. 2024, arXiv:2406.13542; QwenLM/AutoIF).

As in the paper: a model writes more constraints out of seeds, and for each several functions with
test cases, which judge each other; a function is translated back into a sentence, which must not
contradict the constraint; queries get a constraint, and their answers stay if enough of its
functions let them pass and a judge finds them to the point.

As in the authors' code: the numbers: 36 seeds, 50 constraints a request, five seconds a call, three
functions and ten cases at least, three functions translated back, 16 queries of 20 to 300
characters a constraint, a score above 8 of 10. One agreeing function saves a case, and .8 of the
cases a function; an answer stays if any function lets it pass (`min_rate: 0`). The paper has more
than half for all three: `written: {min_agreeing: 0.5, min_accuracy: 0.5}, min_rate: 0.5`.

Ours: the wording, the seeds, eight functions (as in their file); the sandbox; outcomes that are the
texts "true" and "false" are read, and functions find others beside them (in the code such cases and
functions vanish); a language model in the place of the NLI model; a query is drawn by the seed
and the constraint, and asked as the row has it, with the sentence behind it, instead of under
headings; one judgement instead of several.

VIF-RAG: Toward General Instruction-Following Alignment for Retrieval-Augmented Generation (Dong et
al. 2024, arXiv:2410.09584; dongguanting/FollowRAG).

As in the paper: two constraints that go together are joined: a model says how well, from 0 to 10,
and 5 is enough; queries are also such that come with passages (`compose.context` makes them; four
a constraint).

Ours: `num_pairs` of them, drawn by the seed; an answer must follow both. That a model writes joined
constraints anew is left out: both stand in the request as they are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import field
from functools import partial
from typing import Any, Final, Literal

import polars as pl

from pipeline.models.base import Decoding, Engine
from pipeline.models.counting import is_counting
from pipeline.types import Count, Fraction, NonNegativeFloat, NonNegativeInt, Range, option_group
from stages._llm.drafts import Draft, Prompt, filter_drafts, generate_field, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, Row, has_tools, make_row
from stages._sandbox.checkers import Outcome, checker_runs, outcome_of
from stages._sandbox.execute import execute
from stages._sandbox.isolation import isolation
from stages.compose._row_drafts import Draft as RowDraft
from stages.compose.constraints.written import Written, by_sentence, constraints, seeds

PROMPTS: Final = Prompts(__file__)

ADDS: Final[dict[str, Any]] = {
    "constraint_rate": pl.Float64(),
    "constraint_quality": pl.Int32(),
    "journal": pl.List(pl.String()),
}

_SCORE: Final = re.compile(r"^\W*score\W*(\d+)(?:\s*/\s*10)?\W*$", re.IGNORECASE)
_HIGHEST: Final = 10


@option_group
class AutoIf:
    """A model writes constraints, functions and answers (AutoIF, VIF-RAG).

    Args:
        name: The method.
        seeds: Constraints to begin with; by default 36 of ours.
        written: How the others come about, and their functions.
        num_pairs: Pairs of constraints that are asked for together, beside the single ones.
        min_coexistence: The least score from 0 to 10 of a pair.
        queries: Rows that get a constraint, of each constraint.
        query_characters: The least and the most characters of their requests without their inputs.
        num_answers: Answers to each.
        temperature: Of answers.
        answer_max_tokens: Limit of each in tokens.
        keep_reasoning: Whether what the model reasoned before an answer stays with it.
        min_rate: An answer stays if more than this part of the constraint's functions let it pass.
        min_quality: An answer stays if its score, from 0 to 10, is above; null to ask for none.
        judge_max_tokens: Limit in tokens of what ends in a score.
    """

    name: Literal["autoif"] = "autoif"
    seeds: tuple[str, ...] | None = None
    written: Written = field(default_factory=Written)
    num_pairs: NonNegativeInt = 0
    min_coexistence: NonNegativeInt = 5
    queries: Count = 16
    query_characters: Range = (20, 300)
    num_answers: Count = 1
    temperature: NonNegativeFloat = 0.7
    answer_max_tokens: Count = 1024
    keep_reasoning: bool = False
    min_rate: Fraction = 0.0
    min_quality: NonNegativeInt | None = 8
    judge_max_tokens: Count = 512

    def rows(
        self,
        drafts: Sequence[RowDraft],
        seed: int,
        engine: Engine,
        judge: Engine,
        ready: Sequence[Draft] = (),
    ) -> list[Row]:
        """The rows, new or dropped, and constraints that were.

        Args:
            drafts: The queries.
            seed: Of the sampling and of all that is drawn.
            engine: Writes constraints, functions and answers.
            judge: Compares and scores.
            ready: Constraints that have functions.
        """
        first = seeds() if self.seeds is None else self.seeds
        known = by_sentence(ready)
        asked = [*known.values(), *constraints(engine, judge, self.written, first, seed, known)]
        for draft in asked:
            if draft.active:
                draft.fields["texts"] = [draft["constraint"]]
                draft.fields["checkers"] = [draft["functions"]]
        asked += _pairs(asked, self, judge, seed)
        answers = _queries(asked, drafts, self, seed)
        generate_field(
            *(engine, answers, "response", lambda draft: draft["prompt"]),
            Decoding(self.answer_max_tokens, self.temperature),
            seed=seed,
        )
        if not is_counting():
            _check(answers, self)
        if self.min_quality is not None:
            _score(judge, answers, "quality", _quality_prompt, self, seed)
            filter_drafts(answers, partial(_unless_good, least=self.min_quality))
        rows = [_constraint_row(draft) for draft in asked if not draft.active]
        return [*rows, *(_row(draft, keep_reasoning=self.keep_reasoning) for draft in answers)]


def score_of(text: str) -> int | None:
    r"""The score from 0 to 10 in the last line; None without one.

    Args:
        text: A judgement.

    >>> score_of("It is short.\n\n**Score: 9**"), score_of("Score: 9\nOr not."), score_of("11")
    (9, None, None)
    """
    line = text.strip().rpartition("\n")[2]
    match = _SCORE.match(line)
    return int(match[1]) if match and int(match[1]) <= _HIGHEST else None


def _score(
    judge: Engine, drafts: Sequence[Draft], name: str, prompt: Any, method: AutoIf, seed: int
) -> None:
    decoding = Decoding(method.judge_max_tokens, 0.0)
    generate_field(judge, drafts, name, prompt, decoding, seed=seed, parse=score_of)


def _pairs(asked: Sequence[Draft], method: AutoIf, judge: Engine, seed: int) -> list[Draft]:
    """Pairs of constraints that go together, and those that do not, dropped."""
    active = [draft for draft in asked if draft.active]
    total = len(active) * (len(active) - 1) // 2
    rng = random.Random(f"{seed} autoif pairs")
    # Drawn by their numbers: those of 10,000 constraints are too many to be written out.
    drawn = rng.sample(range(total), min(method.num_pairs, total))
    pairs = [_pair(*(active[at] for at in _places(number, len(active)))) for number in drawn]
    if pairs:
        _score(judge, pairs, "coexistence", _coexistence_prompt, method, seed)
        filter_drafts(pairs, partial(_unless_together, least=method.min_coexistence))
    return pairs


def _places(number: int, count: int) -> tuple[int, int]:
    """The places of the pair of this number among all pairs of so many, in their order."""
    first = 0
    while number >= count - 1 - first:
        number -= count - 1 - first
        first += 1
    return first, first + 1 + number


def _pair(one: Draft, other: Draft) -> Draft:
    pair = one.child(
        constraint=f"{one['constraint']}\n{other['constraint']}",
        texts=[*one["texts"], *other["texts"]],
        checkers=[*one["checkers"], *other["checkers"]],
    )
    pair.journal += [key for key in other.journal if key not in one.journal]
    return pair


def _coexistence_prompt(draft: Draft) -> Prompt:
    first, second = draft["texts"]
    return user(PROMPTS.render("coexistence", first=first, second=second))


def _unless_together(draft: Draft, least: int) -> Rejection | None:
    if draft["coexistence"] >= least:
        return None
    return "conflict", {"constraints": draft["texts"], "coexistence": draft["coexistence"]}


def _queries(
    asked: Sequence[Draft], rows: Sequence[RowDraft], method: AutoIf, seed: int
) -> list[Draft]:
    """A draft for each answer: some rows for each constraint, by the seed and its text."""
    low, high = method.query_characters
    candidates = sorted(
        (row for row in rows if low <= len(row.request) <= high and not _has_tools(row)),
        key=lambda row: row.id,
    )
    drafts = []
    for draft in asked:
        if not draft.active:
            continue
        if not candidates:
            draft.reject("no_query", constraint=draft["constraint"], characters=[low, high])
            continue
        rng = random.Random(f"{seed} autoif queries {draft['constraint']}")
        for row in rng.sample(candidates, min(method.queries, len(candidates))):
            messages, input_start = row.asked(draft["texts"])
            turns = tuple((turn["role"], turn["content"] or "") for turn in messages)
            for number in range(method.num_answers):
                child = draft.child(
                    query=row, prompt=turns, messages=messages, input_start=input_start
                )
                child.parents, child.license, child.number = (row.id,), row.license, number
                drafts.append(child)
    return drafts


def _has_tools(row: RowDraft) -> bool:
    """Whether an answer without its tools would be another one."""
    return has_tools(row.messages, row.tools) or any(t["role"] == "tool" for t in row.messages)


def _check(drafts: Sequence[Draft], method: AutoIf) -> None:
    """Note which part of its functions lets an answer pass, and drop what too few do.

    Of two constraints the lower part counts. The row's own answer, which nobody asked to follow
    anything, says whether the constraint is trivially true.
    """
    active = [draft for draft in drafts if draft.active]
    texts = [text for draft in active for text in (draft["response"], draft["query"].answer)]
    checkers = [draft["checkers"] for draft in active for _ in range(2)]
    rates = iter(_rates(checkers, texts, method.written))
    for draft, rate, own in zip(active, rates, rates, strict=True):
        draft.fields["constraint_rate"] = rate
        draft.fields["trivially_true"] = None if own is None else own > method.min_rate
        evidence = {"constraints": draft["texts"], "answer_end": draft["response"][-200:]}
        if rate is None:
            draft.reject("unverifiable", **evidence)
        elif rate <= method.min_rate:
            draft.reject("not_satisfied", rate=rate, **evidence)


def _rates(
    checkers: Sequence[Sequence[Sequence[str]]], texts: Sequence[str], options: Written
) -> list[float | None]:
    """Of each text the part of the functions that let it pass: of constraints the lowest."""
    jobs = [
        [run for group in groups for source in group for run in checker_runs(source, [text])]
        if text.strip()
        else []
        for groups, text in zip(checkers, texts, strict=True)
    ]
    if not any(jobs):
        return [None] * len(jobs)
    chosen = isolation(options.unsafe)
    ended = execute(jobs, options.limits, chosen, workers=pl.thread_pool_size())
    rates = []
    for groups, ends in zip(checkers, ended, strict=True):
        outcomes = iter([outcome_of(end) for end in ends])
        parts = [_rate([next(outcomes) for _ in group]) for group in groups] if ends else [None]
        rates.append(min((p for p in parts if p is not None), default=None))
        if None in parts:  # nothing is known of one of the constraints
            rates[-1] = None
    return rates


def _rate(outcomes: Sequence[Outcome]) -> float | None:
    """The part that is True, of the outcomes that are True or False."""
    said = [outcome for outcome in outcomes if isinstance(outcome, bool)]
    return sum(said) / len(said) if said else None


def _quality_prompt(draft: Draft) -> Prompt:
    values = {"query": draft["query"].request, "constraint": draft["constraint"]}
    return user(PROMPTS.render("quality", **values, response=draft["response"]))


def _unless_good(draft: Draft, least: int) -> Rejection | None:
    if draft["quality"] > least:
        return None
    return "low_quality", {"score": draft["quality"], "above": least}


def _constraint_row(draft: Draft) -> Row:
    """A constraint, or a request for some, that came to nothing."""
    text = draft.fields.get("constraint") or "\n".join(draft["seeds"])
    return make_row(
        [{"role": "user", "content": text}],
        license=draft.license,
        parents=[],
        extra=draft.notes,
        rejection=draft.rejection,
        error=draft.error,
        journal=draft.journal,
    )


def _row(draft: Draft, *, keep_reasoning: bool) -> Row:
    messages = [*draft["messages"]]
    if "response" in draft.fields:
        answer: dict[str, Any] = {"role": "assistant", "content": draft["response"]}
        if keep_reasoning and draft.reasoning.get("response"):
            answer["reasoning"] = draft.reasoning["response"]
        messages.append(answer)
    functions = [source for group in draft["checkers"] for source in group]
    return make_row(
        messages,
        draft["input_start"],
        license=draft.license,
        parents=draft.parents,
        extra={"constraints": draft["texts"], "checkers": functions, **draft.notes},
        rejection=draft.rejection,
        error=draft.error,
        constraint_kinds=["written"] * len(draft["texts"]),
        trivially_true=draft.fields.get("trivially_true"),
        constraint_rate=draft.fields.get("constraint_rate"),
        constraint_quality=draft.fields.get("quality"),
        journal=draft.journal,
    )
