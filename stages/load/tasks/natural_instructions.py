"""Super-NaturalInstructions: a definition, examples and instances, in five encodings.

Super-NaturalInstructions: Generalization via Declarative Instructions on 1600+ NLP Tasks (Wang
et al. 2022, arXiv:2204.07705; yizhongw/Tk-Instruct).

As in the paper: definition, positive and negative examples with explanations; at most 100
instances of a task; whole categories are held out.

As in the authors' code: the five encodings are drawn uniformly: the definition; two positive
examples; definition and two positive; two negative ones besides; two positive with explanations;
1,024 tokens of input and 128 of target; a full stop is added where a text ends in no punctuation;
the target is one of the references at random; an example is added while everything fits.

Ours: the wording (`prompts: {natural_instructions: FILE}` puts the authors' in its place). The
budget never cuts the query: an instance too long without any example is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pipeline.errors import UserError
from pipeline.types import Count, option_group
from stages.load._files.json_lines import DECODER, Position
from stages.load._files.stream import Stream
from stages.load._files.window import Window
from stages.load._rows.output import SURROGATE
from stages.load.tasks.drawing import Draws
from stages.load.tasks.rendering import (
    PROMPTS,
    Budget,
    Drop,
    InvalidRow,
    Rendered,
    Row,
    RowContext,
    Template,
    checked,
)
from stages.load.tasks.values import text_of


class Encoding(NamedTuple):
    """What a prompt shows beside the query.

    Attributes:
        name: Its name.
        definition: Whether the definition.
        positive: How many positive examples.
        negative: How many negative ones.
        explained: Whether their explanations.
    """

    name: str
    definition: bool
    positive: int
    negative: int
    explained: bool


ENCODINGS: Final = (
    Encoding("definition", True, 0, 0, False),
    Encoding("positive", False, 2, 0, False),
    Encoding("definition_positive", True, 2, 0, False),
    Encoding("definition_positive_negative", True, 2, 2, False),
    Encoding("definition_positive_explained", True, 2, 0, True),
)


@option_group
class NaturalInstructions:
    """Super-NaturalInstructions' task files.

    Attributes:
        max_rows: The most training instances of a task.
        max_input: The most tokens of a prompt.
        max_target: The most tokens of a target.
    """

    name: Literal["natural_instructions"] = "natural_instructions"
    max_rows: Count = 100
    max_input: Count = 1024
    max_target: Count = 128


@dataclass(frozen=True)
class NaturalTask:
    """A task of Super-NaturalInstructions.

    Attributes:
        name: The name of its file without `.json`.
        file: The file.
        definition: What is to be done.
        positive: Examples that are right.
        negative: Examples that are wrong.
        cluster: Its first category.
        datasets: What it was made from.
    """

    name: str
    file: Path
    definition: str
    positive: tuple[Mapping[str, str], ...]
    negative: tuple[Mapping[str, str], ...]
    cluster: str
    datasets: frozenset[str]

    @property
    def license(self) -> None:
        """Its own license: none that can be read for sure."""
        return None

    def inputs(self, row: Row) -> Mapping[str, Any]:
        """The fields that stand for the instance in all random choices."""
        return {"input": row.get("input")}


def read_natural(path: Path) -> NaturalTask:
    """The task of a file.

    Args:
        path: A task file, as the authors publish it.

    Raises:
        UserError: It is none.
    """
    parts = _Parts(path)
    for _ in parts.instances():
        if parts.fields.keys() >= _NEEDED:  # in the authors' files the instances come last
            break
    fields = parts.fields
    if _SURROGATE.search(json.dumps(fields, ensure_ascii=False)):
        raise UserError(
            f"{path.name} must hold texts, it has {SURROGATE}",
            why="it stands beside the instances",
            hint="mend the file, or leave it out",
        )
    definition = " ".join(_texts(fields.get("Definition"))).strip()
    if not definition or not parts.has_instances:
        missing = "Instances" if definition else "Definition"
        raise UserError(
            f"{path.name} must be a task of Natural Instructions, it has no {missing!r}",
            why=parts.error,
            hint="a JSON object with Definition, Positive Examples, Negative Examples, Instances",
        )
    return NaturalTask(
        name=path.name.removesuffix(".json"),
        file=path,
        definition=_ended(definition),
        positive=_examples(fields.get("Positive Examples")),
        negative=_examples(fields.get("Negative Examples")),
        cluster=next(iter(_texts(fields.get("Categories"))), path.name.removesuffix(".json")),
        datasets=frozenset([*_texts(fields.get("Source")), str(path)]),
    )


def instances(path: Path) -> Iterator[Position]:
    """The instances of a task file, with their lines; a broken one costs itself and the rest.

    Args:
        path: The file.
    """
    yield from _Parts(path).instances()


_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_NEEDED: Final = frozenset(
    {"Definition", "Positive Examples", "Negative Examples", "Categories", "Source"}
)
_SPACE: Final = re.compile(r"[\s,]*")


class _Parts:
    """The fields of a task file; its instances come one by one, with their lines.

    Attributes:
        fields: Those beside the instances, once these have been read.
        has_instances: Whether there is a list of them.
        error: Why the file could not be read to its end.
    """

    def __init__(self, path: Path) -> None:
        self._window = Window(Stream(path))
        self.fields: dict[str, Any] = {}
        self.has_instances = False
        self.error: str | None = None

    def instances(self) -> Iterator[Position]:
        """The instances; the other fields are kept."""
        window = self._window
        try:
            self._pass("{")
            while window.skip(_SPACE) and not window.text.startswith("}", window.at):
                key = self._value()
                self._pass(":")
                if key == "Instances":
                    yield from self._list()
                else:
                    self.fields[str(key)] = self._value()
        except (ValueError, RecursionError) as error:
            self.error = f"invalid JSON: {error}".split(": line ")[0]
            yield window.line, None, self.error

    def _list(self) -> Iterator[Position]:
        window = self._window
        self._pass("[")
        self.has_instances = True
        while window.skip(_SPACE) and not window.text.startswith("]", window.at):
            line = window.line
            yield line, self._value(), None
        self._pass("]")

    def _pass(self, mark: str) -> None:
        """Go behind a mark."""
        window = self._window
        if not window.skip(_SPACE) or not window.text.startswith(mark, window.at):
            raise ValueError(f"{mark!r} is missing")
        window.advance(window.at + 1)

    def _value(self) -> Any:
        """The next value, up to whose end is read."""
        window = self._window
        window.skip(_SPACE)
        while True:
            try:
                value, end = DECODER.raw_decode(window.text, window.at)
            except ValueError:
                if not window.more():
                    raise
                continue
            if end == len(window.text) and window.more():
                continue  # a number may go on
            window.advance(end)
            return value


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in map(text_of, values) if text]


def _examples(value: Any) -> tuple[Mapping[str, str], ...]:
    rows = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
    examples = [
        {
            "input": _ended(text_of(row.get("input")) or ""),
            "output": _ended(next(iter(_texts(row.get("output"))), "")),
            "explanation": _ended(text_of(row.get("explanation")) or ""),
        }
        for row in rows
    ]
    return tuple(one for one in examples if one["input"] and one["output"])


_ENDS: Final = re.compile(r"[^\w\s]$")


def _ended(text: str) -> str:
    """A text with a full stop where it ends in no punctuation.

    >>> _ended("Translate"), _ended("Is it so?"), _ended("")
    ('Translate.', 'Is it so?', '')
    """
    text = text.strip()
    return f"{text}." if text and not _ENDS.search(text) else text


def _others(examples: Sequence[Mapping[str, str]], query: str) -> tuple[Mapping[str, str], ...]:
    """The examples of other inputs: no instance is shown to itself."""
    return tuple(one for one in examples if one["input"] != query)


@dataclass(frozen=True)
class NaturalRenderer:
    """Makes instructions of the instances of one task.

    Attributes:
        task: The task.
        budget: How long prompts and targets may be.
    """

    task: NaturalTask
    budget: Budget

    @cached_property
    def templates(self) -> Sequence[Template]:
        """The encodings."""
        return [Template(e.name, self.task.file.name, 1) for e in ENCODINGS]

    def render(self, row: Row, context: RowContext, /) -> Iterator[Rendered | Drop]:
        """One instruction; see `Renderer`.

        Args:
            row: The instance.
            context: What is drawn for it; the task has its own examples.

        Raises:
            InvalidRow: The instance has no input.
        """
        encoding = ENCODINGS[context.draws.below(len(ENCODINGS), "encoding")]
        yield self._rendered(row, context.draws, encoding)

    def every(self, row: Row) -> Iterator[Rendered | Drop]:
        """The instance in each encoding; see `Renderer`."""
        for encoding in ENCODINGS:
            yield self._rendered(row, Draws(0, b""), encoding)

    def _rendered(self, row: Row, draws: Draws, encoding: Encoding) -> Rendered | Drop:
        query = row.get("input")
        if not isinstance(query, str):
            raise InvalidRow(f"an instance must have the text `input`, got {query!r:.80}")
        references = _texts(row.get("output"))
        if not query.strip() or not references:
            reason = "empty_target" if query.strip() else "empty_prompt"
            return Drop(reason, encoding.name, {})
        target = references[draws.below(len(references), "reference")]
        prompt, shown = self._prompt(_ended(query), encoding)
        result = Rendered(prompt, target, encoding.name, encoding.name, None, target, shown)
        fitting = checked(result)
        return fitting if isinstance(fitting, Drop) else self.budget.check(fitting)

    def _prompt(self, query: str, encoding: Encoding) -> tuple[str, int]:
        """The prompt with as many examples as fit, and how many these are."""
        positive = _others(self.task.positive, query)[: encoding.positive]
        negative = _others(self.task.negative, query)[: encoding.negative]
        total = len(positive) + len(negative)
        while True:
            text = self._text(query, encoding, positive, negative)
            if not (positive or negative) or self.budget.fits_input(text):
                return text, total
            # The last one goes: one that fits behind a longer one would change the order.
            positive, negative = (positive, negative[:-1]) if negative else (positive[:-1], ())
            total -= 1

    def _text(
        self,
        query: str,
        encoding: Encoding,
        positive: Sequence[Mapping[str, str]],
        negative: Sequence[Mapping[str, str]],
    ) -> str:
        if not encoding.explained:
            positive = [{**example, "explanation": ""} for example in positive]
            negative = [{**example, "explanation": ""} for example in negative]
        return PROMPTS.render(
            "natural_instructions",
            # Without any example that fits, the definition is all that there is.
            definition=self.task.definition if encoding.definition or not positive else "",
            positive=positive,
            negative=negative,
            query=query,
        )
