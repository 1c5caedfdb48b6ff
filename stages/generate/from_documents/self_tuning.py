"""Exercises that a text gives of itself, without any model: Self-Tuning's self-teaching.

Zhang et al. 2024, arXiv:2406.06326. To absorb a new text a model memorises it, comprehends
it (a title, what is named in it, what is true of it) and reflects on it from memory
(teaching, flashcards, blanks, choices, unfinished sentences). The paper finds names with
a tagger; here numbers, code spans and capitalised words stand for them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stages._llm.drafts import Draft, expand
from stages._llm.prompts import Prompts
from stages.generate.from_documents.passages import Means

PROMPTS: Final = Prompts(__file__)

Exercise = tuple[str, str, str]
"""Instruction, input and answer."""

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
"""What is named in a sentence: code spans, numbers, and capitals that do not begin it."""
_SHORTEST: Final = 20
"""Characters of a sentence that an exercise is made of, at least."""
_BLANK: Final = "____"


@dataclass(frozen=True)
class Material:
    """A passage as exercises see it. body: without its heading.

    sentences: of its prose, in order. terms: what is named in it, with the kind, each once.
    """

    title: str | None
    body: str
    sentences: tuple[str, ...]
    terms: tuple[tuple[str, str], ...]


def material(passage: str, title: str | None) -> Material:
    """What a passage holds: sentences of prose (no code, lists, tables) and named things."""
    body = re.sub(r"\A\s*#{1,6} [^\n]*\n?", "", passage).strip()
    plain = _COMMENT.sub("", _CODE.sub("\n\n", body))
    prose = [
        " ".join(_LINK.sub(r"\1", part).split())
        for part in re.split(r"\n\s*\n", plain)
        if not _NO_PROSE.match(part)
    ]
    parts = [sentence.strip() for part in prose for sentence in _SENTENCE.split(part)]
    sentences = tuple(s for s in parts if len(s) >= _SHORTEST and s[-1] in ".!?。！？\"'”)")
    terms = {
        found[0]: found.lastgroup or ""
        for sentence in sentences
        for found in _TERM.finditer(sentence)
    }
    return Material(title, body, sentences, tuple((kind, text) for text, kind in terms.items()))


def self_supervised(means: Means, passages: list[Draft]) -> list[Draft]:
    """The drawn exercises of every passage; what it has no material for is dropped."""
    names = means.task_types

    def set_out(passage: Draft) -> list[dict[str, str]]:
        chosen = means.few("self-supervised", passage, names)
        return [
            {"task_type": name, "skill": EXERCISES[name][0]} for name in names if name in chosen
        ]

    known: dict[tuple[str, int], Material] = {}
    drafts = expand(passages, set_out)
    for draft in drafts:
        if not draft.active:
            continue
        place = draft["document"], draft["passage_number"]
        if place not in known:
            known[place] = material(draft["passage"], draft["title"])
        name = draft["task_type"]
        draw = means.draw(f"exercise {name}", draft)
        found = EXERCISES[name][1](known[place], draw)
        if found is None:
            draft.reject("no_material", exercise=name)
        else:
            draft.fields |= dict(zip(("instruction", "input", "response"), found, strict=True))
    return drafts


def _asked(name: str, given: Material, **values: object) -> str:
    return PROMPTS.render(f"{name}", title=given.title, **values)


def recite(given: Material, draw: random.Random) -> Exercise | None:
    """The whole passage from its first sentence."""
    if len(given.sentences) < 2:
        return None
    return _asked("recite", given), given.sentences[0], given.body


def next_sentence(given: Material, draw: random.Random) -> Exercise | None:
    """The sentence that follows some others."""
    if len(given.sentences) < 2:
        return None
    place = draw.randrange(1, len(given.sentences))
    before = " ".join(given.sentences[max(0, place - 3) : place])
    return _asked("next_sentence", given), before, given.sentences[place]


def name_it(given: Material, draw: random.Random) -> Exercise | None:
    """The title, as the shortest summary there is."""
    if given.title is None or not given.sentences:
        return None
    return _asked("title", given), given.body, given.title


def key_terms(given: Material, draw: random.Random) -> Exercise | None:
    """All that is named in the passage."""
    if len(given.terms) < 2:
        return None
    return _asked("key_terms", given), given.body, "\n".join(f"- {t}" for _, t in given.terms)


def true_or_false(given: Material, draw: random.Random) -> Exercise | None:
    """A sentence as it stands, or with a name or number exchanged for another one."""
    found = _changeable(given)
    if not found:
        return None
    sentence, kind, term = draw.choice(found)
    if draw.random() < 0.5:
        return _asked("true_or_false", given, statement=sentence), given.body, "True"
    other = draw.choice(_others(given, kind, term))
    false = _replaced(sentence, term, other)
    answer = f"False. It is {term}, not {other}: {sentence}"
    return _asked("true_or_false", given, statement=false), given.body, answer


def order(given: Material, draw: random.Random) -> Exercise | None:
    """Sentences in disorder, to be numbered in their order."""
    number = min(5, len(given.sentences))
    if number < 3:
        return None
    start = draw.randrange(len(given.sentences) - number + 1)
    places = draw.sample(range(number), number)
    if places == sorted(places):
        places.reverse()
    shown = [f"{n}. {given.sentences[start + p]}" for n, p in enumerate(places, 1)]
    answer = ", ".join(str(places.index(p) + 1) for p in range(number))
    return _asked("order", given), "\n".join(shown), answer


def teach(given: Material, draw: random.Random) -> Exercise | None:
    """Everything about the title."""
    if given.title is None or not given.sentences:
        return None
    return _asked("teach", given), "", given.body


def flashcards(given: Material, draw: random.Random) -> Exercise | None:
    """The passage out of its title and what is named in it."""
    if given.title is None or len(given.terms) < 2:
        return None
    return _asked("flashcards", given, terms=[t for _, t in given.terms]), "", given.body


def fill_in(given: Material, draw: random.Random) -> Exercise | None:
    """What was taken out of a sentence."""
    found = _changeable(given, others=False)
    if not found:
        return None
    sentence, _, term = draw.choice(found)
    return _asked("fill_in", given), _replaced(sentence, term, _BLANK), term


def choice(given: Material, draw: random.Random) -> Exercise | None:
    """What was taken out of a sentence, among others of its kind."""
    found = [f for f in _changeable(given) if len(_others(given, *f[1:])) >= 2]
    if not found:
        return None
    sentence, kind, term = draw.choice(found)
    others = _others(given, kind, term)
    options = [term, *draw.sample(others, min(3, len(others)))]
    draw.shuffle(options)
    lettered = [f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=False)]
    shown = "\n".join([_replaced(sentence, term, _BLANK), *lettered])
    return _asked("choice", given), shown, lettered[options.index(term)]


def complete(given: Material, draw: random.Random) -> Exercise | None:
    """The end of a sentence from its beginning; cut between words, not near the ends."""
    found = [s for s in given.sentences if len(s.split()) >= 6]
    if not found:
        return None
    words = draw.choice(found).split()
    place = draw.randint(len(words) // 3, 2 * len(words) // 3)
    return _asked("complete", given), " ".join(words[:place]), " ".join(words[place:])


def _changeable(given: Material, others: bool = True) -> list[tuple[str, str, str]]:
    """Sentences with a term in them, its kind and itself; others: only where there is another."""
    return [
        (sentence, kind, term)
        for sentence in given.sentences
        for kind, term in given.terms
        if _replaced(sentence, term, _BLANK) != sentence
        and (not others or _others(given, kind, term))
    ]


def _others(given: Material, kind: str, term: str) -> list[str]:
    """What else of this kind the passage names."""
    return [t for k, t in given.terms if k == kind and t.casefold() != term.casefold()]


def _replaced(sentence: str, term: str, other: str) -> str:
    """The sentence with every occurrence of a term as a whole word replaced."""
    pattern = rf"(?<![\w.]){re.escape(term)}(?![\w])"
    return re.sub(pattern, lambda _: other, sentence)


EXERCISES: Final[dict[str, tuple[str, Callable[[Material, random.Random], Exercise | None]]]] = {
    "recite": ("memorise", recite),
    "next_sentence": ("memorise", next_sentence),
    "title": ("comprehend", name_it),
    "key_terms": ("comprehend", key_terms),
    "true_or_false": ("comprehend", true_or_false),
    "order": ("comprehend", order),
    "teach": ("reflect", teach),
    "flashcards": ("reflect", flashcards),
    "fill_in": ("reflect", fill_in),
    "choice": ("reflect", choice),
    "complete": ("reflect", complete),
}
"""Each exercise with what it practises: to memorise, to comprehend, or to reflect."""
