"""CoEvol: two debaters, an adviser, an editor and a judge, until an edit is no better.

CoEvol: Constructing Better Responses for Instruction Finetuning through Multi-Agent Cooperation
(Li et al. 2024, arXiv:2406.07054; lirenhao1997/CoEvol).

As in the paper: one debater speaks for the answer and one against it, each on its own and then
in view of the other; an adviser draws advice from both; an editor follows it; a judge compares
edited and old answer. In a longer conversation every answer is edited in its turn, and later ones
follow the edited ones.

As in the authors' code: both orders are graded and averaged; where one order cannot be read the
other decides, and where neither can, or the new answer is not better, the round's old answer
stands and the row is done; at most three rounds; one free round of the debate.

Ours: the wording; grades from 1 to 10 as JSON; temperature 0.7 for what is written and 0 for
grades; that a row whose model did not write what a later step needs keeps its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, NonNegativeInt, option_group
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages.rewrite.revise.passes import Reviser

PROMPTS: Final = Prompts(__file__)

_VALUES: Final = ("request", "response")
_EVIDENCE_CHARACTERS: Final = 2_000


@option_group
class CoEvol:
    """Debate, advise, edit, judge (CoEvol, Li et al. 2024).

    Without `judge` the model that writes also judges.

    Args:
        name: "coevol".
        rounds: Rounds of a row, at most.
        debate_rounds: How often each debater replies to the other before the advice.
    """

    name: Literal["coevol"] = "coevol"
    rounds: Count = 3
    debate_rounds: NonNegativeInt = 1

    decoding: ClassVar[Decoding] = Decoding(2048, 0.7)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Edit answers as long as the judge prefers the edited one."""
        going = list(drafts)
        for number in range(1, self.rounds + 1):
            attempts = [draft.child() for draft in going]
            self._edit(reviser, attempts)
            for attempt in attempts:
                attempt.fields["evidence"] = {"round": number}
                if attempt.active:
                    attempt.fields["new_response"] = attempt["edited"]
                    advice = attempt["advice"][:_EVIDENCE_CHARACTERS]
                    attempt.fields["evidence"]["advice"] = advice
            going = reviser.conclude(going, attempts, "coevol")

    def _edit(self, reviser: Reviser, attempts: Sequence[Draft]) -> None:
        """Set `advice` and `edited` of attempts."""
        for side in ("for", "against"):
            reviser.write(attempts, side, partial(_opening, side))
        for _ in range(self.debate_rounds):
            # Both reply to what the other had said before this round.
            for side, other in (("for", "against"), ("against", "for")):
                reviser.write(attempts, f"{side}_reply", partial(_reply, side, other))
            for attempt in attempts:
                if attempt.active:
                    for side in ("for", "against"):
                        attempt.fields[side] = attempt[f"{side}_reply"]
        reviser.write(attempts, "advice", _advice)
        reviser.write(attempts, "edited", _edited)


def _opening(side: str, draft: Draft) -> Prompt:
    return user(PROMPTS.render(side, **{name: draft[name] for name in _VALUES}))


def _reply(side: str, other: str, draft: Draft) -> Prompt:
    values = {name: draft[name] for name in _VALUES}
    text = PROMPTS.render("reply", side=side, own=draft[side], other=draft[other], **values)
    return user(text)


def _advice(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in _VALUES}
    return user(PROMPTS.render("advise", praise=draft["for"], blame=draft["against"], **values))


def _edited(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in (*_VALUES, "advice")}
    return user(PROMPTS.render("edit", **values))
