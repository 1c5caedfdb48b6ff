"""A new answer against the old one, in both orders.

Both answers are graded from 1 to 10 in either order, and the grades of each are averaged: what a
judge gives to a place cancels out. The new answer is accepted only if its mean is higher: a tie
keeps the old one. Where one order cannot be read the other one decides, as in CoEvol's code;
where neither can, the old answer is kept.

A method may ask for certainty instead: the probability that the new answer is the better one,
averaged over both orders, of which neither may be missing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.models.base import Decoding
from stages._llm.drafts import Draft, GenerateField, Prompt, ScoreField, user
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

HIGHEST: Final = 10

MAX_TOKENS: Final = 512
"""Of a comparison with its reason."""

Scores = tuple[float, float]
"""Of the old answer and of the new one."""

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
_BETTER: Final = ({"A": 0.0, "B": 1.0, "tie": 0.0}, {"A": 1.0, "B": 0.0, "tie": 0.0})
"""What each label says of the new answer, in second place and in first."""

_MANY: Final = 3
"""Pairs from which on a judge that always prefers one place is a finding."""
_ALWAYS: Final = 10
"""The same of a judge that prefers every new answer, which may well be better."""

_log = logging.getLogger(__name__)


@dataclass
class Judge:
    """Compares answers, and counts what it prefers.

    Attributes:
        ask: `generate_field` with the judge's engine and the seed filled in.
        label: `score_field` likewise.
        max_tokens: Limit of a comparison in tokens.
        firsts: For each readable comparison whether the first place won: 1, 0, or 0.5 for a tie.
        pairs: Pairs of which at least one order could be read.
        agreed: Pairs whose orders prefer the same answer.
        one_order: Pairs of which one order could not be read.
        unread: Pairs of which neither could.
        accepted: Pairs whose new answer is better.
    """

    ask: GenerateField
    label: ScoreField
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
        return [self._verdict(*each) for each in _by_order(drafts, orders, _scores)]

    def surely_better(
        self, drafts: Sequence[Draft], *, min_probability: float, min_mass: float
    ) -> list[Verdict]:
        """For each draft whether its candidate's answer is better with a high probability.

        Args:
            drafts: As of `compare`.
            min_probability: What the mean of both orders must exceed.
            min_mass: The least probability of the three labels together.
        """
        orders = [draft.child(swapped=swapped) for draft in drafts for swapped in (False, True)]
        for swapped, labels in enumerate(_BETTER):
            self.label(orders[swapped::2], "better", _choice, labels, min_mass=min_mass)
        return [
            self._verdict(*each, min_probability)
            for each in _by_order(drafts, orders, _probabilities)
        ]

    def _verdict(
        self, draft: Draft, orders: Sequence[Scores | None], min_probability: float | None = None
    ) -> Verdict:
        """The verdict over the (old, new) scores of both orders."""
        read = [scores for scores in orders if scores is not None]
        evidence: dict[str, Any] = {"scores": [s and list(s) for s in orders]}
        sure = min_probability is not None
        if not read or (sure and len(read) < len(orders)):
            self.unread += draft.error is None
            return "unjudged", evidence
        self.pairs += 1
        self.one_order += len(read) < len(orders)
        gains = [new - old for old, new in read]
        self.agreed += len(gains) == 2 and _sign(gains[0]) == _sign(gains[1])
        for scores, swapped in zip(orders, (False, True), strict=True):
            if scores is not None:
                first, second = reversed(scores) if swapped else scores
                self.firsts.append((_sign(first - second) + 1) / 2)
        if min_probability is None:
            better = sum(gains) > 0
        else:
            probability = sum(new for _, new in read) / len(read)
            evidence["probability"] = round(probability, 6)
            better = probability > min_probability
        self.accepted += better
        return (None if better else "no_gain"), evidence

    def facts(self) -> dict[str, Any]:
        """What the judge did; a warning where it always prefers one place."""
        share = sum(self.firsts) / len(self.firsts) if self.firsts else None
        always = self.pairs >= _ALWAYS and self.accepted == self.pairs
        if always:
            _log.warning(
                "the judge preferred all of %d new answers: compare some with the old ones (`cat`) "
                "before you trust it",
                self.pairs,
            )
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
            "always_the_new_answer": always,
        }


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _by_order(
    drafts: Sequence[Draft], orders: Sequence[Draft], read: Callable[[Draft], Scores | None]
) -> list[tuple[Draft, list[Scores | None]]]:
    """Each draft, which takes over journal and error, with the scores of its two orders."""
    result = []
    for draft, one, two in zip(drafts, orders[::2], orders[1::2], strict=True):
        draft.journal = [*one.journal, *two.journal[len(draft.journal) :]]
        draft.error = one.error or two.error
        result.append((draft, [read(one), read(two)]))
    return result


def _probabilities(order: Draft) -> Scores | None:
    """The probabilities that the new answer is not better, and that it is."""
    return (1 - order["better"], order["better"]) if order.active else None


def _scores(order: Draft) -> Scores | None:
    """The scores (old, new) of one order; None where they cannot be read."""
    if not order.active:
        return None
    first, second = (float(order["scores"][name]) for name in ("first", "second"))
    return (second, first) if order["swapped"] else (first, second)


def _ballot(draft: Draft) -> Prompt:
    return user(PROMPTS.render("compare", request=draft["request"], **_answers(draft)))


def _choice(draft: Draft) -> Prompt:
    return user(PROMPTS.render("better", request=draft["request"], **_answers(draft)))


def _answers(draft: Draft) -> dict[str, str]:
    """The answers in their places."""
    answers = [draft["response"], draft["candidate"].response]
    first, second = reversed(answers) if draft["swapped"] else answers
    return {"first": first, "second": second}
