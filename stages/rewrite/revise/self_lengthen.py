"""Self-Lengthen's extension: an answer grown piece by piece, and only if it is still a text.

Self-Lengthen: Language Models can Self-Lengthen to Generate Long Texts (Quan et al. 2024,
arXiv:2410.23933; QwenLM/Self-Lengthen).

As in the paper: the first half of an answer's paragraphs is extended, the first two thirds of
that are kept, and the model goes on from there over the whole; passes go on from the result.

As in the authors' code: up to three passes; a pass counts only if its text ends in punctuation,
repeats no run of 13 words (of 10 in the variant for Llama) and is longer; the whole counts if it
has more than 1.2 times the words.

Ours: the wording, and the decoding; the beginning stands in the request that goes on from it, not
in the answer; an answer of one paragraph is extended in one request; only what closes a sentence
or a block is punctuation (the code takes a comma too); a pass that does not count is the last (the
code tries three, and all of it up to 20 times); no words are forbidden (it refuses "version" and
the like in the first lines). Training in turns is a recipe: `self-lengthen`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Final, Literal

import polars as pl

from pipeline.models.base import Decoding
from pipeline.models.counting import is_counting
from pipeline.types import Count, PositiveFloat, option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages._text.tokens import tokens
from stages.rewrite.revise.passes import Reviser

PROMPTS: Final = Prompts(__file__)

REPEATED: Final = 13
"""Words of a run that may not occur twice."""

_CLOSING: Final = re.compile(r"[.!?。！？…][\s\"'”’»」』）)*_`]*\Z|```\s*\Z")
_BLANK_LINES: Final = re.compile(r"\n[ \t]*\n\s*")


@option_group
class SelfLengthen:
    """Answers extended in passes (Self-Lengthen, Quan et al. 2024).

    Keeps an answer as `not_closed`, `repetition` or `not_longer`.

    Args:
        name: "self_lengthen".
        num_passes: How often an answer is extended, at most.
        min_ratio: The words of the new answer in terms of the old one's must exceed this.
    """

    name: Literal["self_lengthen"] = "self_lengthen"
    num_passes: Count = 3
    min_ratio: PositiveFloat = 1.2

    decoding: ClassVar[Decoding] = Decoding(8192, 0.7)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Extend answers, each pass from the result of the last."""
        attempts = [draft.child(text=draft["response"], evidence={}) for draft in drafts]
        going = list(attempts)
        for _ in range(self.num_passes):
            steps = [attempt.child() for attempt in going]
            _extend(reviser, steps)
            going = [a for a, step in zip(going, steps, strict=True) if _goes_on(a, step)]
        for attempt in attempts:
            if attempt.active:
                self._finish(attempt)
        reviser.conclude(drafts, attempts, "self_lengthen")

    def _finish(self, attempt: Draft) -> None:
        """Take the longest valid text for the new answer, if it is long enough."""
        words, old = word_count(attempt["text"]), word_count(attempt["response"])
        attempt.fields["evidence"] |= {"words": words, "words_before": old}
        attempt.fields["new_response"] = attempt["text"]
        stopped = attempt["evidence"].get("stopped")
        if is_counting() or words > self.min_ratio * old:
            return
        if attempt["text"] == attempt["response"] and stopped not in (None, "unchanged"):
            attempt.reject(stopped)
        elif attempt["text"] != attempt["response"]:
            attempt.reject("not_longer")


def _extend(reviser: Reviser, steps: Sequence[Draft]) -> None:
    """Set `longer` of steps: their text after one pass."""
    halved = [step for step in steps if len(paragraphs(step["text"])) > 1]
    whole = [step for step in steps if len(paragraphs(step["text"])) <= 1]
    for step in halved:
        parts = paragraphs(step["text"])
        step.fields["part"] = "\n\n".join(parts[: len(parts) // 2])
    for step in whole:
        step.fields["part"] = step["text"]
    reviser.write(steps, "extended", _extend_prompt)
    for step in halved:
        if step.active:
            step.fields["begun"] = first_part(step["extended"])
    reviser.write(halved, "rest", _continue_prompt)
    for step in steps:
        if step.active:
            longer = f"{step['begun']}\n\n{step['rest']}" if "rest" in step.fields else None
            step.fields["longer"] = longer or step["extended"]


def _goes_on(attempt: Draft, step: Draft) -> bool:
    """Take over a pass that gave a longer text; whether another one may follow."""
    attempt.journal, attempt.notes = list(step.journal), dict(step.notes)
    attempt.error = step.error
    if step.error is not None:
        return False
    reason = step.rejection[0] if step.rejection else None
    if reason is None and not is_counting():
        reason = _why_invalid(step["longer"], attempt["text"])
    if reason is None:
        attempt.fields["text"] = step["longer"]
        attempt.fields["evidence"]["passes"] = attempt["evidence"].get("passes", 0) + 1
        return True
    end = (step.rejection[1] if step.rejection else {}).get("response_end")
    end = end or step.fields.get("longer", "")[-200:]
    attempt.fields["evidence"] |= {"stopped": reason, "response_end": end}
    return False


def _why_invalid(text: str, before: str) -> str | None:
    if text.split() == before.split():
        return "unchanged"
    if not _CLOSING.search(text):
        return "not_closed"
    if repeats(text):
        return "repetition"
    return None if word_count(text) > word_count(before) else "not_longer"


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, which blank lines part.

    Args:
        text: The text.
    """
    return [part for part in _BLANK_LINES.split(text.strip()) if part]


def first_part(text: str) -> str:
    """The first two thirds of a text's paragraphs, at least one.

    Args:
        text: The text.

    Example:
        >>> first_part("a\\n\\nb\\n\\nc")
        'a\\n\\nb'
    """
    parts = paragraphs(text)
    return "\n\n".join(parts[: max(1, len(parts) * 2 // 3)])


def word_count(text: str) -> int:
    """The words of a text; of scripts without spaces its characters.

    Args:
        text: The text.

    Example:
        >>> word_count("two words"), word_count("两个词")
        (2, 3)
    """
    return len(_words(text))


def repeats(text: str, length: int = REPEATED) -> bool:
    """Whether a run of words occurs twice in a text.

    Args:
        text: The text.
        length: Words of the run.

    Example:
        >>> repeats("a b c d a b c", 3), repeats("a b c d e f g", 3)
        (True, False)
    """
    words = _words(text)
    runs = sorted(tuple(words[i : i + length]) for i in range(len(words) - length + 1))
    return any(one == two for one, two in pairwise(runs))


def _words(text: str) -> list[str]:
    counted = tokens(pl.Series([text])).to_list()[0] or []
    return [word for word in counted if any(map(str.isalnum, word))]


def _extend_prompt(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("request", "part")}
    return user(PROMPTS.render("extend", **values))


def _continue_prompt(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("request", "text", "begun")}
    return user(PROMPTS.render("continue", **values))
