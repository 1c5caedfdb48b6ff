"""The answer to the instruction against the answer to one that is planted in its input.

SecAlign: SecAlign: Defending Against Prompt Injection with Preference Optimization (Chen et al.
2024, arXiv:2410.05451; facebookresearch/SecAlign).

As in the paper: a model that prefers the first is harder to lead astray by what it reads. The
planted instruction is another row's; reserved markers part the instruction from its input, and
are deleted from the input.

As in the authors' code: the instruction stands behind the input as it is (`naive`, 90%), or behind
a forged answer between forged delimiters (`completion`, 10%); a question is announced as one.

Ours: the forged answer is never the true one, which would teach to repeat it; the planted
instruction is never the row's own, neither answer is a part of the other, and the row's own does
not come into the input with it; the delimiters' wording. The markers are text: a tokenizer has to
hold them as tokens of their own (`stages/_text/planted.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, Final, Literal

from pipeline.types import Fraction, NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._text.planted import (
    MARKERS,
    SEPARATOR,
    Planted,
    holds,
    plant,
    separated,
    without_markers,
)
from stages.generate.pairs.proposals import Answer, Drawn, Proposal, paired, without_pair

_TRIES: Final = 50
"""How many other rows are looked at until one fits."""


@option_group
class SecAlign:
    """The row's answer against that of another row, whose instruction is planted in the input.

    Rows of one exchange with a separate input take part; others are dropped as `no_input`,
    as `empty_input` where it is nothing but markers, and as `no_other` where no row has another
    instruction and an answer of which neither holds the other.

    Args:
        completion_fraction: The fraction of pairs with a forged answer before the planted
            instruction.
        markers: Texts that are deleted from inputs.
        separator: What stands between the instruction and its input, in a line of its own; empty
            for a blank line alone.
    """

    name: Literal["secalign"] = "secalign"
    completion_fraction: Fraction = 0.1
    markers: Annotated[tuple[Annotated[str, NonEmpty], ...], Distinct] = MARKERS
    separator: str = SEPARATOR


def secalign_pairs(
    answers: Sequence[Answer], starts: Mapping[str, int | None], method: SecAlign, drawn: Drawn
) -> list[Proposal]:
    """The proposals of `SecAlign`.

    Args:
        answers: All answers.
        starts: By id, where the input begins in the first user turn.
        method: The options of the method.
        drawn: Decides which instruction is planted, and how.
    """
    single = [a for a in answers if [turn["role"] for turn in a.prompt].count("user") == 1]
    requests = {a.id: _request(a, starts[a.id]) for a in single}
    proposals = []
    for answer in answers:
        instruction, data = requests.get(answer.id, ("", ""))
        if not data.strip():
            proposals.append(without_pair([answer], "no_input"))
            continue
        if not without_markers(data, method.markers).strip():
            proposals.append(without_pair([answer], "empty_input"))
            continue
        forged = drawn(f"completion {answer.id}") < method.completion_fraction
        attack: Literal["completion", "naive"] = "completion" if forged else "naive"
        rng = Random(drawn(f"wording {answer.id}"))
        for other in _others(answer, single, drawn):
            planted = plant(data, Planted(*requests[other.id], attack), rng)
            if not holds(planted[len(data) :], answer.text):
                content = separated(
                    instruction, without_markers(planted, method.markers), method.separator
                )
                proposals.append(_pair(answer, other, content, attack))
                break
        else:
            proposals.append(without_pair([answer], "no_other"))
    return proposals


def _request(answer: Answer, start: int | None) -> tuple[str, str]:
    """The instruction and its input; an empty input without one."""
    content = answer.prompt[-1]["content"] or ""
    return content[:start].strip(), "" if start is None else content[start:]


def _others(answer: Answer, answers: Sequence[Answer], drawn: Drawn) -> Iterator[Answer]:
    """Rows with another instruction and another answer, from a place on that is drawn."""
    first = int(drawn(answer.id) * len(answers))
    for step in range(min(len(answers), _TRIES)):
        other = answers[(first + step) % len(answers)]
        differ = not holds(answer.text, other.text) and not holds(other.text, answer.text)
        if other.key != answer.key and differ:
            yield other


def _pair(answer: Answer, other: Answer, content: str, attack: str) -> Proposal:
    prompt = [*answer.prompt[:-1], {**answer.prompt[-1], "content": content}]
    chosen = replace(answer, prompt=prompt)
    return paired(chosen, replace(other, prompt=prompt, tools=answer.tools), attack=attack)
