"""Self-Tuning: exercises from a text, without a model.

Self-Tuning: Instructing LLMs to Effectively Acquire New Knowledge through Self-Teaching (Zhang et
al. 2024, arXiv:2406.06326). As in the paper: to absorb a new text, a model memorizes it,
comprehends it (a title, the terms and the facts in it) and reflects on it from memory (teaching,
flashcards, blanks, choices, unfinished sentences), in exercises that no model writes.

Ours: the wording of the exercises; numbers, code spans and capitalized words stand for the names
that the paper finds with a tagger.

Example:
    >>> import random
    >>> text = "The ship sailed from Genoa to Lisbon. It carried 300 people."
    >>> EXERCISES["fill_in"].write(material(text, None), random.Random(1))[1:]
    ('The ship sailed from ____ to Lisbon.', 'Genoa')
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, NamedTuple

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, expand
from stages._llm.prompts import Prompts
from stages.generate.from_documents.context import (
    DocumentMethod,
    GenerationContext,
    check_names,
)

PROMPTS: Final = Prompts(__file__)

_CODE: Final = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.DOTALL | re.MULTILINE)
_COMMENT: Final = re.compile(r"<!--.*?-->|</?[A-Za-z][^<>\n]*>", re.DOTALL)
_LINK: Final = re.compile(r"!?\[([^\]\n]*)\](?:\([^)\n]*\)|\[[^\]\n]*\])")
_NO_PROSE: Final = re.compile(r"\s*(?:#|\||>|[-*+] |\d+[.)] |\[[^\]]*\]:)")
_SENTENCE: Final = re.compile(r"""(?<=[.!?])["')\]”’]*\s+(?=[A-Z0-9"'“‘`(\[])|(?<=[。！？])""")
_TERM: Final = re.compile(
    r"(?P<code>`[^`\n]+`)"
    r"|(?P<number>(?<![\w.])\d+(?:[.,:-]\d+)*%?(?!\w))"
    r"|(?P<name>(?<=[\w,;)] )[A-Z][\w-]*[a-z][\w-]*(?: (?:of |the )?[A-Z][\w-]*)*)"
)
"""The terms of a sentence: code spans, numbers, and capitals that do not begin it."""
_MIN_CHARACTERS: Final = 20
"""Of a sentence that is used in an exercise."""
_BLANK: Final = "____"


class Exercise(NamedTuple):
    """A written exercise."""

    instruction: str
    input: str
    answer: str


class ExerciseType(NamedTuple):
    """A type of exercise.

    Attributes:
        skill: What is practiced: memorise, comprehend or reflect (a value of the column).
        write: Makes the exercise; None where the passage has no material for it.
    """

    skill: str
    write: Callable[[Material, random.Random], Exercise | None]


@dataclass(frozen=True)
class Material:
    """What exercises use of a passage.

    Attributes:
        title: Of the passage.
        body: The passage without its heading.
        sentences: The sentences of its prose, in order.
        terms: (kind, text) of each distinct term; kinds are code, number and name.
    """

    title: str | None
    body: str
    sentences: tuple[str, ...]
    terms: tuple[tuple[str, str], ...]


def material(passage: str, title: str | None) -> Material:
    """The sentences of a passage's prose (no code, lists or tables) and the terms in them."""
    body = re.sub(r"\A\s*#{1,6} [^\n]*\n?", "", passage).strip()
    without_code = _COMMENT.sub("", _CODE.sub("\n\n", body))
    prose = [
        " ".join(_LINK.sub(r"\1", part).split())
        for part in re.split(r"\n\s*\n", without_code)
        if not _NO_PROSE.match(part)
    ]
    parts = [sentence.strip() for part in prose for sentence in _SENTENCE.split(part)]
    sentences = tuple(s for s in parts if len(s) >= _MIN_CHARACTERS and s[-1] in ".!?。！？\"'”)")
    kinds = {
        term[0]: term.lastgroup or "" for sentence in sentences for term in _TERM.finditer(sentence)
    }
    return Material(title, body, sentences, tuple((kind, text) for text, kind in kinds.items()))


def _instruction(name: str, source: Material, **values: object) -> str:
    return PROMPTS.render(name, title=source.title, **values)


def recite(source: Material, rng: random.Random) -> Exercise | None:
    """The complete passage from its first sentence."""
    if len(source.sentences) < 2:
        return None
    return Exercise(_instruction("recite", source), source.sentences[0], source.body)


def next_sentence(source: Material, rng: random.Random) -> Exercise | None:
    """The sentence that follows up to three others."""
    if len(source.sentences) < 2:
        return None
    position = rng.randrange(1, len(source.sentences))
    context = " ".join(source.sentences[max(0, position - 3) : position])
    return Exercise(_instruction("next_sentence", source), context, source.sentences[position])


def name_title(source: Material, rng: random.Random) -> Exercise | None:
    """The title, as the shortest summary."""
    if source.title is None or not source.sentences:
        return None
    return Exercise(_instruction("title", source), source.body, source.title)


def key_terms(source: Material, rng: random.Random) -> Exercise | None:
    """All terms of the passage."""
    if len(source.terms) < 2:
        return None
    listed = "\n".join(f"- {term}" for _, term in source.terms)
    return Exercise(_instruction("key_terms", source), source.body, listed)


def true_or_false(source: Material, rng: random.Random) -> Exercise | None:
    """A sentence as it stands, or with a term replaced by another one of its kind."""
    candidates = _sentences_with_terms(source)
    if not candidates:
        return None
    sentence, kind, term = rng.choice(candidates)
    if rng.random() < 0.5:
        instruction = _instruction("true_or_false", source, statement=sentence)
        return Exercise(instruction, source.body, "True")
    other = rng.choice(_other_terms(source, kind, term))
    false = _replaced(sentence, term, other)
    answer = f"False. It is {term}, not {other}: {sentence}"
    return Exercise(_instruction("true_or_false", source, statement=false), source.body, answer)


def order(source: Material, rng: random.Random) -> Exercise | None:
    """Shuffled sentences that are to be put into their order."""
    number = min(5, len(source.sentences))
    if number < 3:
        return None
    start = rng.randrange(len(source.sentences) - number + 1)
    positions = rng.sample(range(number), number)
    if positions == sorted(positions):
        positions.reverse()
    listed = [f"{n}. {source.sentences[start + p]}" for n, p in enumerate(positions, 1)]
    answer = ", ".join(str(positions.index(p) + 1) for p in range(number))
    return Exercise(_instruction("order", source), "\n".join(listed), answer)


def teach(source: Material, rng: random.Random) -> Exercise | None:
    """The passage from its title."""
    if source.title is None or not source.sentences:
        return None
    return Exercise(_instruction("teach", source), "", source.body)


def flashcards(source: Material, rng: random.Random) -> Exercise | None:
    """The passage from its title and terms."""
    if source.title is None or len(source.terms) < 2:
        return None
    terms = [term for _, term in source.terms]
    return Exercise(_instruction("flashcards", source, terms=terms), "", source.body)


def fill_in(source: Material, rng: random.Random) -> Exercise | None:
    """A term that is blanked out in a sentence."""
    candidates = _sentences_with_terms(source, others=False)
    if not candidates:
        return None
    sentence, _, term = rng.choice(candidates)
    return Exercise(_instruction("fill_in", source), _replaced(sentence, term, _BLANK), term)


def choice(source: Material, rng: random.Random) -> Exercise | None:
    """A term that is blanked out in a sentence, among others of its kind."""
    candidates = [c for c in _sentences_with_terms(source) if len(_other_terms(source, *c[1:])) > 1]
    if not candidates:
        return None
    sentence, kind, term = rng.choice(candidates)
    others = _other_terms(source, kind, term)
    options = [term, *rng.sample(others, min(3, len(others)))]
    rng.shuffle(options)
    lettered = [f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=False)]
    question = "\n".join([_replaced(sentence, term, _BLANK), *lettered])
    return Exercise(_instruction("choice", source), question, lettered[options.index(term)])


def complete(source: Material, rng: random.Random) -> Exercise | None:
    """The end of a sentence from its beginning; the middle third is where it is cut."""
    candidates = [s for s in source.sentences if len(s.split()) >= 6]
    if not candidates:
        return None
    words = rng.choice(candidates).split()
    position = rng.randint(len(words) // 3, 2 * len(words) // 3)
    beginning, end = " ".join(words[:position]), " ".join(words[position:])
    return Exercise(_instruction("complete", source), beginning, end)


def _sentences_with_terms(source: Material, others: bool = True) -> list[tuple[str, str, str]]:
    """(sentence, kind, term) for each term in a sentence; with others of its kind by default."""
    return [
        (sentence, kind, term)
        for sentence in source.sentences
        for kind, term in source.terms
        if _replaced(sentence, term, _BLANK) != sentence
        and (not others or _other_terms(source, kind, term))
    ]


def _other_terms(source: Material, kind: str, term: str) -> list[str]:
    """The passage's other terms of a kind."""
    return [t for k, t in source.terms if k == kind and t.casefold() != term.casefold()]


def _replaced(sentence: str, term: str, other: str) -> str:
    """The sentence with every occurrence of a term (as a word of its own) replaced."""
    pattern = rf"(?<![\w.]){re.escape(term)}(?![\w])"
    return re.sub(pattern, lambda _: other, sentence)


EXERCISES: Final[dict[str, ExerciseType]] = {
    "recite": ExerciseType("memorise", recite),
    "next_sentence": ExerciseType("memorise", next_sentence),
    "title": ExerciseType("comprehend", name_title),
    "key_terms": ExerciseType("comprehend", key_terms),
    "true_or_false": ExerciseType("comprehend", true_or_false),
    "order": ExerciseType("comprehend", order),
    "teach": ExerciseType("reflect", teach),
    "flashcards": ExerciseType("reflect", flashcards),
    "fill_in": ExerciseType("reflect", fill_in),
    "choice": ExerciseType("reflect", choice),
    "complete": ExerciseType("reflect", complete),
}
"""The types of exercises by name, which is a value of the column `task_type`."""


@option_group
class SelfSupervised(DocumentMethod):
    """Self-Tuning: exercises without a model (Zhang et al. 2024).

    Drops `no_material`.

    Args:
        name: The method.
        task_types: Types of exercises.
        per_passage: Exercises of a passage, each of another type; null for all types.
    """

    name: Literal["self-supervised"] = "self-supervised"
    task_types: tuple[str, ...] = tuple(EXERCISES)
    per_passage: Count | None = None

    decoding: ClassVar[Decoding] = Decoding()
    uses_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_names("task_types", self.task_types, tuple(EXERCISES))

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """The chosen exercises of every passage; one without material is dropped."""

        def types_of(passage: Draft) -> list[dict[str, str]]:
            chosen = context.choose("self-supervised", passage, self.task_types, self.per_passage)
            return [
                {"task_type": name, "skill": EXERCISES[name].skill}
                for name in self.task_types
                if name in chosen
            ]

        materials: dict[tuple[str, int], Material] = {}
        drafts = expand(passages, types_of)
        for draft in drafts:
            if not draft.active:
                continue
            key = draft["document"], draft["passage_number"]
            if key not in materials:
                materials[key] = material(draft["passage"], draft["title"])
            name = draft["task_type"]
            exercise = EXERCISES[name].write(materials[key], context.rng(f"exercise {name}", draft))
            if exercise is None:
                draft.reject("no_material", exercise=name)
            else:
                fields = ("instruction", "input", "response")
                draft.fields |= dict(zip(fields, exercise, strict=True))
        return drafts
