"""What the answer to a prompt of one's own is: how it is asked for, read and stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import polars as pl

from pipeline.errors import UserError
from pipeline.models.ask import Check
from pipeline.models.base import Completion
from pipeline.models.structured_output import Parser, Unreadable, choice_parser, json_parser
from pipeline.types import NonEmpty, option_group
from stages._common.option_types import Distinct
from stages._llm.preambles import without_preamble
from stages._llm.prompts import Prompts
from stages.generate.column.fields import Field, object_schema, parse_field, storable

PROMPTS: Final = Prompts(__file__)


@option_group
class Text:
    """The answer as a text, without a preamble ("Sure! Here is ...") and the space around it.

    An answer that was cut, or is empty, is unreadable.

    Args:
        name: "text".
    """

    name: Literal["text"] = "text"


@option_group
class Label:
    """One of several labels.

    Args:
        name: "label".
        labels: What may be answered. YAML reads a bare yes or no as true or false: quote them.
        show_form: Whether the prompt ends with the list of the labels.
    """

    name: Literal["label"] = "label"
    labels: Annotated[tuple[str, ...], NonEmpty, Distinct]
    show_form: bool = True


@option_group
class Structured:
    """A JSON object, each of whose fields becomes a column of its own name and type.

    Args:
        name: "structured".
        fields: The type of each field: str, int, float or bool; a range such as `int 1..5`;
            `list[str]`; a list of texts to choose from; `| null` behind a type where there may
            be none; or `{type: ..., description: ...}` to tell the model more.
        show_form: Whether the prompt ends with the list of the fields.
    """

    name: Literal["structured"] = "structured"
    fields: Annotated[dict[str, Any], NonEmpty]
    show_form: bool = True

    def __post_init__(self) -> None:
        try:
            self.parsed()
        except ValueError as error:
            raise ValueError(f"fields must hold types: {error}") from None

    def parsed(self) -> dict[str, Field]:
        """The fields by name."""
        return {name: parse_field(name, raw) for name, raw in self.fields.items()}


@option_group
class Json:
    """JSON of a schema, which the column holds as text; templates read it with `| fromjson`.

    Args:
        name: "json".
        json_schema: The schema.
        show_form: Whether the prompt ends with the schema.
    """

    name: Literal["json"] = "json"
    json_schema: dict[str, Any]
    show_form: bool = True

    def __post_init__(self) -> None:
        try:
            json_parser(json.dumps(self.json_schema))
        except UserError as error:
            why = str(error.why).partition("\n")[0]
            raise ValueError(f"{error.what} ({why})") from None


Output = Text | Label | Structured | Json


@dataclass(frozen=True)
class Form:
    """How answers are asked for, read and stored.

    Attributes:
        columns: The columns of an answer, with their polars types.
        parse: From the text of an answer to a value.
        values: From this value to those of the columns.
        ending: What stands behind the prompt.
        choice: What may be answered; anything where it is empty.
        json_schema: The schema of what may be answered; None for any text.
        check: Refuses a completion that cannot be used.
    """

    columns: Mapping[str, Any]
    parse: Parser
    values: Callable[[Any], dict[str, Any]]
    ending: str = ""
    choice: tuple[str, ...] = ()
    json_schema: str | None = None
    check: Check | None = None


def form_of(output: Output, column: str) -> Form:
    """The form of the answers.

    Args:
        output: The option.
        column: The name of the column, where there is one.
    """
    match output:
        case Label(labels=labels):
            ending = PROMPTS.render("label", labels=labels) if output.show_form else ""
            parse = choice_parser(labels)
            return Form({column: pl.String}, parse, lambda v: {column: v}, ending, labels)
        case Structured():
            return _structured(output)
        case Json(json_schema=schema):
            text = json.dumps(schema, ensure_ascii=False)
            ending = PROMPTS.render("json", schema=text) if output.show_form else ""
            parse = _storable(json_parser(text))
            return Form(
                {column: pl.String}, parse, lambda v: {column: _json(v)}, ending, json_schema=text
            )
    return Form({column: pl.String}, _text, lambda v: {column: v}, check=_complete)


def _structured(output: Structured) -> Form:
    fields = output.parsed()
    # A model is held to these fields; where it cannot be, others beside them do no harm.
    parse = _storable(json_parser(object_schema(fields, only=False)))
    return Form(
        columns={name: field.dtype for name, field in fields.items()},
        parse=parse,
        values=lambda value: {name: value[name] for name in fields},
        ending=PROMPTS.render("fields", fields=[*fields.values()]) if output.show_form else "",
        json_schema=object_schema(fields, only=True),
    )


def _text(text: str) -> str:
    answer = without_preamble(text)
    if not answer:
        raise Unreadable("the answer must be a text")
    return answer


def _complete(completion: Completion) -> None:
    if completion.finish_reason == "length":
        raise Unreadable("the answer must come to its end")


def _storable(parse: Parser) -> Parser:
    """The parser, for values that a column can hold."""

    def parse_storable(text: str) -> Any:
        value = parse(text)
        if not storable(value):
            raise Unreadable("the JSON must hold finite numbers of 64 bits and valid Unicode")
        return value

    return parse_storable


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
