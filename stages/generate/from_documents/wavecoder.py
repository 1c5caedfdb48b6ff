"""Rows out of raw code by a generator that a discriminator teaches: WaveCoder.

Yu et al. 2023, arXiv:2312.14187. The discriminator checks each row rule by rule; what it
accepted and what it refused, with its reasons, are the examples of later rounds.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from pipeline.models.base import Decoding
from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate._parsing.sections import sections
from stages.generate.from_documents.passages import Means

PROMPTS: Final = Prompts(__file__)

KINDS: Final = {
    "generation": ("have code written", "a formula, a format or an example that is needed"),
    "summarization": ("have code summarised in prose", "the code"),
    "translation": ("have code translated into another language", "the code"),
    "repair": ("have faulty code repaired", "code with a fault that you put into it"),
}
"""The four kinds of tasks: what the user wants, and what comes with it."""

_LABELS: Final = ("Task", "Instruction", "Information", "Solution")
_NOTHING: Final = frozenset(
    {"", "none", "noinput", "<noinput>", "no additional information is required"}
)
_SENTENCE_END: Final = re.compile(r"[.!?](?:\s|$)")
_VERDICT: Final = re.compile(r"^[^\w\n]*(\d+)\W+(yes|no)\b\W*(.*)$", re.IGNORECASE | re.MULTILINE)
JUDGED: Final = Decoding(max_tokens=500)

Cases = dict[str, list[dict[str, Any]]]
"""Accepted or refused rows by their kind of task, with the code that they were made of."""


def wavecoder(means: Means, passages: list[Draft]) -> list[Draft]:
    """A row of one kind of task for each passage, in rounds of `window` passages.

    The examples of a round come from the rounds before it; the first has none.
    """
    drafts = expand(passages, lambda d: _kinds(means, d))
    alive = [draft for draft in drafts if draft.active]
    good: Cases = defaultdict(list)
    bad: Cases = defaultdict(list)
    done = 0
    while done < len(alive) and (means.count is None or _number(good) < means.count):
        window = alive[done : done + means.window]
        for draft in window:
            draft.fields |= {
                "round": done // means.window + 1,
                "good": _shown(means, draft, good),
                "bad": _shown(means, draft, bad),
            }
        _round(means, window)
        for draft in window:
            _learn(draft, good, bad)
        done += len(window)
        means.progress(done, len(alive))
    for draft in alive[done:]:
        draft.reject("enough_rows", rows=_number(good))
    return drafts


def _number(cases: Cases) -> int:
    return sum(map(len, cases.values()))


def _kinds(means: Means, draft: Draft) -> list[dict[str, Any]]:
    names = means.few("wavecoder", draft, means.task_types)
    return [{"task_type": name} for name in names]


def _shown(means: Means, draft: Draft, cases: Cases) -> list[dict[str, Any]]:
    """Random cases of the draft's kind."""
    known = cases[draft["task_type"]]
    draw = means.draw(f"wavecoder {draft['task_type']}", draft)
    return draw.sample(known, min(means.shots, len(known)))


def _round(means: Means, drafts: Sequence[Draft]) -> None:
    means.ask(drafts, "written", _generator_prompt, read=written)
    filter_drafts(drafts, _form)
    for draft in drafts:
        if draft.active:
            found = draft["written"]
            information = found["Information"]
            draft.fields |= {
                "instruction": found["Instruction"],
                "input": "" if _nothing(information) else information,
                "response": found["Solution"],
                "row": "\n".join(f"{name}: {found[name]}" for name in _LABELS),
            }
            draft.notes["task"] = found["Task"]
    means.judge(drafts, "verdicts", _discriminator_prompt, read=verdicts, decoding=JUDGED)
    filter_drafts(drafts, _judged)


def rules(kind: str) -> list[str]:
    """What a row of this kind must be like."""
    return PROMPTS.render(f"rules/{kind}").splitlines()


def _generator_prompt(draft: Draft) -> Prompt:
    kind = draft["task_type"]
    task, information = KINDS[kind]
    values = {name: draft[name] for name in ("passage", "good", "bad")}
    return user(
        PROMPTS.render(
            "generate",
            **values,
            task=task,
            information=information,
            rules=rules(kind),
        )
    )


def _discriminator_prompt(draft: Draft) -> Prompt:
    values = {name: draft[name] for name in ("passage", "row", "bad")}
    values["rules"] = rules(draft["task_type"])
    return user(PROMPTS.render("discriminate", **values))


def written(text: str) -> dict[str, str] | None:
    """The four parts of the row; None where there is not exactly one row.

    What a model says of its own row behind it is left out.
    """
    row = re.split(r"^Analysis:", text, maxsplit=1, flags=re.MULTILINE)[0]
    found = sections(row, _LABELS, empty="Information")
    return found[0] if len(found) == 1 else None


def _nothing(text: str) -> bool:
    return text.strip(" .,").casefold() in _NOTHING


def _form(draft: Draft) -> Rejection | None:
    """The released code's checks, before anybody is asked.

    Only a task of generation has its information in sentences: elsewhere it is code.
    """
    parts = draft["written"]
    empty = [name for name in _LABELS if name != "Information" and _nothing(parts[name])]
    if empty:
        return "empty_part", {"part": empty[0]}
    sentences = _sentences(parts["Instruction"])
    if sentences > 2:
        return "instruction_too_long", {"sentences": sentences}
    told = _sentences(parts["Information"])
    if draft["task_type"] == "generation" and told > 2:
        return "information_too_long", {"sentences": told}
    return None


def _sentences(text: str) -> int:
    return len([part for part in _SENTENCE_END.split(text) if part.strip()])


def verdicts(text: str) -> dict[int, tuple[bool, str]] | None:
    """By the number of each rule whether it is met, and the reason."""
    found = _VERDICT.findall(text)
    return {int(n): (said.lower() == "yes", why.strip()) for n, said, why in found} or None


def _judged(draft: Draft) -> Rejection | None:
    """The first rule that is broken, or on which the discriminator is silent."""
    found = draft["verdicts"]
    for number, rule in enumerate(rules(draft["task_type"]), 1):
        if number not in found:
            return "verdict_missing", {"rule": rule}
        met, why = found[number]
        if not met:
            return "rule_broken", {"rule": rule, "reason": why}
    return None


def _learn(draft: Draft, good: Cases, bad: Cases) -> None:
    """Put a judged row with its code among the cases."""
    refused = draft.rejection and draft.rejection[0] == "rule_broken"
    if draft.error is not None or not (draft.active or refused):
        return
    reasons = [why for met, why in draft["verdicts"].values() if not met]
    case = {"passage": draft["passage"], "row": draft["row"], "reasons": reasons}
    (bad if refused else good)[draft["task_type"]].append(case)
