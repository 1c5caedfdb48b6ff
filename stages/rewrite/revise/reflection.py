"""Reflection-Tuning: a critique first, then a better text, of the instruction and of the answer.

Reflection-Tuning: Data Recycling Improves LLM Instruction-Tuning (Li et al. 2023,
arXiv:2310.11716; tianyi-lab/Reflection_Tuning).

As in the paper: one request criticises a text by named criteria and writes a better one; first
the instruction with a new answer to it, then the answer; the criteria.

As in the authors' code: temperature 0, 2,048 tokens; a new text counts only where exactly one
stands between its marks, and a placeholder, "N/A" or nothing keeps the old one.

Ours: the wording and the marks; the instruction is shown with its input, which the code's prompt
leaves out; only the last answer is revised, and an instruction only where it is the whole of the
conversation before it; a completion that was cut keeps the old text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages.rewrite._blocks import blocks
from stages.rewrite.revise.passes import Gate, Reviser

PROMPTS: Final = Prompts(__file__)

CRITIQUE: Final = "Critique"
INSTRUCTION: Final = "New instruction"
ANSWER: Final = "New answer"

_EVIDENCE_CHARACTERS: Final = 2_000
"""How much of a critique is kept."""


@option_group
class Reflection:
    """A critique and a rewriting in one answer (Reflection-Tuning, Li et al. 2023).

    Args:
        name: "reflection".
        texts: What is rewritten, in this order: the instruction (and with it its answer), the
            answer, or both.
    """

    name: Literal["reflection"] = "reflection"
    texts: Annotated[tuple[Literal["instruction", "answer"], ...], NonEmpty, Distinct] = (
        *("instruction", "answer"),
    )

    decoding: ClassVar[Decoding] = Decoding(2048, 0.0)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Revise the instructions that stand alone, and the answers."""
        for text in self.texts:
            working = [draft for draft in drafts if draft.active]
            if text == "instruction":
                reflect_on_instructions(reviser, [d for d in working if stands_alone(d)])
            else:
                reflect_on_answers(reviser, working)


def stands_alone(draft: Draft) -> bool:
    """Whether nothing precedes the instruction, and nothing follows its answer.

    Args:
        draft: Set to an answer.
    """
    return draft["at"] == 1 and len(draft["turns"]) == 2


def reflect_on_instructions(
    reviser: Reviser, drafts: Sequence[Draft], gate: Gate | None = None
) -> list[Draft]:
    """Have instructions criticised and rewritten, each with a new answer.

    Args:
        reviser: Sends the requests.
        drafts: Rows of one instruction and one answer.
        gate: Decides on them; see `Reviser.conclude`.

    Returns:
        Those whose new texts were accepted.
    """
    attempts = [draft.child() for draft in drafts]
    names = (CRITIQUE, INSTRUCTION, ANSWER)
    reviser.write(attempts, "reflection", partial(_prompt, "instruction"), parse=_parser(names))
    for attempt in attempts:
        if attempt.active:
            written = attempt["reflection"]
            attempt.fields["new_instruction"] = written[INSTRUCTION]
            attempt.fields["new_response"] = written[ANSWER]
            attempt.fields["evidence"] = _evidence(written)
    return reviser.conclude(drafts, attempts, "reflection/instruction", gate)


def reflect_on_answers(
    reviser: Reviser, drafts: Sequence[Draft], gate: Gate | None = None
) -> list[Draft]:
    """Have answers criticised and rewritten.

    Args:
        reviser: Sends the requests.
        drafts: Rows set to an answer.
        gate: Decides on them; see `Reviser.conclude`.

    Returns:
        Those whose new answer was accepted.
    """
    attempts = [draft.child() for draft in drafts]
    prompt = partial(_prompt, "answer")
    reviser.write(attempts, "reflection", prompt, parse=_parser((CRITIQUE, ANSWER)))
    for attempt in attempts:
        if attempt.active:
            attempt.fields["new_response"] = attempt["reflection"][ANSWER]
            attempt.fields["evidence"] = _evidence(attempt["reflection"])
    return reviser.conclude(drafts, attempts, "reflection/answer", gate)


def _parser(names: Sequence[str]) -> partial[dict[str, str] | None]:
    return partial(blocks, names=tuple(names))


def _evidence(written: dict[str, str]) -> dict[str, str]:
    return {"critique": written[CRITIQUE][:_EVIDENCE_CHARACTERS]}


def _prompt(name: str, draft: Draft) -> Prompt:
    values = {key: draft[key] for key in ("request", "instruction", "response")}
    return user(PROMPTS.render(name, **values))
