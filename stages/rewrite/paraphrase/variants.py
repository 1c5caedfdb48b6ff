"""Variants of a row in one respect each: its wording, its tense, the style of its answer.

Past-tense refusals: Does Refusal Training in LLMs Generalize to the Past Tense?
(Andriushchenko and Flammarion 2024, arXiv:2407.11969).

As in the paper: a language model puts a request into the past tense, several times at temperature
1; for training, refusals to the new requests go beside other rows. The future tense is their
control.

Ours: the wording, the check of the meaning, and that any row is reworded, whatever its answer is.

SEFE: SEFE: Superficial and Essential Forgetting Eliminator for Multimodal Continual Instruction
Tuning (Chen et al. 2025, arXiv:2505.02486).

As in the paper: answers in one style make a model forget the others, so each task's answers are
written in several styles.

Ours: the styles (theirs are for questions about images), and that each is drawn by row.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._llm.drafts import Draft, Prompt, RowMessages, answer_text, filter_drafts, user
from stages._llm.preambles import instruction_text
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.rewrite._exchanges import exchange_messages, request_of
from stages.rewrite.paraphrase.checks import drop_repeated
from stages.rewrite.paraphrase.meaning import leak
from stages.rewrite.paraphrase.paraphraser import Paraphraser, variants_of

PROMPTS: Final = Prompts(__file__)

Kind = Literal["wording", "past", "future", "style"]

STYLES: Final = (
    "in as few words as it takes",
    "in full sentences, as a teacher explains",
    "formally, as in a report",
    "casually, as in a chat among friends",
)

_TIME: Final = "the time of which they speak"
_ASPECTS: Final = {"wording": "", "past": _TIME, "future": _TIME, "style": "style and length"}
"""What a variant may differ in."""


@option_group
class Variants:
    """One variant of a row for each kind: wording, tense, style of the answer.

    Args:
        name: "variants".
        kinds: "wording", "past" and "future" change the instruction, "style" the answer.
        per_kind: Variants of each kind.
        styles: What "style" draws from, without a repeat while there are more.
    """

    name: Literal["variants"] = "variants"
    kinds: Annotated[tuple[Kind, ...], NonEmpty, Distinct] = ("wording",)
    per_kind: Count = 1
    styles: Annotated[tuple[str, ...], NonEmpty, Distinct] = STYLES

    decoding: ClassVar[Decoding] = Decoding(1024, 1.0)

    def __post_init__(self) -> None:
        if "style" not in self.kinds and self.styles != STYLES:
            raise ValueError(f"styles must be left out without kind style, got {self.styles}")

    def run(self, paraphraser: Paraphraser, drafts: Sequence[Draft]) -> list[Draft]:
        """A draft for each variant, checked."""
        variants = variants_of(drafts, self.kinds, self.per_kind)
        for variant in variants:
            if variant.active:
                is_style = variant["variant"] == "style"
                variant.fields["text"] = variant["response" if is_style else "instruction"]
                variant.fields["style"] = self._style(variant, paraphraser.seed)
        answers = [v for v in variants if v.fields.get("style")]
        requests = [v for v in variants if v.active and not v.fields.get("style")]
        paraphraser.write(requests, "new", _prompt, parse=instruction_text)
        paraphraser.write(answers, "new", _prompt, parse=answer_text)
        for kind, aspect in _ASPECTS.items():
            own = [v for v in variants if v["variant"] == kind]
            paraphraser.check.run(own, lambda d: str(d["text"]), lambda d: str(d["new"]), aspect)
        filter_drafts(requests, _leak)
        drop_repeated(answers, lambda d: str(d["new"]))
        drop_repeated(requests, lambda d: str(d["new"]))
        return variants

    def messages_of(self, draft: Draft) -> RowMessages:
        """The row with its new request or answer."""
        start, new = draft["record"]["input_start"], draft.fields.get("new")
        if not new:
            return exchange_messages(draft, draft["request"], start, draft["response"])
        if draft["style"]:
            return exchange_messages(draft, draft["request"], start, new)
        return exchange_messages(draft, *request_of(new, draft["input"]), draft["response"])

    def _style(self, variant: Draft, seed: int) -> str | None:
        if variant["variant"] != "style":
            return None
        order = list(self.styles)
        random.Random(f"{seed} style {variant.parents}").shuffle(order)
        return order[variant.number % len(order)]


def _prompt(draft: Draft) -> Prompt:
    if draft["style"]:
        values = {name: draft[name] for name in ("request", "text", "style")}
        return user(PROMPTS.render("style", **values))
    if draft["variant"] == "wording":
        return user(PROMPTS.render("wording", text=draft["text"]))
    return user(PROMPTS.render("tense", text=draft["text"], tense=draft["variant"]))


def _leak(draft: Draft) -> Rejection | None:
    return leak(draft["request"], draft["new"], draft["response"])
