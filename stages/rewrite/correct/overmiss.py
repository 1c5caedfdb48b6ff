"""OVERMISS: a right translation beside one that says too much and one that leaves something out.

OVERMISS / SWIE: Improving Translation Faithfulness of Large Language Models via Augmenting
Instructions (Chen et al. 2023, arXiv:2308.12674; pppa2019/swie_overmiss_llm4mt).

As in the authors' data: the instruction says that faulty translations follow, the input is the
source with a line that hints at it, and the answer is one sentence with the right translation in
one tag and the over- and the miss-translated one in another, their kinds named. The faults read
like a model's: a detail is added, a detail is dropped. Plain rows go beside these (`load.concat`).

Ours: all wording and the tags; how faults are written (theirs is not published): a model adds
or drops a detail, or by rules a run of words is repeated or left out; a fault that is not longer
or not shorter than the right translation is dropped as `no_fault`. SWIE, the vector that a trainer
adds for the instruction, is no part of the data and is left out.

Example:
    >>> faults("The red house stands by the river.", "some key")
    ('The red house red house stands by the river.', 'The stands by the river.')
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import option_group
from stages._llm.drafts import Draft, Prompt, RowMessages, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, task_messages
from stages._text.final_answer import UNSPACED
from stages.rewrite._exchanges import row_as_it_was
from stages.rewrite.correct.solutions import Corrector, Injected

PROMPTS: Final = Prompts(__file__)

_MIN_UNITS: Final = 3
"""Of the shortest translation in which something can be left out."""

_RUN: Final = 0.34
"""The part of a translation that a rule repeats or leaves out, at most."""

_TAG: Final = re.compile(r"</?(?:right|wrong)>")
_UNSPACED_LETTER: Final = re.compile(rf"[{UNSPACED}]")


@option_group
class OverMiss:
    """Over- and miss-translations beside the right one (OVERMISS, Chen et al. 2023).

    Args:
        name: "overmiss".
    """

    name: Literal["overmiss"] = "overmiss"

    decoding: ClassVar[Decoding] = Decoding(512, 0.7)

    def run(self, corrector: Corrector, problems: Sequence[Draft]) -> list[Draft]:
        """A draft for each translation, with both faults."""
        for draft in problems:
            empty = dict.fromkeys(("solver", "mistake_step", "tag", "pair"))
            draft.fields |= {**empty, "error_source": "injected"}
            if draft.active:  # also while requests are counted: it is no answer's fault
                draft.rejection = _rejection(draft)
        errors = corrector.errors
        if isinstance(errors, Injected) and errors.by == "model":
            for kind in ("over", "miss"):
                corrector.write(problems, kind, lambda d, kind=kind: _prompt(d, kind))
        else:
            for draft in problems:
                if draft.active:
                    key = f"{corrector.seed} overmiss {draft.parents}"
                    draft.fields["over"], draft.fields["miss"] = faults(draft["response"], key)
        filter_drafts(problems, _unless_faulty)
        for draft in problems:
            if draft.active:
                draft.notes |= {name: draft[name] for name in ("over", "miss")}
        return list(problems)

    def messages_of(self, draft: Draft) -> RowMessages:
        """The task with its hint, and the sentence that names all three; else the row itself."""
        if not draft.active or "miss" not in draft.fields:
            return row_as_it_was(draft)
        instruction = PROMPTS.render("instruction", instruction=draft["instruction"])
        hint = PROMPTS.render("hint", input=draft["input"])
        values = {"right": draft["response"].strip(), "over": draft["over"], "miss": draft["miss"]}
        messages, start = task_messages(instruction, hint, PROMPTS.render("answer", **values))
        return [*draft["lead"], *messages], start


def faults(text: str, key: str) -> tuple[str, str]:
    """A text with a run of its words twice, and without it.

    Args:
        text: A translation; in scripts without spaces, characters stand for words.
        key: What the run is drawn by.
    """
    joint = "" if _UNSPACED_LETTER.search(text) else " "
    units = list(text) if not joint else text.split()
    rng = random.Random(key)
    length = rng.randint(1, max(1, int(_RUN * len(units))))
    start = rng.randint(0, max(0, len(units) - 1 - length))
    run = units[start : start + length]
    over = joint.join([*units[: start + length], *run, *units[start + length :]])
    return over, joint.join([*units[:start], *units[start + length :]])


def _units(text: str) -> int:
    """The length in words, or in characters where words have no spaces between them."""
    return len("".join(text.split())) if _UNSPACED_LETTER.search(text) else len(text.split())


def _rejection(draft: Draft) -> Rejection | None:
    if not draft["input"]:
        return "no_input", {}
    if _TAG.search(draft["response"]):
        return "has_tags", {}
    units = _units(draft["response"])
    return ("too_short", {"units": units}) if units < _MIN_UNITS else None


def _unless_faulty(draft: Draft) -> Rejection | None:
    """Only a longer text says too much, and only a shorter one leaves something out."""
    right = _units(draft["response"])
    lengths = {name: _units(draft[name]) for name in ("over", "miss")}
    tagged = any(_TAG.search(draft[name]) for name in ("over", "miss"))
    if tagged or not lengths["miss"] < right < lengths["over"] or not lengths["miss"]:
        return "no_fault", {"right": right, **lengths}
    return None


def _prompt(draft: Draft, kind: str) -> Prompt:
    values: dict[str, Any] = {name: draft[name] for name in ("instruction", "input", "response")}
    return user(PROMPTS.render(kind, **values))
