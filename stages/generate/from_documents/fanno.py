"""FANNO: ever different instructions by bandit choice.

FANNO: Augmenting High-Quality Instruction Data with Open-Sourced LLMs Only (Zhu et al. 2024,
arXiv:2408.01323). As in the paper: a few passages give the seeds, one for each combination of
task type, difficulty and form; every other passage is shown with three accepted instructions
that the new one must differ from, which a bandit chooses: an upper confidence bound prefers
instructions with long answers and those that were shown seldom.

As in the authors' code: ten passages of seeds, 200 passages a round, the constants of the
bandit, the keywords, 2,048 tokens at temperature 0 with nucleus 0.9, English instructions
alone; the answers do not see the passage (`generate.respond` with `method: context` answers
with passages). Ours: the wording, and keywords are sought as words and not inside of them.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.preambles import instruction_text
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._text.tokens import tokens
from stages.generate.from_documents.context import (
    DocumentMethod,
    GenerationContext,
    check_names,
)
from stages.generate.from_documents.passage_filters import communities

PROMPTS: Final = Prompts(__file__)

TASK_TYPES: Final = {
    "natural language inference": "decide whether evidence supports a conclusion",
    "common sense": "foresee what happens by everyday knowledge",
    "sentiment": "tell the feelings in a situation or a statement",
    "paraphrase": "say a statement in other words without changing its meaning",
    "closed-book question": "answer a question of fact from what one knows",
    "structure to text": "describe a process or structured data in prose",
    "summarisation": "condense something long to what matters in it",
    "translation": "translate from one language to another",
    "implicit reasoning": "find the unspoken reasons for what people do",
    "text categorisation": "say what characterises a sort of text and sort by it",
    "code": "solve an easy programming problem",
    "word problem": "solve a word problem of school mathematics",
}
"""The paper's task types with the description that the prompt shows."""

DIFFICULTIES: Final = {
    "reasoning": "it takes several steps of reasoning",
    "criticism": "it takes weighing several points of view or solutions",
    "creativity": "it takes an inventive solution off the beaten track",
    "interdisciplinary": "it takes knowledge from different fields together",
}
"""The paper's tags of difficulty."""

FORMS: Final = {
    "command": "a command, without who, what, when, where, why or how",
    "question": "a question",
}

_KEYWORDS: Final = re.compile(
    r"\b(based on|according|given|mentioned|refer(?:s|red|ring)?|provided|passages?|texts?|"
    r"paragraphs?|recent(?:ly)?|current(?:ly)?|now|today|yesterday|tomorrow|soon|upcoming|"
    r"coming|names?)\b",
    re.IGNORECASE,
)
"""Words that refer to a text that the row does not hold, to a time, or to a named person."""

_EXAMPLE_WORDS: Final = 100
"""Words of an example that a prompt shows."""
_START_WORDS: Final = 4
"""First words of the examples, with which the new instruction must not begin."""
_TOP: Final = 0.05
_EXPLORATION: Final = 3.0


@option_group
class Fanno(DocumentMethod):
    """FANNO: seeds by tags, then rounds of "think different" (Zhu et al. 2024).

    Drops `outside_ascii`, `too_short`, `banned_keyword`, `few_letters`, `same_community`; and
    passages as `no_seeds` or `target_count_reached`.

    Args:
        name: The method.
        task_types: Types of the seeds' tasks.
        per_passage: Combinations of task type, difficulty and form that a seed passage
            gives; null for all of them.
        num_seed_passages: The first passages, which give the seeds.
        passages_per_round: Every round works on as many of the other passages.
        num_rows: No further round begins once so many instructions are accepted; null for
            all passages.
        num_shots: Accepted instructions that a prompt shows.
        ascii_only: Drop instructions with other characters, as the released code does.
    """

    name: Literal["fanno"] = "fanno"
    task_types: tuple[str, ...] = tuple(TASK_TYPES)
    per_passage: Count | None = None
    num_seed_passages: Count = 10
    passages_per_round: Count = 200
    num_rows: Count | None = None
    num_shots: Count = 3
    ascii_only: bool = True

    decoding: ClassVar[Decoding] = Decoding(2048, 0.0, 0.9)
    filters_passages: ClassVar[bool] = True
    answer_field: ClassVar[str | None] = "response"

    def __post_init__(self) -> None:
        check_names("task_types", self.task_types, tuple(TASK_TYPES))

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """Seeds from the first passages, then one instruction for each of the others."""
        active = [draft for draft in passages if draft.active]
        drafts = [draft for draft in passages if not draft.active]
        remaining, pool = active[self.num_seed_passages :], InstructionPool()
        seeds = expand(active[: self.num_seed_passages], lambda d: self._tags(context, d))
        context.generate(seeds, "written", _seed_prompt, parse=instruction_and_input)
        drafts += self._finish(context, seeds, pool)
        done = 0
        while done < len(remaining) and pool.drafts and not self._is_enough(pool):
            batch = remaining[done : done + self.passages_per_round]
            number = done // self.passages_per_round + 1
            drafts += self._finish(
                context, self._think_different(context, batch, pool, number), pool
            )
            done += len(batch)
            context.progress(done, len(remaining))
        for draft in remaining[done:]:
            reason = "target_count_reached" if pool.drafts else "no_seeds"
            draft.reject(reason, rows=len(pool.drafts))
        return drafts + remaining[done:]

    def _is_enough(self, pool: InstructionPool) -> bool:
        return self.num_rows is not None and len(pool.drafts) >= self.num_rows

    def _tags(self, context: GenerationContext, passage: Draft) -> list[dict[str, Any]]:
        """Combinations of the three tags for a seed passage."""
        combinations = list(product(DIFFICULTIES, self.task_types, FORMS))
        return [
            {"task_type": task_type, "level": difficulty, "form": form, "round": 0}
            for difficulty, task_type, form in context.choose(
                "fanno", passage, combinations, self.per_passage
            )
        ]

    def _think_different(
        self,
        context: GenerationContext,
        passages: Sequence[Draft],
        pool: InstructionPool,
        number: int,
    ) -> list[Draft]:
        """One instruction for each passage, unlike the examples that the bandit chose for it."""
        rng = random.Random(f"{context.seed} fanno round {number}")
        lengths = answer_lengths(pool.drafts)
        choices = bandit(lengths, pool.counts, len(passages), self.num_shots, rng)
        drafts = []
        for passage, choice in zip(passages, choices, strict=True):
            examples = [
                " ".join(pool.drafts[i]["instruction"].split()[:_EXAMPLE_WORDS]) for i in choice
            ]
            form = context.rng("fanno form", passage).choice(tuple(FORMS))
            drafts.append(passage.child(examples=examples, form=form, round=number))
        context.generate(drafts, "written", _different_prompt, parse=instruction_and_input)
        return drafts

    def _finish(
        self, context: GenerationContext, drafts: list[Draft], pool: InstructionPool
    ) -> list[Draft]:
        """Filter and answer new instructions; the accepted ones enter the pool."""
        for draft in drafts:
            draft.notes |= {"form": draft.fields["form"]} if "form" in draft.fields else {}
            if draft.active:
                draft.fields["instruction"], draft.fields["input"] = draft["written"]
        filter_drafts(drafts, lambda d: unusable(d["instruction"], self.ascii_only))
        _dedup(context, drafts, pool)
        context.generate(drafts, "response", _answer_prompt)
        pool.add(drafts)
        return drafts


@dataclass
class InstructionPool:
    """The accepted instructions, from which the bandit chooses examples.

    Attributes:
        drafts: In the order of acceptance. With an embedder each has the field `vector`.
        counts: How often each was shown as an example.
    """

    drafts: list[Draft] = field(default_factory=list)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, drafts: Sequence[Draft]) -> None:
        """Add those of the drafts that are active."""
        new = [draft for draft in drafts if draft.active]
        self.drafts += new
        self.counts = np.concatenate([self.counts, np.zeros(len(new), np.int64)])


def answer_lengths(drafts: Sequence[Draft]) -> NDArray[np.int64]:
    """Words of each draft's answer (characters, in scripts without spaces)."""
    texts = pl.Series([draft["response"] for draft in drafts], dtype=pl.String)
    return tokens(texts).list.len().cast(pl.Int64).to_numpy()


def bandit(
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    num_prompts: int,
    num_shots: int,
    rng: random.Random,
) -> list[list[int]]:
    """The examples of one prompt after the other, by an upper confidence bound.

    The value of instruction i is l_i + 3 sqrt(2 ln(t) / (n_i + 1)). l_i is the length of
    its answer, scaled to [0, 1] over the pool (0.5 where all are equal), n_i how often it
    was shown, and t the sum of all n plus the size of the pool when the round began (as in
    the released code). The examples of a prompt are drawn from the 5% with the highest
    values and counted at once.

    Args:
        lengths: l before scaling, shape (n,).
        counts: n_i, shape (n,); updated in place.
        num_prompts: How many prompts need examples.
        num_shots: Examples of a prompt; fewer where the pool is smaller.
        rng: Draws the examples.

    Returns:
        For each prompt the indices of its examples.

    Example:
        >>> counts = np.zeros(3, np.int64)
        >>> bandit(np.array([5, 9, 7]), counts, 2, 1, random.Random(0))
        [[1], [2]]
        >>> counts.tolist()
        [0, 1, 1]
    """
    spread = int(lengths.max() - lengths.min())
    scaled = (lengths - lengths.min()) / spread if spread else np.full(len(lengths), 0.5)
    total = int(counts.sum()) + len(counts)
    num_best = min(len(counts), max(num_shots, int(_TOP * len(counts))))
    choices = []
    for _ in range(num_prompts):
        values = scaled + _EXPLORATION * np.sqrt(2 * math.log(total) / (counts + 1))
        best = np.argsort(-values, kind="stable")[:num_best].tolist()
        choice = rng.sample(best, min(num_shots, len(best)))
        counts[choice] += 1
        total += len(choice)
        choices.append(choice)
    return choices


def instruction_and_input(text: str) -> tuple[str, str] | None:
    """The first line and the lines below it, without quotes and asterisks around them."""
    first, _, rest = (instruction_text(text) or "").strip('*"\n ').partition("\n")
    return (first.strip('*" '), rest.strip()) if first.strip('*" ') else None


def unusable(instruction: str, ascii_only: bool = True) -> Rejection | None:
    """The first rule that an instruction breaks.

    The released code searches the keywords inside words too, so that it drops every
    instruction with "know" or "context"; here they are words.

    Example:
        >>> unusable("Based on the story, who won?")
        ('banned_keyword', {'keyword': 'Based on'})
        >>> unusable("Explain why the sky is blue.") is None
        True
    """
    words, letters = len(instruction.split()), sum(map(str.isalpha, instruction))
    keyword = _KEYWORDS.search(instruction)
    if ascii_only and not instruction.isascii():
        return "outside_ascii", {}
    if words < 5 and instruction[-1] not in ".?":
        return "too_short", {"words": words}
    if keyword:
        return "banned_keyword", {"keyword": keyword[0]}
    if letters < len(instruction) - letters:
        return "few_letters", {"letters": letters}
    return None


def _dedup(context: GenerationContext, drafts: Sequence[Draft], pool: InstructionPool) -> None:
    """Reject all of a community but its center, and all of it where the pool is in it."""
    active = [draft for draft in drafts if draft.active]
    if context.encode is None or not active:
        return
    vectors = context.encode([draft["instruction"] for draft in active])
    for draft, vector in zip(active, vectors, strict=True):
        draft.fields["vector"] = vector
    candidates = [*active, *pool.drafts]
    centers = communities(np.stack([d["vector"] for d in candidates]), context.dedup_thresholds[1])
    accepted = dict(zip(centers[len(active) :].tolist(), pool.drafts, strict=True))
    for draft, center in zip(active, centers.tolist(), strict=False):
        kept = accepted.get(center, candidates[center])
        if kept is not draft:
            draft.reject("same_community", instruction=kept["instruction"])


def _seed_prompt(draft: Draft) -> Prompt:
    return user(
        PROMPTS.render(
            "seed",
            passage=draft["passage"],
            kind=f"{draft['task_type']} ({TASK_TYPES[draft['task_type']]})",
            demand=DIFFICULTIES[draft["level"]],
            form=FORMS[draft["form"]],
        )
    )


def _different_prompt(draft: Draft) -> Prompt:
    starts = [" ".join(example.split()[:_START_WORDS]) for example in draft["examples"]]
    return user(
        PROMPTS.render(
            "different",
            passage=draft["passage"],
            examples=draft["examples"],
            starts=starts,
            form=FORMS[draft["form"]],
        )
    )


def _answer_prompt(draft: Draft) -> Prompt:
    return user("\n\n".join(filter(None, (draft["instruction"], draft["input"]))))
