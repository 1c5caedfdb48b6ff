"""Rewrites of what an answer says, so that knowledge is there in more than one form.

Physics of LMs 3.1: Physics of Language Models: Part 3.1, Knowledge Storage and Extraction
(Allen-Zhu and Li 2023, arXiv:2309.14316).

As in the paper: what is known only in one wording is stored and cannot be extracted; several
rewrites of each fact, also with its sentences in another order, make it extractable (five
rewrites, and permutations, there of synthetic biographies by templates).

Ours: a language model writes the rewrites; sentences are permuted by the seed and the row's id
before it does, so that the order is not left to it; the check of the meaning. The paper's third
augmentation, full names for pronouns, is left out.

Example:
    >>> permuted("Ada wrote it. It was short. Bo read it.", "some key")
    'Bo read it. Ada wrote it. It was short.'
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, Prompt, RowMessages, user
from stages._llm.prompts import Prompts
from stages.rewrite._exchanges import exchange_messages
from stages.rewrite.paraphrase.checks import drop_repeated
from stages.rewrite.paraphrase.paraphraser import Paraphraser, variants_of

PROMPTS: Final = Prompts(__file__)

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=\S)|(?<=[。！？])|\n+")


@option_group
class Physics:
    """Rewrites of an answer, also in another order (Physics of LMs 3.1, Allen-Zhu and Li 2023).

    Args:
        name: "physics".
        num_variants: Rewrites of each answer.
        permute: Whether the sentences of each are put into another order first.
    """

    name: Literal["physics"] = "physics"
    num_variants: Count = 5
    permute: bool = False

    decoding: ClassVar[Decoding] = Decoding(1024, 0.7)

    def run(self, paraphraser: Paraphraser, drafts: Sequence[Draft]) -> list[Draft]:
        """A draft for each rewrite, checked."""
        kind = "permuted" if self.permute else "rewrite"
        variants = variants_of(drafts, (kind,), self.num_variants)
        for variant in variants:
            text = variant["response"]
            key = f"{paraphraser.seed} physics {variant.parents} {variant.number}"
            variant.fields["text"] = permuted(text, key) if self.permute else text
        paraphraser.write(variants, "new", _prompt)
        aspect = "the order of its sentences" if self.permute else ""
        paraphraser.check.run(
            variants, lambda d: str(d["response"]), lambda d: str(d["new"]), aspect
        )
        drop_repeated(variants, lambda d: str(d["new"]))
        return variants

    def messages_of(self, draft: Draft) -> RowMessages:
        """The old request with the rewritten answer."""
        start = draft["record"]["input_start"]
        answer = draft.fields.get("new") or draft["response"]
        return exchange_messages(draft, draft["request"], start, answer)


def permuted(text: str, key: str) -> str:
    """The sentences of a text in another order; the text itself where it has one.

    Args:
        text: Any text.
        key: What the order is drawn by.
    """
    sentences = [s.strip() for s in _SENTENCE_END.split(text) if s.strip()]
    random.Random(key).shuffle(sentences)
    return " ".join(sentences)


def _prompt(draft: Draft) -> Prompt:
    reordered = draft["variant"] == "permuted"
    return user(PROMPTS.render("rewrite", text=draft["text"], reordered=reordered))
