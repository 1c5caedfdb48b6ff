"""Descriptions of people: out of texts, and out of the people around them.

Persona Hub (Ge et al. 2024, arXiv:2406.20094), sections 2.1 and 2.2.

- As in the paper: text-to-persona asks who is likely to read, write, like or dislike a text, and
  for as much detail as the text gives; persona-to-persona asks who is in a close relationship
  with a persona, for those whom texts hardly show (children, patients, people behind the scenes),
  in up to six rounds, after the six degrees of separation.
- As in the authors' code: nothing; only the prompts of tasks are released.
- Ours: the words of the prompts; how much of a text is shown; which of the four a text is asked
  for, drawn for each; one relation at a time, each sampled by itself; the lengths that a
  description may have, where the paper names a heuristic filter without saying which.

The paper thins personas out by MinHash (words as features, 128 of them, a similarity of 0.9) and
by embeddings (a cosine of 0.9): `dedup.minhash` with `ngram_size: 1`, and `dedup.semantic`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import polars as pl

from pipeline.types import Count, NonEmpty, Range, option_group
from schemas.records import digest, record_id
from stages._common.option_types import Distinct
from stages._llm.drafts import Draft, GenerateField, filter_drafts, user
from stages._llm.preambles import without_preamble
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, license_of

PROMPTS: Final = Prompts(__file__)

Stance = Literal["read", "write", "like", "dislike"]

_WORDS: Final = (3, 120)
"""A sentence or two in the paper's examples, and room for more."""

_ANNOUNCED: Final = re.compile(r"\W*here(?:['’]s| is)\b[^\n:]{0,80}:[*_]*\s*", re.IGNORECASE)
"""What may stand before a description: "Here is the persona:"."""


@option_group
class FromText:
    """Who is likely to read or write a text (text-to-persona).

    Args:
        name: "text".
        per_text: Personas of each text.
        stances: What they would do with it; the personas of a text take turns.
        max_texts: Size of the random sample of texts; null for all.
        characters: How much of a text is shown, from its beginning.
        words: The fewest and the most words of a description; others are dropped as
            `persona_length`.
    """

    name: Literal["text"] = "text"
    per_text: Count = 1
    stances: Annotated[tuple[Stance, ...], NonEmpty, Distinct] = ("read", "write")
    max_texts: Count | None = None
    characters: Count = 4000
    words: Range = _WORDS


@option_group
class Relations:
    """Who is close to a persona (persona-to-persona), and who to them.

    Args:
        name: "relations".
        iterations: Rounds; each starts from the personas that the one before it brought. The
            paper has 6.
        per_persona: Personas that each one brings in a round.
        words: As in `text`.
    """

    name: Literal["relations"] = "relations"
    iterations: Count = 1
    per_persona: Count = 1
    words: Range = _WORDS


def describe_readers(
    write: GenerateField, documents: pl.DataFrame, method: FromText, seed: int
) -> list[Draft]:
    """Drafts with the personas of each document.

    Args:
        write: Sends the requests.
        documents: The texts.
        method: The options.
        seed: Of the sample of texts, and of which question each is asked first.
    """
    drafts = []
    ranked = sorted(documents["id"], key=lambda id_: digest([seed, "texts", id_]))
    sampled = {*ranked[: method.max_texts]}
    columns = documents.select("id", "text", "origins").iter_rows()
    for id_, text, origins in columns:
        shown = (text or "").strip()[: method.characters]
        first = int(digest([seed, "stance", id_]), 16)
        for position in range(method.per_text):
            stance = method.stances[(first + position) % len(method.stances)]
            fields = {"text": shown, "stance": stance}
            draft = Draft((id_,), fields, license_of(origins), position // len(method.stances))
            draft.notes["stance"] = stance
            if not shown:
                draft.reject("no_text")
            elif id_ not in sampled:
                draft.reject("not_sampled")
            drafts.append(draft)
    write(
        *(drafts, "persona"),
        lambda d: user(PROMPTS.render("text", text=d["text"], stance=d["stance"])),
        parse=parse_description,
    )
    filter_drafts(drafts, lambda d: _length(d, method.words))
    return drafts


def relate(write: GenerateField, people: Sequence[Draft], method: Relations) -> list[Draft]:
    """Drafts with the personas that each round brings; rejected people come first.

    Args:
        write: Sends the requests.
        people: The personas that come in.
        method: The options.
    """
    drafts = [person for person in people if not person.active]
    current = [person for person in people if person.active]
    known = {_id(person) for person in current}
    for step in range(1, method.iterations + 1):
        related = [
            _related(person, step, number)
            for person in current
            for number in range(method.per_persona)
        ]
        write(
            *(related, "persona"),
            lambda d: user(PROMPTS.render("relation", persona=d["of"])),
            parse=parse_description,
        )
        filter_drafts(related, lambda d: _length(d, method.words))
        drafts += related
        new: dict[str, Draft] = {}
        for draft in related:
            if draft.active:
                new.setdefault(_id(draft), draft)
        # One who is known already would bring the same people again.
        current = [draft for id_, draft in new.items() if id_ not in known]
        known |= new.keys()
    return drafts


def _related(person: Draft, step: int, number: int) -> Draft:
    """A draft for somebody close to a person."""
    origin = person.parents[0] if step == 1 else _id(person)
    fields = {"of": person["persona"], "relation_step": step}
    return Draft((origin,), fields, person.license, number)


def _id(draft: Draft) -> str:
    """The id of the row that a draft becomes, or is made from."""
    return record_id([{"role": "user", "content": draft.fields.get("persona", "")}])


def parse_description(text: str) -> str | None:
    r"""A description in one line; None where there is none.

    >>> parse_description("Here is the persona:\n\n**Persona:** A nurse\nwho sails.")
    'A nurse who sails.'
    """
    rest = without_preamble(text).strip()
    announced = _ANNOUNCED.match(rest)
    rest = rest[announced.end() :] if announced else rest
    head, _, description = rest.partition(":")
    rest = description if head.strip("*_# ").casefold() in ("persona", "description") else rest
    return " ".join(rest.replace("**", "").split()) or None


def _length(draft: Draft, words: tuple[int, int]) -> Rejection | None:
    number = len(draft["persona"].split())
    return None if words[0] <= number <= words[1] else ("persona_length", {"words": number})
