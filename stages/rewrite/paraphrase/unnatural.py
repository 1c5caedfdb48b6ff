"""Unnatural Instructions' expansion: each instruction in other words, its input and output kept.

Unnatural Instructions: Unnatural Instructions: Tuning Language Models with (Almost) No Human Labor
(Honovich et al. 2022, arXiv:2212.09689; orhonovich/unnatural-instructions).

As in the paper: after the tasks are written, a language model reformulates each instruction, about
twice; a reformulation is a row of its own with its own instruction, input and output, in which
the place of the input is kept (68,478 rows became 240,670).

As in the authors' data: the reformulated instruction has a slot for the input, which need not
stand at its end. Here the slot is a marker that no instruction holds; a reformulation without it,
or with two, is dropped as `slot_lost`.

Ours: the wording, without examples of reformulations before it; the sampling; and the check of the
meaning, of which the paper has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, Prompt, RowMessages, filter_drafts, user
from stages._llm.preambles import instruction_text
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.rewrite._exchanges import exchange_messages, request_of
from stages.rewrite.paraphrase.checks import drop_repeated
from stages.rewrite.paraphrase.meaning import leak
from stages.rewrite.paraphrase.paraphraser import Paraphraser, variants_of

PROMPTS: Final = Prompts(__file__)


@option_group
class Unnatural:
    """Reformulations of the instruction (Unnatural Instructions, Honovich et al. 2022).

    Args:
        name: "unnatural".
        num_variants: Reformulations of each instruction.
        slot: Where the input goes: where the model put its "marked" place, or at the "end", behind
            an instruction that was reworded without it. The latter is ours, for models that are
            too weak to keep a mark.
    """

    name: Literal["unnatural"] = "unnatural"
    num_variants: Count = 2
    slot: Literal["marked", "end"] = "marked"

    decoding: ClassVar[Decoding] = Decoding(512, 0.7)

    def run(self, paraphraser: Paraphraser, drafts: Sequence[Draft]) -> list[Draft]:
        """A draft for each reformulation, checked."""
        for draft in drafts:
            draft.fields |= _slotted(draft, marked=self.slot == "marked")
        variants = variants_of(drafts, ("reformulation",), self.num_variants)
        paraphraser.write(variants, "new", _prompt, parse=instruction_text)
        paraphraser.check.run(variants, lambda d: str(d["slotted"]), lambda d: str(d["new"]))
        filter_drafts(variants, _leak)
        drop_repeated(variants, lambda d: str(d["new"]))
        for variant in variants:
            if variant.active:
                variant.notes["reformulation"] = {
                    "instruction": variant["new"],
                    "slot": variant["marker"],
                    "input": variant["input"],
                    "output": variant["response"],
                }
        return variants

    def messages_of(self, draft: Draft) -> RowMessages:
        """The new instruction with the input in its place, and the old answer."""
        if "new" not in draft.fields or draft["new"] is None:
            return exchange_messages(draft, draft["request"], None, draft["response"])
        request, start = _filled(draft)
        return exchange_messages(draft, request, start, draft["response"])


def _slotted(draft: Draft, *, marked: bool) -> dict[str, str | None]:
    """The instruction with a marker for its input, which neither of them holds."""
    instruction = draft["instruction"]
    if not draft["input"] or not marked:
        return {"marker": None, "slotted": instruction}
    names = ("{INPUT}" if n == 0 else f"{{INPUT {n}}}" for n in count())
    marker = next(name for name in names if name not in draft["request"])
    return {"marker": marker, "slotted": f"{instruction}\n\n{marker}"}


def _prompt(draft: Draft) -> Prompt:
    values = {"instruction": draft["slotted"], "marker": draft["marker"]}
    return user(PROMPTS.render("reformulate", **values))


def _filled(draft: Draft) -> tuple[str, int | None]:
    """The request of a reformulation, and where its input begins."""
    marker, new = draft["marker"], draft["new"].strip()
    if not marker:
        return request_of(new, draft["input"])
    instruction, mark, rest = new.partition(marker)
    if mark and not rest.strip(" .\n") and instruction.endswith("\n"):
        return request_of(instruction.strip(), draft["input"])
    return new.replace(marker, draft["input"]), None


def _leak(draft: Draft) -> Rejection | None:
    return leak(draft["request"], draft["new"], draft["response"])
