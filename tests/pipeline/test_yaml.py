"""YAML as recipes use it: merge keys, lines, and documents that are refused."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.recipe.yaml_document import RecipeDocument, apply_override, parse


def document(text: str) -> RecipeDocument:
    return parse(textwrap.dedent(text), "r.yaml")


MERGED = """\
    base: &base
      x: 1
      with:
        p: 1
        q: 1
    more: &more {x: 2, y: 2}
    one: {<<: *base, z: 3}
    own:
      <<: *base
      with:
        r: 9
    several:
      <<: [*base, *more]
      y: 7
    nested: &nested {<<: *more, n: 1}
    deep: {<<: *nested}
"""


def test_merge_keys_mean_what_they_mean_everywhere() -> None:
    parsed = document(MERGED)
    assert not parsed.problems
    assert parsed.content == yaml.safe_load(textwrap.dedent(MERGED))
    assert parsed.content["several"] == {"x": 1, "with": {"p": 1, "q": 1}, "y": 7}


def test_a_merged_key_has_the_line_where_it_is_written() -> None:
    parsed = document(MERGED)
    for key_path, line in {
        ("one", "x"): 2,
        ("one", "with", "q"): 5,
        ("one", "z"): 7,
        ("own", "x"): 2,
        ("own", "with"): 10,
        ("own", "with", "r"): 11,
        ("own", "with", "q"): 10,  # not there: the nearest key above it
        ("several", "y"): 14,
        ("deep", "y"): 6,
    }.items():
        assert parsed.where(key_path) == f"r.yaml:{line}", key_path


def test_what_is_merged_is_no_duplicate_and_what_is_double_still_is() -> None:
    parsed = document("a: &a {x: 1, x: 2}\nb: {<<: *a, y: 1, y: 2}\nc: {<<: *a, <<: *a}\n")
    assert [str(p) for p in parsed.problems] == [
        "r.yaml:1: duplicate key 'x'",
        "r.yaml:2: duplicate key 'y'",
        "r.yaml:3: duplicate key '<<'",
    ]
    assert str(document("a: {<<: 3}").problems[0]) == (
        "r.yaml:1: '<<' must be a mapping or a list of mappings"
    )


INTEGERS = st.integers(-(2**63), 2**63 - 1)


@given(st.recursive(INTEGERS | st.text() | st.none() | st.booleans(), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
), max_leaves=10))  # fmt: skip
def test_any_plain_value_is_read_as_yaml_reads_it(value: Any) -> None:
    text = yaml.safe_dump({"v": value}, allow_unicode=True)
    assert parse(text, "r.yaml").content == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: &b {<<: *b}\n", "r.yaml:2: the document contains itself"),
        ("a: &a [*a]", "r.yaml:1: the document contains itself"),
        ("a: " + "[" * 60 + "]" * 60, "r.yaml:1: values must be nested at most 50 deep"),
        ("a: " + "[" * 5000 + "]" * 5000, "r.yaml: values must be nested at most 50 deep"),
        (
            "a0: &a0 [1, 1]\n"
            + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
            "a document must have at most 100,000 values, its aliases expanded",
        ),
        (
            "b0: &b0 {" + ", ".join(f"k{i}: 1" for i in range(500)) + "}\n"
            "b1: &b1 {<<: [" + ", ".join(["*b0"] * 300) + "]}\n"
            "b2: {<<: [" + ", ".join(["*b1"] * 300) + "]}\n",
            "a document must have at most 100,000 values, its aliases expanded",
        ),
        ("a: " + "x" * 300_000, "r.yaml: the text must have at most 262,144 characters"),
        ("a: 1\n{b", "the text is not valid YAML"),
        ("a: 1\n---\nb: 1", "the text is not valid YAML"),
        ("? [a]\n: 1", "r.yaml:1: the text is not valid YAML"),
    ],
)
def test_absurd_documents_are_refused(text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, "r.yaml")
    assert expected in str(caught.value)


SCALARS = [
    ("2024-13-45", "must be a date, got '2024-13-45'"),
    ("!!int abc", "must be an integer, got 'abc'"),
    ("!!int ''", "must be an integer, got ''"),
    ("!!float abc", "must be a number, got 'abc'"),
    ("!!bool abc", "must be true or false, got 'abc'"),
    ("!!timestamp abc", "must be a date, got 'abc'"),
    ("9" * 5000, "must be an integer"),
    ("0x" + "f" * 5000, "must be an integer of at most 64 bits"),
    (":".join(["1"] * 5000), "must be an integer of at most 64 bits"),
    (str(2**63), "must be an integer of at most 64 bits"),
]


@pytest.mark.parametrize(("scalar", "expected"), SCALARS)
def test_scalars_that_are_not_what_they_say(scalar: str, expected: str) -> None:
    parsed = document(f"a: 1\nb: &b\n  - {scalar}\nc: *b\n")
    (problem,) = parsed.problems
    assert problem.where == "r.yaml:3"
    assert expected in problem.what
    assert len(problem.what) < 200
    assert problem.hint == "put it in quotes if it is a text"
    with pytest.raises(UserError, match="the value must be") as caught:
        apply_override(document("stages: {}"), f"stages.x={scalar}")
    assert caught.value.where == "--set stages.x"


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("!!binary aGVsbG8=", "!!binary"),
        ("!!set {a, b}", "!!set"),
        ("!!omap [a: 1]", "!!omap"),
        ("!!int {a: 1}", "!!int"),
        ("!!map x", "!!map"),
        ("!!python/object:os.system x", "!!python/object:os.system"),
        ("!mine [1]", "!mine"),
        ("!mine x", "!mine"),
    ],
)
def test_tags_that_a_recipe_does_not_have(value: str, tag: str) -> None:
    (problem,) = document(f"a: 1\nb: {value}\n").problems
    assert problem.where == "r.yaml:2"
    assert f"got the tag {tag!r}" in problem.what


@pytest.mark.parametrize("value", ['"\\ud800"', "="])
def test_texts_that_are_none(value: str) -> None:
    parsed = document(f"a: {value}\n")
    assert len(parsed.problems) == 1
    assert str(parsed.problems[0]).encode()


def test_a_key_that_is_not_what_it_says() -> None:
    assert "must be a date" in document("2024-13-45: 1").problems[0].what


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.a.with.method.n=5", {"method": {"name": "kmeans", "n": 5}}),
        ("stages.a.with.other.n=5", {"method": "kmeans", "other": {"n": 5}}),
        ("stages.a.with.method=ward", {"method": "ward"}),
        ("stages.a.with={x: {y: 1}}", {"x": {"y": 1}}),
    ],
)
def test_an_override_reaches_into_a_group_of_options(override: str, expected: Any) -> None:
    parsed = document("stages: {a: {with: {method: kmeans}}}")
    apply_override(parsed, override)
    assert parsed.content["stages"]["a"]["with"] == expected


def test_an_override_may_add_a_section() -> None:
    parsed = document("stages: {}")
    apply_override(parsed, "budget.requests=3")
    apply_override(parsed, "models.m={model: x}")
    assert parsed.content == {
        "stages": {}, "budget": {"requests": 3}, "models": {"m": {"model": "x"}}
    }  # fmt: skip
    assert parsed.where(("models", "m", "model")) == "--set models.m"
