"""FANNO: instructions from tagged passages, then ever different ones by bandit choice.

Zhu et al. 2024, arXiv:2408.01323. A few passages give seeds, one for each kind of task,
demand and form. Each further passage is shown with three instructions that it must be
unlike; which three is a bandit's choice: an upper confidence bound prefers those with
long answers and those that were shown seldom.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._text.tokens import tokens
from stages.generate.from_documents.passage_filters import communities
from stages.generate.from_documents.passages import Means

PROMPTS: Final = Prompts(__file__)

KINDS: Final = {
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
"""The paper's kinds of tasks."""

DEMANDS: Final = {
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
"""What points to a text that is not there, to a time, or to somebody by name."""

_SHOWN_WORDS: Final = 100
_START_WORDS: Final = 4
_TOP: Final = 0.05
_EXPLORATION: Final = 3.0


@dataclass
class Pool:
    """The accepted instructions, and how often each was shown as an example.

    Where there is an embedder, each has its vector in the field `vector`.
    """

    drafts: list[Draft] = field(default_factory=list)
    shown: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, drafts: Sequence[Draft]) -> None:
        new = [draft for draft in drafts if draft.active]
        self.drafts += new
        self.shown = np.concatenate([self.shown, np.zeros(len(new), np.int64)])


def fanno(means: Means, passages: list[Draft]) -> list[Draft]:
    """Seeds from the first passages, then a round for each window of the others."""
    alive = [draft for draft in passages if draft.active]
    lines = [draft for draft in passages if not draft.active]
    rest, pool = alive[means.seed_passages :], Pool()
    seeds = expand(alive[: means.seed_passages], lambda d: _tagged(means, d))
    means.ask(seeds, "written", _seed_prompt, read=instruction_and_input)
    lines += _finished(means, seeds, pool)
    done = 0
    while done < len(rest) and pool.drafts and not _enough(means, pool):
        window = rest[done : done + means.window]
        number = done // means.window + 1
        lines += _finished(means, _different(means, window, pool, number), pool)
        done += len(window)
        means.progress(done, len(rest))
    for draft in rest[done:]:
        draft.reject("enough_instructions" if pool.drafts else "no_seeds", rows=len(pool.drafts))
    return lines + rest[done:]


def _enough(means: Means, pool: Pool) -> bool:
    return means.count is not None and len(pool.drafts) >= means.count


def _tagged(means: Means, passage: Draft) -> list[dict[str, Any]]:
    """Combinations of the three tags for a passage, drawn where not all are wanted."""
    kinds = means.task_types
    drawn = means.few("fanno", passage, list(product(DEMANDS, kinds, FORMS)))
    return [
        {"task_type": kind, "level": demand, "form": form, "round": 0}
        for demand, kind, form in drawn
    ]


def _seed_prompt(draft: Draft) -> Prompt:
    kind = f"{draft['task_type']} ({KINDS[draft['task_type']]})"
    return user(
        PROMPTS.render(
            "seed",
            passage=draft["passage"],
            kind=kind,
            demand=DEMANDS[draft["level"]],
            form=FORMS[draft["form"]],
        )
    )


def _different(means: Means, passages: Sequence[Draft], pool: Pool, number: int) -> list[Draft]:
    """One new instruction for each passage, unlike the examples that the bandit chose for it."""
    draw = random.Random(f"{means.seed} fanno round {number}")
    lengths = answer_lengths(pool.drafts)
    chosen = bandit(lengths, pool.shown, len(passages), means.shots, draw)
    drafts = []
    for passage, places in zip(passages, chosen, strict=True):
        shown = [" ".join(pool.drafts[i]["instruction"].split()[:_SHOWN_WORDS]) for i in places]
        form = means.draw("fanno form", passage).choice(tuple(FORMS))
        drafts.append(passage.child(examples=shown, form=form, round=number))
    means.ask(drafts, "written", _different_prompt, read=instruction_and_input)
    return drafts


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


def answer_lengths(drafts: Sequence[Draft]) -> NDArray[np.int64]:
    """Words of each draft's answer (characters, in scripts without spaces)."""
    texts = pl.Series([draft["response"] for draft in drafts], dtype=pl.String)
    return tokens(texts).list.len().cast(pl.Int64).to_numpy()


def bandit(
    lengths: NDArray[np.int64],
    shown: NDArray[np.int64],
    number: int,
    shots: int,
    draw: random.Random,
) -> list[list[int]]:
    """The examples for so many prompts, one prompt after the other: places in the pool.

    The value of an example is its length, scaled to [0, 1] over the pool (0.5 where all
    are equal), plus 3 sqrt(2 ln(total) / (count + 1)): count is how often it was shown,
    total the sum of the counts and of the pool's size when the round began. `shots` of
    the 5% with the highest values are drawn, and counted at once; `shown` is updated.
    A small pool gives as many as it has.
    """
    spread = int(lengths.max() - lengths.min())
    scaled = (lengths - lengths.min()) / spread if spread else np.full(len(lengths), 0.5)
    total = int(shown.sum()) + len(shown)
    most = min(len(shown), max(shots, int(_TOP * len(shown))))
    chosen = []
    for _ in range(number):
        value = scaled + _EXPLORATION * np.sqrt(2 * math.log(total) / (shown + 1))
        best = np.argsort(-value, kind="stable")[:most].tolist()
        taken = draw.sample(best, min(shots, len(best)))
        shown[taken] += 1
        total += len(taken)
        chosen.append(taken)
    return chosen


def _finished(means: Means, drafts: list[Draft], pool: Pool) -> list[Draft]:
    """Filters and answers; what passes enters the pool."""
    for draft in drafts:
        draft.notes |= {"form": draft.fields["form"]} if "form" in draft.fields else {}
        if draft.active:
            draft.fields["instruction"], draft.fields["input"] = draft["written"]
    filter_drafts(drafts, lambda d: unusable(d["instruction"], means.ascii_only))
    _thin_out(means, drafts, pool)
    means.ask(drafts, "response", _question)
    pool.add(drafts)
    return drafts


def _question(draft: Draft) -> Prompt:
    return user("\n\n".join(filter(None, (draft["instruction"], draft["input"]))))


def instruction_and_input(text: str) -> tuple[str, str] | None:
    """The first line and what stands below it, without quotes and asterisks around them."""
    first, _, rest = text.strip('*"\n ').partition("\n")
    return (first.strip('*" '), rest.strip()) if first.strip('*" ') else None


def unusable(instruction: str, ascii_only: bool = True) -> Rejection | None:
    """The first of the rules that an instruction breaks.

    The released code looks for the keywords inside words too, so that it throws away
    whatever holds "know" or "context"; here they are words.
    """
    words, letters = len(instruction.split()), sum(map(str.isalpha, instruction))
    keyword = _KEYWORDS.search(instruction)
    if ascii_only and not instruction.isascii():
        return "outside_ascii", {}
    if words < 5 and instruction[-1] not in ".?":
        return "too_short", {"words": words}
    if keyword:
        return "keyword", {"keyword": keyword[0]}
    if letters < len(instruction) - letters:
        return "few_letters", {"letters": letters}
    return None


def _thin_out(means: Means, drafts: Sequence[Draft], pool: Pool) -> None:
    """Leave of each community its centre, and nothing where the pool has one of it already."""
    alive = [draft for draft in drafts if draft.active]
    if means.encode is None or not alive:
        return
    for draft, vector in zip(alive, means.encode([d["instruction"] for d in alive]), strict=True):
        draft.fields["vector"] = vector
    every = [*alive, *pool.drafts]
    centres = communities(np.stack([d["vector"] for d in every]), means.communities[1])
    known = dict(zip(centres[len(alive) :].tolist(), pool.drafts, strict=True))
    for place, draft in enumerate(alive):
        centre = int(centres[place])
        twin = known.get(centre, every[centre])
        if twin is not draft:
            draft.reject("same_community", instruction=twin["instruction"])
