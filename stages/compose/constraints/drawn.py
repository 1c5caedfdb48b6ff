"""Constraints that are drawn for a request, whatever its answer is: several that go together.

Light-IF: Endowing LLMs with Generalizable Reasoning via Preview and Self-Checking for Complex
Instruction Following (Wang et al. 2025, arXiv:2508.03178).

As in the paper: prompts with several constraints that a program can check; they are parted by how
often sampled answers follow all of them, and answers that do, with their reasoning, are what a
model starts from. The recipe `light-if` has these steps: `generate.respond` samples,
`evaluate.constraints` gives `constraints_prompt_rate`, `select.response` takes one answer.

Ours: the kinds and their arguments; prompts are hard where no answer follows all, easy where all
do, and pass between (the paper's thresholds are not known); no language model says which prompts
are valid, the table of conflicts does.

IFBench: Generalizing Verifiable Instruction Following (Pyatkin et al. 2025, arXiv:2507.02833;
allenai/IFBench).

As in the paper: for training up to six constraints a prompt, by a table of conflicts, with
arguments from wider ranges than those of the benchmark.

Ours: the kinds, which are IFEval's; the table; the ranges.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal, get_args

from pipeline.types import NonEmpty, Range, option_group
from stages._common.option_types import Distinct
from stages._constraints.conflicts import conflict
from stages._constraints.constraint import Constraint, Relation
from stages._constraints.ifbench.ratios import STOP_WORDS
from stages._constraints.ifeval.detectable import (
    JsonFormat,
    MultipleSections,
    NumberBulletLists,
    NumberHighlightedSections,
    NumberPlaceholders,
    Postscript,
    Title,
)
from stages._constraints.ifeval.keywords import (
    Existence,
    ForbiddenWords,
    Frequency,
    LetterFrequency,
)
from stages._constraints.ifeval.lengths import NumberParagraphs, NumberSentences, NumberWords
from stages._constraints.ifeval.whole import (
    CapitalWordFrequency,
    EndChecker,
    EnglishCapital,
    EnglishLowercase,
    NoComma,
    Quotation,
    TwoResponses,
)
from stages._constraints.stored import stored
from stages._constraints.units import words
from stages._llm.rows import Row, make_row
from stages.compose._row_drafts import Draft
from stages.compose.constraints.edits import END_PHRASES

Kind = Literal[
    "number_words", "number_sentences", "number_paragraphs", "existence", "frequency",
    "forbidden_words", "letter_frequency", "placeholders", "postscript", "bullets", "sections",
    "highlights", "json", "title", "two_responses", "end_phrase", "quotation", "capital_words",
    "capital", "lowercase", "no_comma",
]  # fmt: skip

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_MIN_LETTERS: Final = 4
"""Letters of a keyword: shorter words are mostly grammar."""
_TRIES: Final = 20
"""How many kinds are drawn for each constraint that a prompt gets: many conflict."""
_RELATIONS: Final[tuple[Relation, ...]] = get_args(Relation)
_WORDS: Final = (
    "river", "window", "seldom", "bread", "quiet", "paper", "morning", "engine", "garden", "twelve",
    "silver", "honest", "border", "winter", "market", "signal",
)  # fmt: skip
"""Keywords beside those of the request."""
_ADDED: Final = 4
"""So many of them are added to the request's own."""


@option_group
class Drawn:
    """Constraints for prompts, several of which hold together (Light-IF, IFBench).

    The answer of a row is left out: another one is to follow.

    Args:
        name: The method.
        kinds: Of which are drawn.
        number: The fewest and the most constraints of a prompt.
    """

    name: Literal["drawn"] = "drawn"
    kinds: Annotated[tuple[Kind, ...], Distinct, NonEmpty] = get_args(Kind)
    number: Range = (1, 6)

    def rows(self, drafts: Sequence[Draft], seed: int) -> list[Row]:
        """The rows, which wait for an answer, or dropped.

        Args:
            drafts: The rows that can get constraints.
            seed: Of all that is drawn.
        """
        return [self._row(draft, random.Random(f"{seed} drawn {draft.id}")) for draft in drafts]

    def _row(self, draft: Draft, rng: random.Random) -> Row:
        number, chosen = rng.randint(*self.number), list[Constraint]()
        for _ in range(_TRIES * number):
            if len(chosen) == number:
                break
            one = KINDS[rng.choice(self.kinds)](draft.request, rng)
            if not any(conflict(one, other) for other in chosen):
                chosen.append(one)
        if len(chosen) < self.number[0]:
            return draft.dropped("conflict", {"kinds": [one.kind for one in chosen]})
        first = rng.randrange(2)
        wordings = [one.worded(first + n) for n, one in enumerate(chosen)]
        messages, input_start = draft.asked(wordings)
        answer = draft.answer
        return make_row(
            messages,
            input_start,
            tools=draft.tools,
            license=draft.license,
            parents=[draft.id],
            extra=stored(chosen),
            constraint_kinds=[one.kind for one in chosen],
            trivially_true=all(one.holds(answer) for one in chosen) if answer.strip() else None,
        )


def _keywords(request: str, rng: random.Random, count: int) -> tuple[str, ...]:
    """Words that say something: of the request, and some others."""
    own = dict.fromkeys(map(str.lower, words(request)))
    candidates = [w for w in own if len(w) >= _MIN_LETTERS and w.isalpha() and w not in STOP_WORDS]
    every = [*dict.fromkeys([*candidates, *rng.sample(_WORDS, _ADDED)])]
    return tuple(rng.sample(every, min(count, len(every))))


def _number_words(request: str, rng: random.Random) -> Constraint:
    return NumberWords(num_words=10 * rng.randint(3, 60), relation=rng.choice(_RELATIONS))


def _number_sentences(request: str, rng: random.Random) -> Constraint:
    return NumberSentences(num_sentences=rng.randint(3, 25), relation=rng.choice(_RELATIONS))


def _frequency(request: str, rng: random.Random) -> Constraint:
    (keyword,) = _keywords(request, rng, 1)
    return Frequency(keyword=keyword, frequency=rng.randint(2, 5), relation=rng.choice(_RELATIONS))


def _letter_frequency(request: str, rng: random.Random) -> Constraint:
    relation = rng.choice(_RELATIONS)
    return LetterFrequency(
        letter=rng.choice(_LETTERS), let_frequency=rng.randint(3, 40), let_relation=relation
    )


def _sections(request: str, rng: random.Random) -> Constraint:
    return MultipleSections(
        num_sections=rng.randint(2, 6), section_spliter=rng.choice(("Section", "SECTION", "Part"))
    )


def _capital_words(request: str, rng: random.Random) -> Constraint:
    return CapitalWordFrequency(
        capital_frequency=rng.randint(2, 20), capital_relation=rng.choice(_RELATIONS)
    )


KINDS: Final[dict[Kind, Callable[[str, random.Random], Constraint]]] = {
    "number_words": _number_words,
    "number_sentences": _number_sentences,
    "number_paragraphs": lambda _, rng: NumberParagraphs(num_paragraphs=rng.randint(2, 7)),
    "existence": lambda text, rng: Existence(keywords=_keywords(text, rng, rng.randint(1, 4))),
    "frequency": _frequency,
    "forbidden_words": lambda text, rng: ForbiddenWords(
        forbidden_words=_keywords(text, rng, rng.randint(1, 4))
    ),
    "letter_frequency": _letter_frequency,
    "placeholders": lambda _, rng: NumberPlaceholders(num_placeholders=rng.randint(1, 6)),
    "postscript": lambda _, rng: Postscript(postscript_marker=rng.choice(("P.S.", "P.P.S"))),
    "bullets": lambda _, rng: NumberBulletLists(num_bullets=rng.randint(2, 8)),
    "sections": _sections,
    "highlights": lambda _, rng: NumberHighlightedSections(num_highlights=rng.randint(1, 6)),
    "json": lambda *_: JsonFormat(),
    "title": lambda *_: Title(),
    "two_responses": lambda *_: TwoResponses(),
    "end_phrase": lambda _, rng: EndChecker(end_phrase=rng.choice(END_PHRASES)),
    "quotation": lambda *_: Quotation(),
    "capital_words": _capital_words,
    "capital": lambda *_: EnglishCapital(),
    "lowercase": lambda *_: EnglishLowercase(),
    "no_comma": lambda *_: NoComma(),
}
"""From a request to a constraint of a kind."""
