"""A new answer against the old one, in both orders.

Both answers are graded from 1 to 10 in either order, and the grades of each are averaged: what a
judge gives to a place cancels out. The new answer is accepted only if its mean is higher: a tie
keeps the old one. Where one order cannot be read the other one decides, as in CoEvol's code;
where neither can, the old answer is kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.models.base import Decoding
from stages._llm.drafts import Draft, GenerateField, Prompt, user
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

HIGHEST: Final = 10

MAX_TOKENS: Final = 512
"""Of a comparison with its reason."""

Verdict = tuple[str | None, dict[str, Any]]
"""Why a new answer is not accepted, None where it is; and the scores."""

_SCORE: Final = {"type": "integer", "minimum": 1, "maximum": HIGHEST}
_SCHEMA: Final = json.dumps(
    {
        "type": "object",
        "properties": {"reason": {"type": "string"}, "first": _SCORE, "second": _SCORE},
        "required": ["reason", "first", "second"],
        "additionalProperties": False,
    }
)
_MANY: Final = 3
"""Pairs from which on a judge that always prefers one place is a finding."""

_log = logging.getLogger(__name__)


@dataclass
class Judge:
    """Compares answers, and counts what it prefers.

    Attributes:
        ask: `generate_field` with the judge's engine and the seed filled in.
        max_tokens: Limit of a comparison in tokens.
        firsts: For each readable comparison whether the first place won: 1, 0, or 0.5 for a tie.
        pairs: Pairs of which at least one order could be read.
        agreed: Pairs whose orders prefer the same answer.
        one_order: Pairs of which one order could not be read.
        unread: Pairs of which neither could.
        accepted: Pairs whose new answer is better.
    """

    ask: GenerateField
    max_tokens: int = MAX_TOKENS
    firsts: list[float] = field(default_factory=list)
    pairs: int = 0
    agreed: int = 0
    one_order: int = 0
    unread: int = 0
    accepted: int = 0

    def compare(self, drafts: Sequence[Draft]) -> list[Verdict]:
        """For each draft whether the answer of its candidate is better than its own.

        Args:
            drafts: Rows with a candidate; their journals grow, and one that was not judged for
                want of an answer has failed.
        """
        orders = [draft.child(swapped=swapped) for draft in drafts for swapped in (False, True)]
        decoding = Decoding(max_tokens=self.max_tokens, json_schema=_SCHEMA)
        self.ask(orders, "scores", _ballot, decoding=decoding)
        verdicts = []
        for draft, one, two in zip(drafts, orders[::2], orders[1::2], strict=True):
            draft.journal = [*one.journal, *two.journal[len(draft.journal) :]]
            draft.error = one.error or two.error
            verdicts.append(self._verdict([_scores(one), _scores(two)]))
        return verdicts

    def _verdict(self, orders: Sequence[tuple[float, float] | None]) -> Verdict:
        """The verdict over the (old, new) scores of both orders."""
        read = [scores for scores in orders if scores is not None]
        evidence: dict[str, Any] = {"scores": [s and list(s) for s in orders]}
        if not read:
            self.unread += 1
            return "unjudged", evidence
        self.pairs += 1
        self.one_order += len(read) < len(orders)
        gains = [new - old for old, new in read]
        self.agreed += len(gains) == 2 and _sign(gains[0]) == _sign(gains[1])
        for scores, swapped in zip(orders, (False, True), strict=True):
            if scores is not None:
                first, second = reversed(scores) if swapped else scores
                self.firsts.append((_sign(first - second) + 1) / 2)
        if sum(gains) > 0:
            self.accepted += 1
            return None, evidence
        return "no_gain", evidence

    def facts(self) -> dict[str, Any]:
        """What the judge did; a warning where it always prefers one place."""
        share = sum(self.firsts) / len(self.firsts) if self.firsts else None
        one_place = self.pairs >= _MANY and len(set(self.firsts)) == 1 and share != 0.5
        if one_place:
            _log.warning(
                "the judge preferred the %s place in all of %d comparisons, whatever stood there: "
                "it decides nothing, and %d of %d new answers were accepted",
                *("first" if share else "second", len(self.firsts), self.accepted, self.pairs),
            )
        return {
            **{name: getattr(self, name) for name in ("pairs", "accepted", "one_order", "unread")},
            "orders_agree": self.agreed,
            "share_of_first_place": share,
            "always_one_place": one_place,
        }


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _scores(order: Draft) -> tuple[float, float] | None:
    """The scores (old, new) of one order; None where they cannot be read."""
    if not order.active:
        return None
    first, second = (float(order["scores"][name]) for name in ("first", "second"))
    return (second, first) if order["swapped"] else (first, second)


def _ballot(draft: Draft) -> Prompt:
    answers = [draft["response"], draft["candidate"].response]
    first, second = reversed(answers) if draft["swapped"] else answers
    text = PROMPTS.render("compare", request=draft["request"], first=first, second=second)
    return user(text)
