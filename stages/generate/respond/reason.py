"""Paths of reasoning: a guideline becomes an outline, and the outline an answer.

ReGenesis: LLMs can Grow into Reasoning Generalists via Self-Improvement (Peng et al. 2024,
arXiv:2410.02108; SalesforceAIResearch/ReGenesis).

As in the paper: from the general to the task, a guideline that holds for any task is adapted to
this one, becomes an outline of the reasoning, and the outline a path of reasoning that ends
with the answer; each of several answers to one prompt follows another guideline; paths that
come to another answer than the right one are left out, and where no right answer is known,
those that come to another than the majority. As in the authors' code: 25 guidelines, each used
once, and 20 more paths for which the model selects two or three of them (`selection`);
temperature 1.2, nucleus 0.9 and 2,048 tokens, with the final answer in `\\boxed{}`; questions
that no path solved are tried a second time, at temperature 0.85, 20 times, with the right answer
in each step's prompt (`hint`), and paths are left out as before; at most five paths of a
question are kept.

Ours: the wording of prompts and guidelines (`prompts: {reason/guidelines: FILE}` puts others
in their place, one on each line); what is right is decided by comparing final answers alone
(`truth`, `score.execution`), where the authors' code has the model compare them too; paths stay
as they were written, where the authors drop those of 800 tokens or more and begin each with
the same sentence; the second try has the same 25 guidelines, where the authors leave out three.
The recipe `regenesis` has all of this together.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import partial
from typing import Final, Literal

from pipeline.types import option_group
from stages._llm.drafts import Draft, GenerateField, Prompt
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

_MAX_SELECTED: Final = 3
_LINE_END: Final = 200
"""Characters in which the selected numbers stand at the end of a line."""
_LISTED: Final = re.compile(
    r"^[ \t*_#>-]*+(\d{1,3}+)[ \t]*+(?:[.):]|\*\*)"
    r"(?:[ \t*_]*+(?:guideline|number|no\.)?[ \t*_#]*+(\d{1,3})(?!\d))?",
    re.MULTILINE | re.IGNORECASE,
)
"""An item of a list, and the number that its text begins with."""
_LAST_NUMBERS: Final = re.compile(
    r"(?P<label>^|[:：]|\b(?:guidelines?|numbers?|no\.))?[ \t*_#\[(]*+"
    r"(?P<numbers>(?<!\d)\d{1,3}"
    r"(?:(?:[ \t]*(?:,|;|、|，|&|\band\b|\bor\b|和)[ \t]*)+\d{1,3}(?!\d))*)"
    r"[ \t*_\])]*[.!。]?[ \t]*\Z",
    re.IGNORECASE,
)
"""Numbers alone at the end of a line: of prose, at least two of them or behind what they are."""
_NUMBER: Final = re.compile(r"\d+")


@option_group
class Reason:
    """Answers that reason: ReGenesis (Peng et al. 2024, arXiv:2410.02108).

    Args:
        name: "reason".
        selection: Where the guideline of an answer comes from: "each" takes the next one of
            all, in random order for each prompt; "model" has the model select two or three for
            each answer, by the authors' code.
        hint: Whether the right answer (`truth`) is shown, for the second try at questions that
            no path solved. Rows without one are dropped as `no_truth`.
    """

    name: Literal["reason"] = "reason"
    selection: Literal["each", "model"] = "each"
    hint: bool = False


def write_reasoning(
    write: GenerateField, drafts: Sequence[Draft], method: Reason, seed: int, *, boxed: bool
) -> None:
    """Write `response` step by step for each draft; `manner` is its guideline.

    Args:
        write: `generate_field` with engine, decoding and seed filled in.
        drafts: The prompts, with `before`.
        method: How guidelines are chosen.
        seed: Seed of their order.
        boxed: Whether the final answer is requested in a box.
    """
    guidelines = PROMPTS.render("guidelines").splitlines()
    for draft in drafts:
        draft.fields["hint"] = draft.notes.get("truth") if method.hint else None
        if method.hint and draft.active and draft["hint"] is None:
            draft.reject("no_truth")
    if method.selection == "model":
        for draft in drafts:
            draft.fields["guidelines"] = guidelines
        parse = partial(selected_numbers, most=len(guidelines))
        write(drafts, "selected", partial(_prompt, "select"), parse=parse)
    for draft in drafts:
        if not draft.active:
            continue
        if method.selection == "model":
            guideline = "\n".join(guidelines[number - 1] for number in draft["selected"])
        else:
            rng = random.Random(f"{seed} reason {draft.parents}")
            order = rng.sample(guidelines, len(guidelines))
            guideline = order[draft.number % len(order)]
        draft.fields |= {"manner": guideline, "guideline": guideline, "boxed": boxed}
    for prompt, field in (("adapted", "adapted"), ("outline", "outline"), ("path", "response")):
        write(drafts, field, partial(_prompt, prompt))


def selected_numbers(text: str, most: int) -> list[int] | None:
    """The numbers of the selected guidelines, at most three; None without any.

    They are the items of a list, or end the last line. Items that are counted from 1 are numbers
    of the list; the guidelines' are those that their texts begin with.

    Args:
        text: A completion.
        most: The largest number.

    Example:
        >>> selected_numbers("These 2 would help:\\n**4.** Work backwards.\\n7. Check.", 25)
        [4, 7]
        >>> selected_numbers("Of the 25, I would take 2, 30 and 5.", 25)
        [2, 5]
        >>> selected_numbers("1. Guideline 4\\n2. Guideline 7", 25)
        [4, 7]
        >>> selected_numbers("The task has 3 parts.", 25), selected_numbers("I see 3", 25)
        (None, None)
    """
    if items := _LISTED.findall(text):
        is_counted = len(items) > 1 and [int(n) for n, _ in items] == [*range(1, len(items) + 1)]
        numbers = [inner if is_counted else outer for outer, inner in items]
        if not all(numbers):
            return None
    else:
        numbers = _last_numbers(text)
    valid = [int(number) for number in numbers if 1 <= int(number) <= most]
    return list(dict.fromkeys(valid))[:_MAX_SELECTED] or None


def _last_numbers(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    match = _LAST_NUMBERS.search(lines[-1][-_LINE_END:]) if lines else None
    numbers = _NUMBER.findall(match["numbers"]) if match else []
    return numbers if match and (match["label"] is not None or len(numbers) > 1) else []


def _prompt(name: str, draft: Draft) -> Prompt:
    """One step of the chain, about the last thing that the user said."""
    *history, (_, instruction) = draft["before"]
    text = PROMPTS.render(name, **{**draft.fields, "instruction": instruction})
    return (*history, ("user", text))
