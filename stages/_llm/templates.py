"""Templates that a recipe holds: prompts and expressions over the columns of a row.

They are Jinja's, in its sandbox. The texts of a row are values and never templates: what looks
like one in them (`{{ 7 * 7 }}`) is shown as it stands. A template may neither include files nor
run without an end: its loops take `MAX_STEPS` steps together, and it writes `MAX_CHARACTERS` at
most.

A null is no text. Where a template would write one, or calculate with it, rendering raises
`NullValue`; `{% if topic %}`, `topic is none`, `topic or "any"` and `topic | default("any")` ask
for it. So does a field that a row's JSON does not have. Lists and mappings are written as JSON.

Example:
    >>> template = Template("Say {{ word | upper }}{% if tone %}, {{ tone }}{% endif %}.")
    >>> sorted(template.names), template.render({"word": "{{ 7 * 7 }}", "tone": None})
    (['tone', 'word'], 'Say {{ 7 * 7 }}.')
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import count
from typing import Any, Final

from jinja2 import ChainableUndefined, TemplateError, TemplateSyntaxError, meta, nodes, pass_context
from jinja2 import Template as JinjaTemplate
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

MAX_STEPS: Final = 100_000
"""Steps that all loops of one rendering take together."""

MAX_CHARACTERS: Final = 10_000_000
"""What one rendering may write, and how long a text or a list may become by multiplication."""

_MAX_BITS: Final = 10_000
_STEPS: Final = "the number of steps"
"""The name under which a rendering counts: no template can write it."""


class TemplateMistake(ValueError):
    """A template that cannot be rendered; the text says why: "must be ..., got ..."."""


class NullValue(TemplateRuntimeError):
    """A template writes a null, or calculates with it; the text is its name."""


class Null(ChainableUndefined):
    """What a template sees of a null: false, equal to none, and no text."""

    __slots__ = ()

    def __init__(
        self, hint: str | None = None, obj: Any = missing, name: Any = None, exc: Any = NullValue
    ) -> None:
        super().__init__(hint, obj, name, exc if exc is SecurityError else NullValue)

    @property
    def _undefined_message(self) -> str:
        return str(self._undefined_name)

    def __str__(self) -> str:
        raise self._undefined_exception(self._undefined_message)

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __hash__(self) -> int:
        return hash(None)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which no multiplication makes something huge.

    A dot means the value of that name where there is one: a field may be called `items`.
    """

    intercepted_binops = frozenset({"*", "**"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(v) for v in (left, right) if isinstance(v, str | list | tuple)]
        factors = [v for v in (left, right) if isinstance(v, int)]
        if operator == "*" and sizes and factors and sizes[0] * factors[0] > MAX_CHARACTERS:
            raise TemplateMistake(f"must write at most {MAX_CHARACTERS:,} characters")
        if operator == "**" and len(factors) == 2 and _bits(*factors) > _MAX_BITS:
            raise TemplateMistake(f"must calculate with numbers of at most {_MAX_BITS:,} bits")
        return super().call_binop(context, operator, left, right)


def _bits(base: int, exponent: int) -> int:
    return base.bit_length() * abs(exponent)


@pass_context
def _bounded(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    """What a loop goes over; every step of every loop counts."""
    steps = context.resolve(_STEPS)
    for item in items:
        if next(steps) >= MAX_STEPS:
            raise TemplateMistake(f"must take at most {MAX_STEPS:,} steps in its loops")
        yield item


def to_json(value: Any) -> str:
    """A value as JSON, with null for a null."""
    return json.dumps(value, ensure_ascii=False, default=_without_null)


def _without_null(value: Any) -> Any:
    return None if isinstance(value, Null) else str(value)


def _from_json(text: str) -> Any:
    """The value that JSON text says; texts of a row that are no JSON have none."""
    try:
        return with_nulls(json.loads(text), "fromjson")
    except (TypeError, ValueError, RecursionError):
        return Null(name="fromjson")


def _written(value: Any) -> Any:
    """What `{{ value }}` writes."""
    if value is None:
        raise NullValue("none")
    if callable(value) and not isinstance(value, Null):
        raise TemplateMistake("must write values, got a function: it is called with ()")
    return to_json(value) if isinstance(value, list | tuple | dict) else value


def with_nulls(value: Any, name: str) -> Any:
    """A value of a row as a template sees it: with `Null` for every null in it.

    Args:
        value: What JSON can say.
        name: What the nulls are called.
    """
    if value is None:
        return Null(name=name)
    if isinstance(value, list):
        return [with_nulls(item, name) for item in value]
    if isinstance(value, dict):
        return {key: with_nulls(item, f"{name}.{key}") for key, item in value.items()}
    return value


@cache
def _environment() -> _Sandbox:
    environment = _Sandbox(
        undefined=Null,
        finalize=_written,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals = {name: environment.globals[name] for name in ("namespace", "range")}
    environment.filters |= {"bounded": _bounded, "tojson": to_json, "fromjson": _from_json}
    # The same row gives the same prompt.
    del environment.filters["random"]
    environment.tests["none"] = lambda value: value is None or isinstance(value, Null)
    return environment


class Template:
    """A template, checked and compiled.

    Args:
        source: Its text.

    Attributes:
        names: The values that it needs.
        fields: Every name behind a dot or in brackets, such as those of the rows in a list.

    Raises:
        TemplateMistake: The text is no template that may be rendered.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        try:
            tree = _environment().parse(source)
            self.names = frozenset(meta.find_undeclared_variables(tree) - {*_environment().globals})
            _refuse_unbounded(tree)
            self.fields = frozenset(_fields(tree))
            for loop in tree.find_all(nodes.For):
                loop.iter = nodes.Filter(
                    loop.iter, "bounded", [], [], None, None, lineno=loop.lineno
                )
            code = _environment().compile(tree)
        except TemplateSyntaxError as error:
            why = f"{error.message}, line {error.lineno}"
            raise TemplateMistake(
                f"must be a Jinja template, got {_start(source)} ({why})"
            ) from None
        except RecursionError:
            raise TemplateMistake(f"must be a Jinja template, got {_start(source)}") from None
        environment = _environment()
        self._compiled = JinjaTemplate.from_code(environment, code, environment.globals)

    def render(self, values: Mapping[str, Any]) -> str:
        """The text with the values inserted.

        Args:
            values: The values by name, each as JSON could say it.

        Raises:
            NullValue: It writes a null.
            TemplateMistake: It fails, or goes on for too long.
        """
        seen = {name: with_nulls(value, name) for name, value in values.items()}
        parts: list[str] = []
        length = 0
        try:
            for part in self._compiled.generate({**seen, _STEPS: count()}):
                parts.append(part)
                length += len(part)
                if length > MAX_CHARACTERS:
                    raise TemplateMistake(f"must write at most {MAX_CHARACTERS:,} characters")
        except (NullValue, TemplateMistake):
            raise
        # Whatever an expression of the recipe's may raise is a mistake of the template.
        except Exception as error:
            why = error.message if isinstance(error, TemplateError) else str(error)
            got = f"{_start(self.source)} ({type(error).__name__}: {why})"
            raise TemplateMistake(f"must be a template that renders, got {got}") from None
        return "".join(parts)


@cache
def compile_template(source: str) -> Template:
    """A template, compiled once.

    Args:
        source: Its text.

    Raises:
        TemplateMistake: The text is no template that may be rendered.
    """
    return Template(source)


@cache
def condition(source: str) -> Template:
    """The template of a condition, which writes `true` where it holds.

    Args:
        source: An expression, such as `level == "hard" and count > 3`.

    Raises:
        TemplateMistake: The text is no expression.

    Example:
        >>> condition("n > 3").render({"n": 4}), condition("n > 3").render({"n": 2})
        ('true', '')
    """
    try:
        _environment().compile_expression(source)
    except TemplateError as error:
        why = f"must be an expression, such as level == 'hard', got {source!r} ({error.message})"
        raise TemplateMistake(why) from None
    return Template(f"{{% if ({source}) %}}true{{% endif %}}")


def _refuse_unbounded(tree: nodes.Template) -> None:
    """Refuse what reads files, and loops that call themselves."""
    reading = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
    if any(tree.find(kind) is not None for kind in reading):
        raise TemplateMistake("must stand alone, got one that includes another file")
    if any(loop.recursive for loop in tree.find_all(nodes.For)):
        raise TemplateMistake("must have no recursive loops, got one")


def _fields(tree: nodes.Template) -> Iterator[str]:
    for node in tree.find_all(nodes.Getattr):
        yield node.attr
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str):
            yield item.arg.value
    for call in tree.find_all(nodes.Filter):
        # Names that filters take as texts, as in `examples | map(attribute="topic")`.
        for argument in (*call.args, *(pair.value for pair in call.kwargs)):
            if isinstance(argument, nodes.Const) and isinstance(argument.value, str):
                yield argument.value


def _start(source: str) -> str:
    return repr(source if len(source) <= 60 else f"{source[:60]}...")
