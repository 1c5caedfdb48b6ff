"""Whether a rewritten text means what the old one did: rules first, then a model.

`entailment` asks in both directions whether one text says all that the other does, `judge` asks
once whether they mean the same. Each answer is the probability of yes; what cannot be read is
neither yes nor no, and its text is dropped as `unreadable`.

Controls: the judge is also asked about pairs of texts that have nothing to do with each other. One
that says yes to these decides nothing, which `paraphrases.json` and a warning say.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from pipeline.models.counting import is_counting
from stages._llm.drafts import Draft, Prompt, ScoreField, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.rewrite.paraphrase.meaning import change, plain_words

PROMPTS: Final = Prompts(__file__)

Check = Literal["entailment", "judge", "rules"]

TextOf = Callable[[Draft], str]

Judge = Callable[[ScoreField, Sequence[Draft]], None]
"""Sends questions about drafts and stores the probability of yes as `same`."""

_log = logging.getLogger(__name__)


@dataclass
class MeaningCheck:
    """Checks rewritten texts, and counts what the judge says.

    Attributes:
        ask: `score_field` with the judge's engine, seed and limits filled in.
        how: What decides after the rules.
        min_probability: The least probability of yes.
        num_controls: How many unrelated pairs the judge is asked about.
        judged: Texts that were judged.
        accepted: Of these, those that mean the same.
        controls: The probabilities of yes to unrelated pairs.
    """

    ask: ScoreField
    how: Check
    min_probability: float
    num_controls: int
    judged: int = 0
    accepted: int = 0
    controls: list[float] = field(default_factory=list)

    def run(self, drafts: Sequence[Draft], before: TextOf, after: TextOf, aspect: str = "") -> None:
        """Drop the drafts whose new text does not mean what the old one did.

        Args:
            drafts: Changed in place; what is judged gets the field `same`.
            before: The old text of a draft.
            after: The new one.
            aspect: What the texts may differ in, in words of the prompt.
        """
        filter_drafts(drafts, lambda draft: change(before(draft), after(draft)))
        if self.how != "rules":
            self.count(drafts, partial(self._judge, before, after, aspect))
            filter_drafts(drafts, self._rejection)

    def count(self, drafts: Sequence[Draft], judge: Judge) -> None:
        """Have drafts judged, and count how many are the same.

        Args:
            drafts: The active ones get the field `same`.
            judge: Sends the questions.
        """
        judge(self.ask, drafts)
        self.judged += sum(draft.active for draft in drafts)
        self.accepted += sum(self.holds(draft) for draft in drafts)

    def holds(self, draft: Draft) -> bool:
        """Whether what was judged means the same.

        Args:
            draft: One that `judge` has seen.
        """
        return bool(draft.active and draft["same"] >= self.min_probability)

    def ask_controls(self, pairs: Sequence[Draft], judge: Judge) -> None:
        """Ask about texts that are not the same, as many as there are controls.

        Args:
            pairs: In the order of the rows' ids.
            judge: Sends the questions.
        """
        pairs = pairs[: self.num_controls]
        judge(self.ask, pairs)
        self.controls = [float(pair["same"]) for pair in pairs if pair.active]

    def ask_unrelated(self, texts: Sequence[str]) -> None:
        """Ask about pairs of texts that have nothing to do with each other.

        Args:
            texts: Texts of the rows, in the order of their ids.
        """
        if self.how == "rules":
            return
        distinct = list({" ".join(plain_words(text)): text for text in texts}.values())
        pairs = [
            Draft((), {"before": one, "after": two})
            for one, two in zip(distinct[::2], distinct[1::2], strict=False)
        ]
        before, after = (lambda d: str(d["before"])), (lambda d: str(d["after"]))
        self.ask_controls(pairs, partial(self._judge, before, after, ""))

    def _judge(
        self,
        before: TextOf,
        after: TextOf,
        aspect: str,
        ask: ScoreField,
        drafts: Sequence[Draft],
    ) -> None:
        """Store the least probability that the two texts of each draft mean the same."""
        questions = ("forth", "back") if self.how == "entailment" else ("same",)
        for name in questions:
            texts = (after, before) if name == "back" else (before, after)
            ask(drafts, name, partial(_question, self.how, *texts, aspect))
        for draft in drafts:
            if draft.active:
                draft.fields["same"] = min(draft[name] for name in questions)

    def _rejection(self, draft: Draft) -> Rejection | None:
        if self.holds(draft):
            return None
        return "meaning_changed", {"probability": round(draft["same"], 6), "how": self.how}

    def facts(self) -> dict[str, Any]:
        """What the judge did; with a warning where it says yes to unrelated texts."""
        wrong = sum(value >= self.min_probability for value in self.controls)
        always_yes = bool(self.controls) and 2 * wrong > len(self.controls)
        if always_yes and not is_counting():
            _log.warning(
                "the judge says that %d of %d pairs of unrelated texts mean the same: it decides "
                "nothing, and %d of %d rewritten texts were accepted",
                *(wrong, len(self.controls), self.accepted, self.judged),
            )
        return {
            "how": self.how,
            "judged": self.judged,
            "accepted": self.accepted,
            "controls": len(self.controls),
            "controls_accepted": wrong,
            "always_yes": always_yes,
        }


def _question(how: Check, first: TextOf, second: TextOf, aspect: str, draft: Draft) -> Prompt:
    return user(PROMPTS.render(how, first=first(draft), second=second(draft), aspect=aspect))


def drop_repeated(drafts: Sequence[Draft], after: TextOf) -> None:
    """Drop what says the same words as an earlier variant of its row.

    Args:
        drafts: The variants of all rows, those of each in order.
        after: The new text of a draft.
    """
    seen: dict[tuple[object, ...], int] = {}

    def rejection(draft: Draft) -> Rejection | None:
        key = (*draft.parents, *plain_words(after(draft)))
        first = seen.setdefault(key, draft.number)
        return None if first == draft.number else ("identical", {"same_as_variant": first})

    filter_drafts(drafts, rejection)


def write_facts(
    folder: Path, ended: Counter[str], routes: Counter[str], check: MeaningCheck
) -> None:
    """Write `paraphrases.json`: how the drafts ended, and what the judge did.

    Args:
        folder: The stage's files.
        ended: How often each end occurred.
        routes: What became of the rows of S3FT; empty for other methods.
        check: Has judged.
    """
    facts: dict[str, Any] = {"drafts": sum(ended.values()), "ended": dict(ended.most_common())}
    if routes:
        facts["routes"] = {name: routes[name] for name in ("own", "paraphrase", "gold")}
    facts["check"] = check.facts()
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    (folder / "paraphrases.json").write_text(text + "\n", "utf-8")
