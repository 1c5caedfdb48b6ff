"""What is wrong with a template, as far as its text and a few rows show.

- `brace`: a brace of no field is left, or a field of the other language of templates;
- `separator`: no `|||`, or one too many on a way through the template;
- `glued`: a letter follows a field where an escape has lost its backslash ("{premise}n"), as in
  nine patterns of FLAN's first version;
- `syntax`: the template cannot be read;
- `field`: no row has a field that it names;
- `answer`: of no row is the answer among the options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from string import Formatter
from typing import Final, NamedTuple

import jinja2
from jinja2 import nodes

from stages.load.tasks.rendering import Drop, InvalidRow, Renderer, Row, Template
from stages.load.tasks.template_files import JinjaSource, PatternSource

SEPARATOR: Final = "|||"
"""What parts prompt and target in promptsource's templates."""

_GLUED: Final = re.compile(r"\}[nrt](?=\W|$)")
_FIELD: Final = re.compile(r"[^\W\d]\w*")
_BRACED: Final = re.compile(r"(?<!\{)\{\w+\}(?!\})|\{\{|\}\}|\{%|%\}")


class Finding(NamedTuple):
    """A fault of a template.

    Attributes:
        template: Where it stands.
        kind: Which fault.
        what: The fault in words.
    """

    template: Template
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.template}: {self.what}"


def lint_pattern(source: PatternSource) -> Iterator[Finding]:
    """The faults of a pair of patterns.

    Args:
        source: The patterns.

    Example:
        >>> template = Template("rte/5", "flan.jsonl", 6)
        >>> for finding in lint_pattern(PatternSource(template, "{premise}n{x", "{answer}")):
        ...     print(finding)
        rte/5 (flan.jsonl:6): a brace is left: expected '}' before end of string
        rte/5 (flan.jsonl:6): '}n' may be a line break that lost its backslash
    """
    for pattern in (source.prompt, source.target):
        if fault := brace_fault(pattern):
            yield Finding(source.template, "brace", f"a brace is left: {fault}")
        yield from _glued(source.template, pattern)
        if SEPARATOR in pattern:
            yield Finding(source.template, "separator", f"{SEPARATOR!r} is left in a pattern")


def brace_fault(pattern: str) -> str | None:
    """Why a pattern cannot be filled; None where it can.

    Args:
        pattern: The pattern.
    """
    try:
        fields = [part[1:] for part in Formatter().parse(pattern) if part[1] is not None]
    except ValueError as error:
        return str(error)
    wrong = next((f for f in fields if not _FIELD.fullmatch(f[0] or "") or f[1] or f[2]), None)
    return None if wrong is None else f"{{{wrong[0]}}} is no field"


def _glued(template: Template, text: str) -> Iterator[Finding]:
    for match in _GLUED.finditer(text):
        name = {"n": "a line break", "r": "a line break", "t": "a tab"}[match[0][1]]
        what = f"{match[0]!r} may be {name} that lost its backslash"
        yield Finding(template, "glued", what)


def lint_jinja(source: JinjaSource) -> Iterator[Finding]:
    """The faults of a template of promptsource.

    Args:
        source: The template.

    Example:
        >>> source = JinjaSource(Template("one", "t.yaml", 3), "{{ text }} {label}", None, True)
        >>> for finding in lint_jinja(source):
        ...     print(finding)
        one (t.yaml:3): a brace is left: '{label}'
        one (t.yaml:3): it has no '|||' between prompt and target
    """
    from stages.load.tasks.t0 import environment

    template = source.template
    try:
        tree = environment().parse(source.jinja)
        for text in (source.jinja, source.answer_choices or ""):
            environment().from_string(text)
    except (jinja2.TemplateError, RecursionError) as error:
        yield Finding(template, "syntax", f"it cannot be read: {error}")
        return
    for data in tree.find_all(nodes.TemplateData):
        if match := _BRACED.search(data.data):
            yield Finding(template, "brace", f"a brace is left: {match[0]!r}")
    yield from _glued(template, source.jinja)
    most = _separators(tree.body)
    if most == 0:
        what = f"it has no {SEPARATOR!r} between prompt and target"
        yield Finding(template, "separator", what)
    elif most > 1:
        yield Finding(template, "separator", f"{SEPARATOR!r} is left in the target")


def _separators(body: Sequence[nodes.Node]) -> int:
    """The most separators that one way through the template writes."""
    total = 0
    for node in body:
        match node:
            case nodes.TemplateData():
                total += node.data.count(SEPARATOR)
            case nodes.Const():
                total += str(node.value).count(SEPARATOR)
            case nodes.If():
                branches = [node.body, node.else_, *(other.body for other in node.elif_)]
                total += max(map(_separators, branches))
            case nodes.For():  # one in a loop is written as often as it runs
                total += max(2 * _separators(node.body), _separators(node.else_))
            case _:
                total += _separators([*node.iter_child_nodes()])
    return total


def lint_rows(renderer: Renderer, rows: Sequence[Row]) -> Iterator[Finding]:
    """The templates that make nothing of any of some rows, for one reason that is theirs.

    Args:
        renderer: The task's.
        rows: The first rows of the task.
    """
    results: dict[str, list[Drop | None]] = {}
    for row in rows:
        try:
            for result in renderer.every(row):
                drop = result if isinstance(result, Drop) else None
                results.setdefault(result.template, []).append(drop)
        except InvalidRow:
            continue
    for template in renderer.templates:
        drops = results.get(template.name) or [None]
        first = drops[0]
        if first is None or any(drop is None or drop.reason != first.reason for drop in drops):
            continue
        if "field" in first.details:
            what = f"no row has what it names ({first.details['field']})"
            yield Finding(template, "field", what)
        elif first.reason == "answer_not_in_options":
            what = f"of no row is the answer among the options, as {dict(first.details)}"
            yield Finding(template, "answer", what)
