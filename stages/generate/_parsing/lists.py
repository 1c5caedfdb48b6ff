"""Reading what a model wrote: pure functions from raw text to tasks, labels and instances.

Self-Instruct (Wang et al. 2022, arXiv:2212.10560) with what was made of it, and, for the
ratings, Instruction Backtranslation (Li et al. 2023, arXiv:2308.06259). Nothing here
knows models or journals, so whoever holds the raw responses can rebuild every row from
them.
A rejection is a reason and its evidence; nothing is left out in silence.
"""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from stages._llm.rows import Rejection

KEYWORDS: Final = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files"),
    *("map", "maps", "draw", "plot", "go to"),
)
"""What a model of texts cannot do anything with: the reference's list."""

_NUMBER = re.compile(r"(?:^|\n)[^\S\n]*\d+\s?\.(?=\s|$)")
_LISTED = re.compile(r"^[ \t]*(?:\d+[ \t]?[.)]|[-*•])[ \t]+(\S.*)$", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*#{3,}[ \t]*$", re.MULTILINE)
_MARKED = re.compile(
    r"^[ \t]*(?:instruction|input|output|constraints|example ?\d*)[ \t]*:|^[ \t]*#{3,}|\|EoS\|",
    re.IGNORECASE | re.MULTILINE,
)
_NEXT = re.compile(r"^[ \t]*instruction[ \t]*:", re.IGNORECASE | re.MULTILINE)
_INPUT_OUTPUT = re.compile(r"\s*input[ \t]*:(.*?)^[ \t]*output[ \t]*:(.*)", re.I | re.M | re.S)
_OUTPUT_ALONE = re.compile(r"\s*()output[ \t]*:(.*)", re.I | re.S)
_EXAMPLE = re.compile(r"^[ \t]*Example[ \t]?\d+[.:]?", re.MULTILINE)
_OUTPUT = re.compile(r"Output\s*\d*\s*:")
_INPUT = re.compile(r"Input\s*\d*\s*:")
_LABEL = "Class label:"
_SCORE_AT_END = re.compile(r"score:\s*([1-5])\s*$", re.IGNORECASE)
_SCORE_ANYWHERE = re.compile(r"score:\s*(\d+)", re.IGNORECASE)


def numbered_items(text: str) -> list[str]:
    """The items of a list "... <newline> 10. ... <newline> 11. ...", on one line each.

    The first number stands in the prompt, so the text before the next number is
    an item too; a model that repeats the number loses nothing. Empty items are
    left out.
    """
    items = (" ".join(item.split()) for item in _NUMBER.split(text))
    return [item for item in items if item]


def listed_items(text: str) -> list[str]:
    """The items of a list with numbers ("1.", "2)") or bullets, a line each; other lines go."""
    return [item.strip() for item in _LISTED.findall(text)]


def field_tasks(text: str, fields: Sequence[str]) -> list[tuple[str, dict[str, str] | None]]:
    """Tasks between lines of "###", each as its text and its fields; None for one not so written.

    A field stands behind its number and name at the beginning of a line, "4. Input: ...",
    and may run over lines. A task has every field once, in order, under one number (any,
    where Alpaca's code wants the next one); "<noinput>" is an empty input.
    """
    names = "|".join(fields)
    parts = (part.strip() for part in _RULE.split(text))
    return [(part, _fields(part, fields, names)) for part in parts if part]


def _fields(part: str, fields: Sequence[str], names: str) -> dict[str, str] | None:
    number = re.search(rf"^[ \t]*(\d+)[ \t]?\.[ \t]*(?:{names})[ \t]*:", part, re.I | re.M)
    if number is None:
        return None
    label = rf"^[ \t]*{number[1]}[ \t]?\.[ \t]*({names})[ \t]*:"
    _, *found = re.split(label, part, flags=re.I | re.M)
    if [name.lower() for name in found[::2]] != list(fields):
        return None
    values = dict(zip(fields, map(str.strip, found[1::2]), strict=True))
    if values.get("input", "").lower() == "<noinput>":
        values["input"] = ""
    return values


def without_mark(text: str) -> str:
    """What stands before the first "|EoS|", by which Ensemble-Instruct ends a text."""
    return text.partition("|EoS|")[0].strip()


def labelled_instance(text: str, with_input: bool) -> Instance | None:
    """The instance in "input: ... output: ..." or in "output: ..."; None without it.

    Small models write on: an end mark behind the output, or a next "instruction:", ends it.
    """
    text = _NEXT.split(text)[0]
    found = (_INPUT_OUTPUT if with_input else _OUTPUT_ALONE).match(text)
    if found is None:
        return None
    return Instance(found[1].replace("|EoS|", "").strip(), without_mark(found[2]))


def leaked(text: str) -> str | None:
    """The first mark of a prompt's form in a text that should hold none; None for a clean one."""
    found = _MARKED.search(text)
    return found[0].strip() if found else None


@dataclass(frozen=True)
class Rules:
    """What an instruction must be like. Words are what stands between spaces."""

    min_words: int = 4
    max_words: int = 150
    keywords: tuple[str, ...] = KEYWORDS
    ascii_start: bool = True

    def rejection(self, instruction: str) -> Rejection | None:
        """The first rule that a (non-empty) instruction breaks, in the reference's order."""
        words = len(instruction.split())
        if words < self.min_words:
            return "too_short", {"words": words}
        if words > self.max_words:
            return "too_long", {"words": words}
        for keyword in self.keywords:
            if re.search(rf"\b{re.escape(keyword)}\b", instruction, re.IGNORECASE):
                return "banned_keyword", {"keyword": keyword}
        if instruction.lower().startswith("write a program"):
            return "write_a_program", {}
        if instruction[0] in string.punctuation:
            return "starts_with_punctuation", {"character": instruction[0]}
        if self.ascii_start and not instruction[0].isascii():
            return "starts_outside_ascii", {"character": instruction[0]}
        return None


class Instance(NamedTuple):
    """One input of a task (empty where it needs none) with its output."""

    input: str
    output: str


def input_first(text: str) -> list[Instance]:
    """Instances from "Example n / Input: ... / Output: ..." or from one "Output: ...".

    A text with neither heading is no instance.
    """
    if _EXAMPLE.search(text):
        return [_input_output(part) for part in _EXAMPLE.split(text) if part.strip()]
    return [_input_output(text)] if _OUTPUT.search(text) else []


def _input_output(text: str) -> Instance:
    before, *after = _OUTPUT.split(text)
    if not after:
        return Instance("", _INPUT.split(text)[0].strip())
    # A second pair without a heading of its own is not this instance's output.
    return Instance(_without_label(before.strip()), _INPUT.split(after[0])[0].strip())


def _without_label(text: str) -> str:
    label = _INPUT.match(text)
    return text[label.end() :].strip() if label else text


def output_first(text: str) -> list[Instance]:
    """Instances from "Class label: <output>", each with its input on the lines below."""
    parts = [part.strip().partition("\n") for part in text.split(_LABEL)[1:]]
    return [Instance(given.strip(), label.strip()) for label, _, given in parts]


def continued_turn(text: str) -> str:
    """The input in a user turn that a model continued after its instruction.

    What stands before the first blank line only prolongs the instruction.
    """
    return text.partition("\n\n")[2].strip()


def judge_instances(
    instances: Sequence[Instance], cut: bool
) -> list[tuple[Instance, Rejection | None]]:
    """Every instance of one task with the reason why it is dropped, if it is.

    cut: the response stopped on length, so its last instance is unfinished.
    Two outputs for one non-empty input throw doubt on the whole task.
    """
    judged = [(instance, _rejection(instance)) for instance in instances]
    if cut and judged:
        judged[-1] = judged[-1][0], ("instance_cut", {"finish_reason": "length"})
    outputs = defaultdict(set)
    for instance, rejection in judged:
        if rejection is None and instance.input:
            outputs[instance.input].add(instance.output)
    conflict = next((i for i, found in outputs.items() if len(found) > 1), None)
    if conflict is not None:
        doubt = "conflicting_outputs", {"input": conflict, "outputs": sorted(outputs[conflict])}
        judged = [(instance, rejection or doubt) for instance, rejection in judged]
    return _without_repeats(judged)


def _without_repeats(
    judged: Sequence[tuple[Instance, Rejection | None]],
) -> list[tuple[Instance, Rejection | None]]:
    first: dict[Instance, int] = {}
    result: list[tuple[Instance, Rejection | None]] = []
    for position, (instance, rejection) in enumerate(judged):
        if rejection is None and first.setdefault(instance, position) != position:
            rejection = "duplicate", {"same_as_instance": first[instance]}
        result.append((instance, rejection))
    return result


def _rejection(instance: Instance) -> Rejection | None:
    if not instance.output:
        return "empty_output", {}
    if instance.input == instance.output:
        return "input_equals_output", {}
    for side, text in instance._asdict().items():
        if text.endswith(":"):
            return "ends_with_colon", {"side": side}
    return None


def score(text: str, strict: bool = True) -> int | None:
    """The rating 1 to 5 of a "Score: n"; None where there is none.

    strict: it must be the last thing said. Otherwise the first one anywhere counts,
    as in the unofficial Humback code, where the lax reading finds a third more
    ratings (and reasoning such as "not yet a score: 5").
    """
    found = _SCORE_AT_END.search(text) if strict else _SCORE_ANYWHERE.search(text)
    return int(found[1]) if found and 1 <= int(found[1]) <= 5 else None
