"""What every method of `generate.from_documents` is, and what it works with.

A method is a module with one group of options, a subclass of `DocumentMethod`. To add one,
write `from_documents/method.py` with its prompts in `from_documents/prompts/method/`, and
name the class in the union `Method` of the package:

    @option_group
    class Summaries(DocumentMethod):
        \"\"\"A summary of every passage.\"\"\"

        name: Literal["summaries"] = "summaries"
        max_words: Count = 50
        decoding: ClassVar[Decoding] = Decoding(256, 0.7)

        def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
            context.generate(passages, "response", ...)
            return passages
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from numpy.typing import NDArray

from pipeline.models.base import Decoding
from stages._llm.drafts import Draft, GenerateField

T = TypeVar("T")


@dataclass(frozen=True)
class GenerationContext:
    """The models and the common options of one run of `generate.from_documents`.

    Attributes:
        generate: `generate_field` with the model, its decoding and the seed.
        judge: `generate_field` with the judge.
        encode: From n texts to their vectors, shape (n, dimensions); None without an embedder.
        context_tokens: The model's context length, None where it is unknown.
        max_tokens: Limit of a completion.
        judge_max_tokens: Limit of a judgement; None for that of each question.
        dedup_thresholds: Cosines from which passages and instructions are duplicates.
        progress: Reports how many of how many units are done.
        seed: Of all random choices.
    """

    generate: GenerateField
    judge: GenerateField
    encode: Callable[[Sequence[str]], NDArray[Any]] | None
    context_tokens: int | None
    max_tokens: int
    judge_max_tokens: int | None
    dedup_thresholds: tuple[float, float]
    progress: Callable[[float, float | None], None]
    seed: int

    def judging(self, decoding: Decoding) -> Decoding:
        """How a question is judged, with the limit that the options say otherwise.

        Args:
            decoding: That of the question.
        """
        return replace(decoding, max_tokens=self.judge_max_tokens or decoding.max_tokens)

    def rng(self, purpose: str, draft: Draft) -> random.Random:
        """Random numbers for one passage, which do not depend on the other passages."""
        return random.Random(f"{self.seed} {purpose} {draft['document']} {draft['passage_number']}")

    def choose(
        self, purpose: str, draft: Draft, candidates: Sequence[T], number: int | None
    ) -> list[T]:
        """A random choice for one passage, in random order.

        Args:
            purpose: Distinguishes the random choices of a passage.
            draft: The passage.
            candidates: What is chosen from.
            number: How many are chosen; all where it is None or there are not more.
        """
        size = len(candidates) if number is None else min(number, len(candidates))
        return self.rng(purpose, draft).sample(candidates, size)


class DocumentMethod(ABC):
    """Base of the groups of options: what the stage must know of a method.

    Attributes:
        name: How a recipe names the method.
        decoding: Sampling parameters of the paper or of its code.
        documents_are_code: A line that begins with "#" is a comment, not a heading.
        splits_documents: Documents are cut into passages.
        filters_passages: The default of the option `filter_passages`.
        uses_model: It needs the option `model`.
        uses_judge: It uses the judge, also without `filter_passages`.
        answer_field: The field whose completion is the answer, and nothing else; None where
            none is.
    """

    name: str
    decoding: ClassVar[Decoding]
    documents_are_code: ClassVar[bool] = False
    splits_documents: ClassVar[bool] = True
    filters_passages: ClassVar[bool] = False
    uses_model: ClassVar[bool] = True
    uses_judge: ClassVar[bool] = False
    answer_field: ClassVar[str | None] = None

    @abstractmethod
    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """Make drafts of rows from drafts of passages.

        Args:
            context: Models and common options.
            passages: Drafts with the fields `document`, `passage_number`, `passage` and
                `title`. Those that are not active were filtered out and stay in the result.
        """


def check_names(option: str, names: Sequence[str], valid: Sequence[str]) -> None:
    """Check an option that lists some of a method's names.

    Args:
        option: The option, for the message.
        names: Its value.
        valid: The names that the method has.

    Raises:
        ValueError: There is no name, or one that the method does not have.
    """
    unknown = [name for name in names if name not in valid]
    if unknown or not names:
        raise ValueError(f"{option} must be some of {', '.join(valid)}, got {list(names)}")
