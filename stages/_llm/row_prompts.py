"""Prompts that a recipe writes itself: a template over the columns of each row.

Beside the columns and the parts of a conversation (`row_values`) a template may show few-shot
rows: `examples` is a list of rows of another pool, drawn for each row by the seed and its id.
The row itself is never among them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import polars as pl

from pipeline.errors import OptionError, UserError
from pipeline.models.counting import rendered
from pipeline.stage import Edges
from schemas.records import digest
from schemas.turns import View
from stages._llm.row_values import PARTS, check_names, columns_of, row_values
from stages._llm.rows import Rejection
from stages._llm.templates import NullValue, Template, TemplateMistake, compile_template

EXAMPLES: Final = "examples"
"""What a template calls the few-shot rows; the edge that they come on has the same name."""

NULL_VALUE: Final = "null_value"
"""The reason for which a row is dropped whose prompt would show a null."""

_SEED_DIGITS: Final = 7
"""Hexadecimal digits of the seed of a row's requests: 28 bits."""


@dataclass(frozen=True)
class RowPrompt:
    """The templates of a prompt, and what they show.

    Attributes:
        prompt: The user's turn.
        system: The system's turn; None without one.
        view: What of a turn is shown.
        num_examples: Few-shot rows of each prompt.
        seed: Of the choice of these rows.
    """

    prompt: Template
    system: Template | None
    view: View
    num_examples: int
    seed: int

    @property
    def names(self) -> frozenset[str]:
        """What the templates name of a row."""
        system = self.system.names if self.system else frozenset()
        return (self.prompt.names | system) - {EXAMPLES}

    @property
    def shows_examples(self) -> bool:
        """Whether a template names the few-shot rows."""
        return any(EXAMPLES in t.names for t in (self.prompt, self.system) if t)

    @property
    def example_names(self) -> frozenset[str]:
        """What the templates may name of a few-shot row."""
        fields = [t.fields for t in (self.prompt, self.system) if t]
        return frozenset().union(*fields) if self.shows_examples else frozenset()


def row_prompt(options: SimpleNamespace | Mapping[str, Any]) -> RowPrompt:
    """The prompt that a stage's options describe.

    Args:
        options: `prompt` or `prompt_file`, `system`, `view`, `num_examples` and `seed`.

    Raises:
        OptionError: There is no prompt, or two; or a template is wrong.
    """
    values = options if isinstance(options, Mapping) else vars(options)
    option = "prompt_file" if values["prompt_file"] else "prompt"
    system = values["system"]
    return RowPrompt(
        compiled(option, _source(values["prompt"], values["prompt_file"])),
        compiled("system", system) if system is not None else None,
        *(values["view"], values["num_examples"], values["seed"]),
    )


def _source(prompt: str | None, files: tuple[str, ...]) -> str:
    """The text of the prompt's template."""
    if (prompt is None) == (not files):
        got = "neither" if prompt is None else "both"
        hint = "prompt: 'Summarise this: {{ response }}', or prompt_file: my/prompt.jinja"
        raise OptionError("prompt", f"or prompt_file must be given, got {got}", hint=hint)
    if prompt is not None:
        return prompt
    if len(files) > 1:
        raise OptionError("prompt_file", f"must be one file, got {len(files)}")
    try:
        return Path(files[0]).read_text("utf-8").rstrip("\n")
    except UnicodeDecodeError:
        raise OptionError("prompt_file", f"must be text in UTF-8, got {files[0]}") from None


def compiled(option: str, source: str) -> Template:
    """The template of an option.

    Args:
        option: The option's name.
        source: Its value.

    Raises:
        OptionError: It is no template.
    """
    try:
        return compile_template(source)
    except TemplateMistake as error:
        raise OptionError(option, str(error)) from None


def prompt_reads(options: SimpleNamespace) -> dict[str, list[str]]:
    """The columns that a prompt reads on the edges `rows` and `examples`.

    Args:
        options: See `row_prompt`.
    """
    prompt = row_prompt(options)
    return {"rows": columns_of(prompt.names), EXAMPLES: columns_of(prompt.example_names)}


def check_prompt(options: SimpleNamespace, edges: Edges) -> None:
    """Check that the rows have what a prompt names, and few-shot rows come where they are shown.

    Args:
        options: See `row_prompt`.
        edges: The columns of what is connected to each edge.

    Raises:
        OptionError: They do not.
    """
    prompt = row_prompt(options)
    option = "prompt_file" if options.prompt_file else "prompt"
    if prompt.shows_examples and not edges.get(EXAMPLES):
        what = "must have an input for the examples that it shows, got none"
        raise OptionError(option, what, hint=f"needs: {{rows: STAGE, {EXAMPLES}: STAGE}}")
    if edges.get(EXAMPLES) and not prompt.shows_examples:
        hint = "{% for example in examples %}{{ example.instruction }}{% endfor %}"
        raise OptionError(option, "must show the examples that come in, got none", hint=hint)
    for columns in edges.get("rows", ()):
        check_names(option, prompt.prompt.names - {EXAMPLES}, columns)
        if prompt.system:
            check_names("system", prompt.system.names - {EXAMPLES}, columns)


@dataclass(frozen=True)
class RenderedPrompt:
    """The prompt of one row.

    Attributes:
        turns: Role and text of each turn; none where there is a rejection.
        rejection: Why the row has no prompt.
    """

    turns: tuple[tuple[str, str], ...] = ()
    rejection: Rejection | None = None


def prompts_of(
    prompt: RowPrompt, rows: pl.DataFrame, examples: pl.DataFrame | None, ending: str = ""
) -> list[RenderedPrompt]:
    """The prompt of each row.

    Args:
        prompt: The templates.
        rows: The rows.
        examples: The pool of the few-shot rows.
        ending: What stands behind every prompt, such as the form of the answer.

    Raises:
        UserError: A template cannot be rendered.
    """
    pool = _Pool(prompt, examples)
    values = row_values(rows, prompt.names, prompt.view)
    rendering = []
    for id_, row in zip(rows["id"], values, strict=True):
        shown = {**row, EXAMPLES: pool.drawn(id_)} if prompt.shows_examples else row
        rendering.append(_rendered(prompt, shown, ending, id_))
    return rendering


def _rendered(
    prompt: RowPrompt, values: Mapping[str, Any], ending: str, id_: str
) -> RenderedPrompt:
    """The turns, or the reason for which a row has none."""
    turns = []
    for role, template in (("system", prompt.system), ("user", prompt.prompt)):
        if template is None:
            continue
        try:
            text = rendered(f"{role} {template.source}", partial(template.render, values))
        except NullValue as null:
            return RenderedPrompt(rejection=(NULL_VALUE, {"name": str(null)}))
        except TemplateMistake as error:
            raise UserError(f"the {role} prompt {error}", where=f"row {id_}") from None
        turns.append((role, text))
    *before, (_, text) = turns
    if not text.strip():
        return RenderedPrompt(rejection=("no_prompt", {}))
    text = f"{text}\n\n{ending}" if ending else text
    return RenderedPrompt((*before, ("user", text)))


class _Pool:
    """The rows from which few-shot rows are drawn.

    Args:
        prompt: What is shown of them, and how many.
        examples: The rows; None for none.
    """

    def __init__(self, prompt: RowPrompt, examples: pl.DataFrame | None) -> None:
        self.ids: list[str] = []
        self.number, self.seed = prompt.num_examples, prompt.seed
        if examples is not None:
            frame = examples.sort("id")
            self.ids = frame["id"].to_list()
            names = [name for name in prompt.example_names if name in (*frame.columns, *PARTS)]
            self.values = row_values(frame, sorted(names), prompt.view)

    def drawn(self, id_: str) -> list[dict[str, Any]]:
        """The few-shot rows of a row, which is never among them."""
        generator = random.Random(f"{self.seed} examples {id_}")
        number = min(self.number + 1, len(self.ids))
        drawn = generator.sample(range(len(self.ids)), number)
        return [self.values[i] for i in drawn if self.ids[i] != id_][: self.number]


def row_seed(seed: int, id_: str, temperature: float) -> int:
    """The seed of a row's requests: rows with equal prompts are sampled by themselves.

    Without sampling it is the stage's own, so that equal prompts are one request.

    Args:
        seed: The stage's seed.
        id_: The row.
        temperature: Of the sampling.

    Example:
        >>> row_seed(7, "a", 0.0), row_seed(7, "a", 0.7) == row_seed(7, "b", 0.7)
        (7, False)
    """
    return int(digest([seed, id_])[:_SEED_DIGITS], 16) if temperature else seed
