r"""Step-by-step instructions: the steps of a task, in order, behind its definition.

Step-by-step instructions: Improving Cross-Task Generalization with Step-by-Step Instructions (Wu
et al. 2023, arXiv:2305.04429).

As in the paper: a language model lists the steps of each task, which are put behind the task's
original definition, word for word as it was; instances of one definition have one list. In the
wrong order the steps lose their gain: `order: shuffled` is that arm of the ablation, and sends
the same requests, so that it costs nothing beside the other one.

Ours: the wording of the prompt and of the line between definition and steps; the numbers of steps;
greedy sampling. The authors published their steps and no code.

Example:
    >>> shuffled(["Read.", "Count.", "Write."], "seed and id")
    ['Count.', 'Write.', 'Read.']
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from pipeline.models.base import Decoding
from pipeline.types import option_group
from stages._llm.drafts import Draft, Prompt, RowMessages, filter_drafts, user
from stages._llm.lists import listed_items
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.rewrite._exchanges import exchange_messages, request_of
from stages.rewrite.paraphrase.meaning import changed_language, leak, refuses
from stages.rewrite.paraphrase.paraphraser import Paraphraser, variants_of

PROMPTS: Final = Prompts(__file__)

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=\S)")


@option_group
class Steps:
    """Ordered steps behind the instruction (Step-by-step instructions, Wu et al. 2023).

    Args:
        name: "steps".
        order: As the model wrote them, or "shuffled": the arm of the ablation.
        min_steps: The fewest steps of a list; a shorter one is dropped as `steps_unparsed`.
        max_steps: The most.
        sentences: Read an answer without a list as a step a sentence. This is ours, for models
            that are too weak to write a list.
    """

    name: Literal["steps"] = "steps"
    order: Literal["written", "shuffled"] = "written"
    min_steps: Annotated[int, Field(ge=2)] = 2
    max_steps: Annotated[int, Field(ge=2)] = 8
    sentences: bool = False

    decoding: ClassVar[Decoding] = Decoding(512, 0.0)

    def __post_init__(self) -> None:
        if self.max_steps < self.min_steps:
            raise ValueError(f"max_steps must be at least {self.min_steps}, got {self.max_steps}")

    def run(self, paraphraser: Paraphraser, drafts: Sequence[Draft]) -> list[Draft]:
        """A draft for each row, with its steps."""
        kind = "steps" if self.order == "written" else "shuffled"
        variants = variants_of(drafts, (kind,), 1)
        for variant in variants:
            variant.number = 0  # instances of one definition share their request
        prompt = partial(_prompt, least=self.min_steps, most=self.max_steps)
        paraphraser.write(variants, "written", prompt, parse=self._parse)
        filter_drafts(variants, _rejection)
        for variant in variants:
            if variant.active:
                steps = variant["written"]
                if self.order == "shuffled":
                    steps = shuffled(steps, f"{paraphraser.seed} steps {variant.parents}")
                variant.fields["steps"] = steps
                variant.notes |= {"steps": steps, "definition": variant["instruction"]}
        return variants

    def messages_of(self, draft: Draft) -> RowMessages:
        """The instruction with the steps behind it, then its input, and the old answer."""
        request, start = draft["request"], draft["record"]["input_start"]
        if "steps" in draft.fields:
            values = {"instruction": draft["instruction"], "steps": draft["steps"]}
            text = PROMPTS.render("definition", **values).strip()
            request, start = request_of(text, draft["input"])
        return exchange_messages(draft, request, start, draft["response"])

    def _parse(self, text: str) -> list[str] | None:
        """The steps, each once and on one line; None where they are too few or too many."""
        listed = listed_items(text)
        if not listed and self.sentences:
            listed = _SENTENCE_END.split(text.strip())
        items = list(dict.fromkeys(" ".join(item.split()) for item in listed))
        return items if self.min_steps <= len(items) <= self.max_steps else None


def shuffled(steps: Sequence[str], key: str) -> list[str]:
    """The steps in an order that is not theirs.

    Args:
        steps: At least two distinct ones.
        key: What the order is drawn by.
    """
    rng = random.Random(key)
    new = list(steps)
    while new == list(steps):
        rng.shuffle(new)
    return new


def _prompt(draft: Draft, least: int, most: int) -> Prompt:
    values = {"instruction": draft["instruction"], "min_steps": least, "max_steps": most}
    return user(PROMPTS.render("steps", **values))


def _rejection(draft: Draft) -> Rejection | None:
    text = "\n".join(draft["written"])
    if refuses(text):
        return "meaning_changed", {"why": "the steps refuse", "text": text[:200]}
    new_language = changed_language(draft["instruction"], text)
    return new_language or leak(draft["request"], text, draft["response"])
