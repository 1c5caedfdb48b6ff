"""Where constraints come from without a language model: facts, length tokens, lengths.

RuleR: RuleR: Improving LLM Controllability by Rule-based Data Recycling (Li et al. 2024,
arXiv:2406.15938; tianyi-lab/RuleR).

As in the paper: constraints come from facts of the answer that is there; some change the answer.

As in the authors' code: up to three a row. Of its 26 kinds these are here: words
(`keywords`, `keyword_at_least`, `keyword_less_than`), letters (`letter_at_least`,
`letter_less_than`), numbers of words, sentences and bullets, words in capitals (`capital_words`),
and as changes all small, all capital letters, the repeated request and the wrapped answer
(`quotation`).

Ours: the other kinds, all checkable; counts are of the text after its change (in the code a later
change falsifies what was counted before); bounds that hold; the wording.

Left out: nouns, verbs and adjectives (no tagger of parts of speech is at hand), single
characters, paragraphs, the repeated answer, capital letters of one sentence or paragraph,
replaced punctuation, and what else is wrapped: no checker of the benchmarks knows them.

Ruler: Ruler: A Model-Agnostic Method to Control Generated Length for Large Language Models (Li
et al. 2024, arXiv:2409.18943).

As in the authors' code: nine tokens with their bands, a token stands before the answer, rows
outside all bands are left out, and at most 20,000 rows a token.

Ours: these are drawn by id.

CoDI-Eval: Benchmarking Large Language Models on Controllable Generation under Diversified
Instructions (Chen et al. 2024, arXiv:2401.00690), which is a benchmark.

As in the authors' code: five modes, +- 10% for `around`, words between white space, numbers also in
words.

Ours: as training data, with lengths that the answers have; the wording.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, get_args

from pipeline.types import Count, Fraction, NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._constraints.conflicts import conflict
from stages._constraints.constraint import Constraint
from stages._constraints.lengths import (
    LengthToken,
    LengthWords,
    Mode,
    length_in_words,
    target_of,
    token_of,
)
from stages._constraints.units import words
from stages._llm.rows import Row
from stages.compose._row_drafts import Draft
from stages.compose.constraints.edits import Edit, edited
from stages.compose.constraints.facts import RULES, Facts, Rule

_EDITS: Final[tuple[Edit, ...]] = get_args(Edit)
_RULES: Final[tuple[Rule, ...]] = get_args(Rule)
_TRIES: Final = 10
"""How many rules are drawn for each constraint that a row gets: many do not fit its answer."""

_MODES: Final[tuple[Mode, ...]] = get_args(Mode)


@option_group
class Rules:
    """Facts of the answer become constraints (RuleR, Li et al. 2024, arXiv:2406.15938).

    Args:
        name: The method.
        rules: Which facts; they are drawn until enough of them fit the answer.
        max_rules: The most constraints of a row; how many is drawn, from 1 on.
        edits: Which changes of the answer.
        edited: The share of rows whose answer is changed.
    """

    name: Literal["rules"] = "rules"
    rules: Annotated[tuple[Rule, ...], Distinct, NonEmpty] = _RULES
    max_rules: Count = 3
    edits: Annotated[tuple[Edit, ...], Distinct] = _EDITS
    edited: Fraction = 0.2

    def __post_init__(self) -> None:
        """Check what edits must be together.

        Raises:
            ValueError: Answers are to be changed by nothing.
        """
        if self.edited and not self.edits:
            raise ValueError(f"edited must be 0 without edits, got {self.edited}")

    def rows(self, drafts: Sequence[Draft], seed: int) -> list[Row]:
        """The rows, new or dropped.

        Args:
            drafts: The rows that can get constraints.
            seed: Of all that is drawn.
        """
        return [self._row(draft, random.Random(f"{seed}:{draft.id}")) for draft in drafts]

    def _row(self, draft: Draft, rng: random.Random) -> Row:
        answer, chosen = draft.answer, list[Constraint]()
        if rng.random() < self.edited:
            change = edited(answer, draft.request, rng.choice(self.edits), rng)
            if change is not None:
                answer, chosen = change[0], [change[1]]
        number = rng.randint(1, self.max_rules)
        facts = Facts(answer, draft.request, rng)
        for _ in range(_TRIES * number):
            if len(chosen) >= number:
                break
            one = RULES[self.rules[int(rng.random() * len(self.rules))]](facts)
            if one and not any(conflict(one, other) for other in chosen):
                chosen.append(one)
        if not chosen:
            return draft.dropped("no_rule", {})
        return draft.row(answer, chosen, _worded(chosen, rng.randrange(2)))


@option_group
class LengthTokens:
    """A token before the answer says how long it is (Ruler, Li et al. 2024, arXiv:2409.18943).

    Args:
        name: The method.
        max_per_token: The most rows of each token.
        in_request: Whether the request asks for it too; without it, the model may choose.
    """

    name: Literal["length_tokens"] = "length_tokens"
    max_per_token: Count = 20_000
    in_request: bool = False

    def rows(self, drafts: Sequence[Draft], seed: int) -> list[Row]:
        """The rows, new or dropped.

        Args:
            drafts: The rows that can get a token.
            seed: Of which rows a token has, where there are too many.
        """
        order = sorted(drafts, key=lambda draft: random.Random(f"{seed}:{draft.id}").random())
        counts: dict[str, int] = {}
        rows: dict[str, Row] = {}
        for draft in order:
            count = len(words(draft.answer))
            target = target_of(count)
            if target is None:
                rows[draft.id] = draft.dropped("between_bands", {"words": count})
                continue
            counts[target] = counts.get(target, 0) + 1
            if counts[target] > self.max_per_token:
                rows[draft.id] = draft.dropped("over_quota", {"token": token_of(target)})
                continue
            one = LengthToken(target=target)
            wordings = [one.worded()] if self.in_request else []
            answer = f"{token_of(target)}\n\n{draft.answer}"
            rows[draft.id] = draft.row(answer, [one], wordings)
        return [rows[draft.id] for draft in drafts]


@option_group
class Lengths:
    """The request asks for the length that the answer has (CoDI-Eval, arXiv:2401.00690).

    Args:
        name: The method.
        modes: How lengths are asked for.
    """

    name: Literal["lengths"] = "lengths"
    modes: Annotated[tuple[Mode, ...], Distinct, NonEmpty] = _MODES

    def rows(self, drafts: Sequence[Draft], seed: int) -> list[Row]:
        """The rows, new or dropped.

        Args:
            drafts: The rows that can get a length.
            seed: Of all that is drawn.
        """
        rows = []
        for draft in drafts:
            rng = random.Random(f"{seed}:{draft.id}")
            one = _length(length_in_words(draft.answer), rng.choice(self.modes), rng)
            rows.append(draft.row(draft.answer, [one], _worded([one], rng.randrange(4))))
        return rows


def _worded(chosen: Sequence[Constraint], number: int) -> list[str]:
    """A sentence for each constraint; the wordings come in turn, from a number on."""
    return [one.worded(number + n) for n, one in enumerate(chosen)]


def _length(count: int, mode: Mode, rng: random.Random) -> LengthWords:
    """A length that an answer of so many words has: round where it need not be exact."""
    step = 10 if count >= 50 else 5 if count >= 20 else 1
    below, above = max(1, count // step * step), -(-count // step) * step
    match mode:
        case "at most":
            return LengthWords(mode=mode, number=above + step * rng.randint(0, 2))
        case "at least":
            return LengthWords(mode=mode, number=max(1, below - step * rng.randint(0, 2)))
        case "between":
            lower = max(1, below - step * rng.randint(0, 3))
            return LengthWords(mode=mode, number=lower, second=above + step * rng.randint(0, 3))
        case "around":
            nearest: Any = min(below, above, key=lambda number: abs(number - count))
            near = LengthWords(mode=mode, number=nearest)
            return near if near.check("a " * count) else LengthWords(mode=mode, number=count)
    return LengthWords(mode=mode, number=count)
