"""Parsers of completions: pure functions from raw text to instructions, tasks and instances.

The formats are those of Self-Instruct (Wang et al. 2022, arXiv:2212.10560) and its
descendants. Nothing here depends on models or journals, so that every row can be
rebuilt from the raw completions. What is refused is refused with a reason and evidence.
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
"""Words of tasks that a language model cannot do: the list of Self-Instruct's code."""

_NUMBER = re.compile(
    r"(?:^|\n)[^\S\n]*(?:#{1,6}[ \t]*)?(?:\*\*)?\d+\s?(?:\\?[.)](?:\*\*)?(?=\s|$)|[、．](?:\*\*)?)"
)
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


def numbered_items(text: str) -> list[str]:
    r"""The items of a numbered list, each on one line.

    The prompt ends with the first number, so that the text before the next number is an
    item too. Empty items are left out.

    Example:
        >>> numbered_items(" Name a color.\n10. Name\n a river.")
        ['Name a color.', 'Name a river.']
    """
    items = (" ".join(item.split()) for item in _NUMBER.split(text))
    return [item for item in items if item]


def field_tasks(text: str, fields: Sequence[str]) -> list[tuple[str, dict[str, str] | None]]:
    r"""The tasks between lines of "###", in Alpaca's format.

    A field follows its number and name at the beginning of a line, "4. Input: ...", with
    whatever marks around them, and may have several lines. A task has every field once, in
    order, under one number (any number, where Alpaca's code expects the next one); without a
    "###" the first field under another number begins the next task. "<noinput>" is an empty
    input.

    Returns:
        For each task its text and its fields by name, None for a task in another format.

    Example:
        >>> field_tasks("4. Input: <noinput>\n4. Output: Yes.\n###\nHm.", ("input", "output"))
        [('4. Input: <noinput>\n4. Output: Yes.', {'input': '', 'output': 'Yes.'}), ('Hm.', None)]
    """
    parts = (
        part.strip()
        for block in _RULE.split(text.replace("\r\n", "\n"))
        for part in _tasks(block, fields[0])
    )
    return [(part, _fields(part, fields)) for part in parts if part]


def _label(number: str, names: str) -> str:
    """The pattern of a field's number and name; it captures the name."""
    return (
        rf"^[ \t#>*_-]*+{number}[ \t]?(?:[.)][ \t]*|[、．])[*_]*[ \t]*({names})"
        r"[*_]*[ \t]*[:：](?:\*\*|__)?"
    )


def _tasks(block: str, first: str) -> list[str]:
    """A block in parts that begin with the first field under another number."""
    starts = [0]
    current = None
    for match in re.finditer(_label(r"(\d+)", first), block, re.I | re.M):
        if current is not None and match[1] != current:
            starts.append(match.start())
        current = match[1]
    parts = (block[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True))
    return [re.sub(r"\n[ \t]*(?:-{3,}|\*{3,})\s*\Z", "", part) for part in parts]


def _fields(part: str, fields: Sequence[str]) -> dict[str, str] | None:
    names = "|".join(fields)
    number = re.search(_label(r"(\d+)", names), part, re.I | re.M)
    if number is None:
        return None
    _, *parts = re.split(_label(number[1], names), part, flags=re.I | re.M)
    if [name.lower() for name in parts[::2]] != list(fields):
        return None
    values = dict(zip(fields, map(str.strip, parts[1::2]), strict=True))
    if values.get("input", "").lower() == "<noinput>":
        values["input"] = ""
    return values


def without_mark(text: str) -> str:
    """The text before the first "|EoS|", the end mark of Ensemble-Instruct."""
    return text.partition("|EoS|")[0].strip()


def labelled_instance(text: str, with_input: bool) -> Instance | None:
    """The instance in "input: ... output: ..." or in "output: ..."; None without it.

    Small models do not stop: an end mark, or the next "instruction:", ends the output.

    Example:
        >>> labelled_instance("input: 2 and 3 |EoS|\\noutput: 5 |EoS| 6", with_input=True)
        Instance(input='2 and 3', output='5')
    """
    text = _NEXT.split(text)[0]
    match = (_INPUT_OUTPUT if with_input else _OUTPUT_ALONE).match(text)
    if match is None:
        return None
    return Instance(match[1].replace("|EoS|", "").strip(), without_mark(match[2]))


def leaked(text: str) -> str | None:
    """The first label of the prompt's format in a text that should have none, else None."""
    match = _MARKED.search(text)
    return match[0].strip() if match else None


@dataclass(frozen=True)
class Rules:
    """Filters of instructions, with the defaults of Self-Instruct's code.

    Attributes:
        min_words: Smallest number of words, which are separated by white space.
        max_words: Largest number of words.
        keywords: Words that an instruction must not contain, whatever their case.
        ascii_start: The first character must be ASCII.

    Example:
        >>> Rules().rejection("Describe what the images show.")
        ('banned_keyword', {'keyword': 'images'})
    """

    min_words: int = 4
    max_words: int = 150
    keywords: tuple[str, ...] = KEYWORDS
    ascii_start: bool = True

    def rejection(self, instruction: str) -> Rejection | None:
        """The first filter that a (non-empty) instruction fails, in the order of the code."""
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
    """An instance of a task: its input (empty where it needs none) with the output."""

    input: str
    output: str


def input_first(text: str) -> list[Instance]:
    r"""The instances in "Example n / Input: ... / Output: ..." or in one "Output: ...".

    Example:
        >>> input_first("Example 1\nInput: 3, 1\nOutput: 1, 3\nExample 2\nOutput: 4")
        [Instance(input='3, 1', output='1, 3'), Instance(input='', output='4')]
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
    r"""The instances in "Class label: <output>", each with its input on the lines below.

    Example:
        >>> output_first("Class label: spam\nBuy now!")
        [Instance(input='Buy now!', output='spam')]
    """
    parts = [part.strip().partition("\n") for part in text.split(_LABEL)[1:]]
    return [Instance(input.strip(), label.strip()) for label, _, input in parts]


def continued_turn(text: str) -> str:
    """The input in a user turn that a model continued after its instruction.

    The text before the first blank line belongs to the instruction and is left out.
    """
    return text.partition("\n\n")[2].strip()


def judge_instances(
    instances: Sequence[Instance], cut: bool
) -> list[tuple[Instance, Rejection | None]]:
    """Each instance of one task with its rejection, None for those that are kept.

    Two outputs for one non-empty input reject all instances of the task.

    Args:
        instances: In the order of the completion.
        cut: The completion ended on its length, so that its last instance is unfinished.

    Example:
        >>> judge_instances([Instance("a", "1"), Instance("a", "1")], cut=False)[1]
        (Instance(input='a', output='1'), ('duplicate', {'same_as_instance': 0}))
    """
    judged = [(instance, _rejection(instance)) for instance in instances]
    if cut and judged:
        judged[-1] = judged[-1][0], ("instance_cut", {"finish_reason": "length"})
    outputs = defaultdict(set)
    for instance, rejection in judged:
        if rejection is None and instance.input:
            outputs[instance.input].add(instance.output)
    conflict = next((i for i, distinct in outputs.items() if len(distinct) > 1), None)
    if conflict is not None:
        reason = "conflicting_outputs", {"input": conflict, "outputs": sorted(outputs[conflict])}
        judged = [(instance, rejection or reason) for instance, rejection in judged]
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
