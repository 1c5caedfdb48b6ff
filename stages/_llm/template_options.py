"""Options that hold templates and conditions over the columns of a row."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from stages._llm.templates import Template, condition


def _template(source: str) -> str:
    Template(source)
    return source


def _condition(source: str) -> str:
    condition(source)
    return source


TemplateText = Annotated[str, AfterValidator(_template)]
"""A Jinja template over columns: "Write about {{ topic }}"."""

Condition = Annotated[str, AfterValidator(_condition)]
"""An expression over columns: "level == 'hard' and count > 3"."""
