"""S3FT: the student's own answer where it is right, else the gold one in its words, else gold.

S3FT: Selective Self-to-Supervised Fine-Tuning for Generalization in Large Language Models (Gupta
et al. 2025, arXiv:2502.08130).

As in the paper: the model that will be tuned answers each request; an answer that is equivalent to
the gold one, by a heuristic of the task or a judge, is the target. Elsewhere that model rewrites
the gold answer, and what is still equivalent is the target; the gold answer is it where neither
is. Student and judge may be one model (Mistral-7B there).

Ours: the wording; greedy sampling; as heuristic the final answers, where the gold one has a short
one (`stages/_text/answers.py`), and of paraphrases the rules of `meaning.py` before the judge.
What cannot be read is no yes: the row goes on to the next route. Programs are verified by
`score.execution`, not here (the paper runs the tests of its programs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.models.counting import is_counting
from pipeline.types import option_group
from stages._llm.drafts import Draft, Prompt, RowMessages, ScoreField, user
from stages._llm.prompts import Prompts
from stages._text.answers import equal
from stages._text.final_answer import final_answer
from stages.rewrite._exchanges import exchange_messages
from stages.rewrite.paraphrase.meaning import MAX_ANSWER_WORDS, change, plain_words
from stages.rewrite.paraphrase.paraphraser import Paraphraser

PROMPTS: Final = Prompts(__file__)

Route = Literal["own", "paraphrase", "gold"]

Equivalence = Literal["answer", "judge", "answer_or_judge"]


@option_group
class S3FT:
    """The student's own answers where they are right (S3FT, Gupta et al. 2025).

    Args:
        name: "s3ft".
        equivalence: What says that an answer is right: its final "answer", the "judge", or the
            answer where both have a short one, else the judge.
        paraphrase: Whether gold answers are put into the student's words where its own is wrong.
    """

    name: Literal["s3ft"] = "s3ft"
    equivalence: Equivalence = "answer_or_judge"
    paraphrase: bool = True

    decoding: ClassVar[Decoding] = Decoding(1024, 0.0)

    def run(self, paraphraser: Paraphraser, drafts: Sequence[Draft]) -> list[Draft]:
        """The rows, each with its `route`, the target and why earlier routes were left."""
        open_rows = []
        for draft in drafts:
            reason = draft.rejection[0] if draft.rejection else None
            draft.rejection = None
            draft.fields |= {"route": "gold", "new": None, "left": {"row": reason}}
            if reason is None:
                draft.fields["left"] = {}
                open_rows.append(draft)
        if self.equivalence != "answer":
            paraphraser.check.ask_controls(_unrelated(open_rows), _equivalent)
        own = [draft.child() for draft in open_rows]
        paraphraser.write(own, "new", _request)
        self._compare(paraphraser, own, by_rules=False)
        rest = self._conclude(open_rows, own, "own")
        if self.paraphrase:
            reworded = [draft.child() for draft in rest]
            paraphraser.write(reworded, "new", _paraphrase)
            self._compare(paraphraser, reworded, by_rules=True)
            self._conclude(rest, reworded, "paraphrase")
        return list(drafts)

    def messages_of(self, draft: Draft) -> RowMessages:
        """The request with the target."""
        start = draft["record"]["input_start"]
        answer = draft["response"] if draft["new"] is None else draft["new"]
        return exchange_messages(draft, draft["request"], start, answer)

    def _compare(
        self, paraphraser: Paraphraser, attempts: Sequence[Draft], *, by_rules: bool
    ) -> None:
        """Reject the attempts that are not equivalent to the gold answer."""
        judged = []
        for attempt in attempts:
            if not attempt.active:
                continue
            verdict = None if self.equivalence == "judge" else _is_equal(attempt)
            changed = change(attempt["response"], attempt["new"]) if by_rules else None
            if is_counting():
                judged += [attempt] if self.equivalence != "answer" else []
            elif changed:
                attempt.rejection = changed
            elif verdict is None and self.equivalence != "answer":
                judged.append(attempt)
            elif not verdict:
                attempt.reject("not_equivalent", final_answers=verdict is not None)
        paraphraser.check.count(judged, _equivalent)
        for attempt in judged:
            if not (is_counting() or paraphraser.check.holds(attempt)) and attempt.active:
                attempt.reject("not_equivalent", probability=round(attempt["same"], 6))

    def _conclude(
        self, drafts: Sequence[Draft], attempts: Sequence[Draft], route: Route
    ) -> list[Draft]:
        """Take the answers that passed; the drafts of the others, as far as they did not fail."""
        rest = []
        for draft, attempt in zip(drafts, attempts, strict=True):
            draft.journal, draft.error = list(attempt.journal), attempt.error
            draft.notes = dict(attempt.notes)
            if attempt.active:
                draft.fields |= {"route": route, "new": attempt["new"]}
                draft.notes["gold"] = draft["response"]
            elif attempt.rejection:
                reason, why = attempt.rejection
                # Reasoning is in no row, also where it did not come to an end.
                shown = {name: value for name, value in why.items() if name != "reasoning_end"}
                draft.fields["left"] = {**draft["left"], route: {"reason": reason, **shown}}
            if draft.error is not None:
                draft.fields["route"] = None
            if draft.active and (is_counting() or not attempt.active):
                rest.append(draft)
        return rest


def _is_equal(attempt: Draft) -> bool | None:
    """Whether the final answers are equal; None where one of them cannot be read."""
    gold = final_answer(attempt["response"], MAX_ANSWER_WORDS)
    own = final_answer(attempt["new"], MAX_ANSWER_WORDS)
    return None if gold is None or own is None else equal(own, gold)


def _equivalent(ask: ScoreField, attempts: Sequence[Draft]) -> None:
    """Store in `same` the probability that an answer is as right as the gold one."""
    ask(attempts, "same", _question)


def _unrelated(drafts: Sequence[Draft]) -> list[Draft]:
    """Rows with the answer of another one, where both are certainly not the same."""
    pairs = []
    for draft, other in zip(drafts[::2], drafts[1::2], strict=False):
        pair = draft.child(new=other["response"])
        if plain_words(draft["response"]) != plain_words(other["response"]):
            pairs.append(pair)
    return [pair for pair in pairs if not _is_equal(pair)]


def _question(attempt: Draft) -> Prompt:
    values = {"request": attempt["request"], "response": attempt["response"]}
    return user(PROMPTS.render("equivalent", **values, answer=attempt["new"]))


def _request(draft: Draft) -> Prompt:
    lead = ((turn["role"], turn["content"] or "") for turn in draft["lead"])
    return (*lead, ("user", draft["request"]))


def _paraphrase(draft: Draft) -> Prompt:
    values = {"request": draft["request"], "response": draft["response"]}
    return user(PROMPTS.render("paraphrase", **values))
