"""Templates of a recipe: data is data, nulls are no texts, and nothing runs without an end."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages._llm.templates import NullValue, Template, TemplateMistake, condition

TEXTS = st.text() | st.sampled_from(
    ["{{ 7*7 }}", "{% for i in range(9) %}x{% endfor %}", "{# gone #}", "{{ a }}", "%s {0}", "\n  "]
)


def render(source: str, **values: object) -> str:
    return Template(source).render(values)


@given(TEXTS, TEXTS)
def test_a_text_is_shown_as_it_stands(text: str, other: str) -> None:
    assert render("<{{ a }}|{{ b }}>", a=text, b=other) == f"<{text}|{other}>"
    assert render("{% for x in xs %}{{ x }};{% endfor %}", xs=[text, other]) == f"{text};{other};"


@pytest.mark.parametrize(
    "expression",
    ["a", "a | upper", "'x' ~ a", "a + 1", "a > 3", "b.c", "b.c.d", "b['x']", "[1, a] | join"],
)
def test_a_null_is_never_written_or_calculated_with(expression: str) -> None:
    with pytest.raises(NullValue):
        render("{{ " + expression + " }}", a=None, b={"c": None})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ a or 'any' }}", "any"),
        ("{{ a | default('any') }}", "any"),
        ("{% if a %}1{% else %}0{% endif %}", "0"),
        ("{{ a is none }}", "True"),
        ("{{ a == none }}", "True"),
        ("{{ b.c.d or 'any' }}", "any"),
        ("{% for x in a %}x{% endfor %}none", "none"),
        ("{{ b }}", '{"c": null, "d": ["é"]}'),
        ("{{ j | fromjson }}", '{"e": [1, null]}'),
        ("{{ (j | fromjson).e[0] }}", "1"),
    ],
)
def test_a_template_can_ask_for_a_null(source: str, text: str) -> None:
    values = {"a": None, "b": {"c": None, "d": ["é"]}, "j": '{"e": [1, null]}'}
    assert render(source, **values) == text


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{% for i in range(99999) %}{% endfor %}{% endmacro %}{{ m() }}{{ m() }}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ ([0] * 10 ** 8) | length }}",
        "{{ 10 ** 10000000000 }}",
        "{% for i in range(90000) %}{{ a * 200 }}{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ a.__init__.__globals__ }}",
        "{{ xs.append(1) }}",
        "{{ a() }}",
        "{{ 1 / 0 }}",
    ],
)
def test_what_has_no_end_or_reaches_out_is_refused(source: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(TemplateMistake):
        render(source, a="some text", xs=[1])
    assert time.perf_counter() - begin < 20


@pytest.mark.parametrize(
    "source",
    [
        "{{ a",
        "{% for %}",
        "{{ xs | random }}",
        "{% include 'secrets.txt' %}",
        "{% import 'x' as x %}",
        "{% for a in b recursive %}{{ loop(a) }}{% endfor %}",
    ],
)
def test_what_is_no_template_is_refused_before_it_runs(source: str) -> None:
    with pytest.raises(TemplateMistake, match="must"):
        Template(source)


def test_a_condition_is_one_expression() -> None:
    assert condition("n > 3 and t == 'x'").render({"n": 4, "t": "x"}) == "true"
    for source in ("n >", "a) %}{% if (b", "", "{{ n }}"):
        with pytest.raises(TemplateMistake):
            condition(source)


def test_a_template_says_what_it_names() -> None:
    template = Template(
        "{% for e in examples %}{{ e.topic }}{{ e['tone'] }}{% endfor %}{% set x = y %}{{ x.z }}"
    )
    assert template.names == {"examples", "y"}
    assert template.fields == {"topic", "tone", "z"}


@pytest.mark.parametrize("name", ["items", "values", "keys", "get", "copy", "pop", "update"])
def test_a_dot_means_the_value_of_that_name(name: str) -> None:
    assert Template(f"{{{{ extra.{name} }}}}").render({"extra": {name: "3 eggs"}}) == "3 eggs"


@pytest.mark.parametrize("source", ["{{ text.upper }}", "{{ extra.items }}"])
def test_a_function_is_no_value(source: str) -> None:
    with pytest.raises(TemplateMistake, match="must write values, got a function"):
        Template(source).render({"text": "a", "extra": {}})
