"""The canonical encoding is stable, and no two values have the same."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store.hashing import column_digest, digest, encode, row_keys, to_json_value

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner)
)


def alike(a: Any, b: Any) -> bool:
    """Equality that tells 1, 1.0 and True apart, and 0.0 from -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    return repr(a) == repr(b)


@given(VALUES, VALUES)
def test_two_values_have_one_encoding_only_if_they_are_equal(a: Any, b: Any) -> None:
    assert (encode(a) == encode(b)) == alike(a, b)


@pytest.mark.parametrize(
    "values",
    [(1, 1.0, True, "1", [1], {"1": 1}), (None, "", [], {}, "null", False, 0), (0.0, -0.0)],
)
def test_values_that_python_takes_for_equal_differ(values: tuple[Any, ...]) -> None:
    assert len({encode(v) for v in values}) == len(values)


@given(st.dictionaries(st.text(), LEAVES, min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert encode(value) == encode(dict(reversed(value.items())))


def test_tuples_are_lists() -> None:
    assert encode((1, ("a", ()))) == encode([1, ["a", []]])


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), {1, 2}, print, object(), b"x", Path("x"), date.today(), int]
)
def test_what_is_not_stable_is_refused_with_its_place(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"options\.filters\[1\]\.x"):
        to_json_value({"filters": [{}, {"x": bad}]}, "options")
    with pytest.raises(TypeError, match="value"):
        encode(bad)


def test_keys_are_texts() -> None:
    with pytest.raises(TypeError, match=r"value\.a: keys must be strings, got 3"):
        encode({"a": {3: 4}})


def test_digests_are_the_same_in_every_process() -> None:
    value = {"b": [1, 2.5, None, "ä\ud800"], "a": {"y": True, "x": ""}}
    code = f"from pipeline.store.hashing import digest; print(digest({value!a}))"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    assert done.stdout.decode().strip() == digest(value)


TEXTS = st.none() | st.text(max_size=4)
STRUCTS = st.none() | st.fixed_dictionaries({"role": TEXTS, "content": TEXTS})
COLUMNS = {
    pl.String(): TEXTS,
    pl.Int64(): st.none() | st.integers(-3, 3),
    pl.Boolean(): st.none() | st.booleans(),
    pl.Float32(): st.none() | st.floats(width=32),
    pl.List(pl.String()): st.none() | st.lists(TEXTS, max_size=3),
    pl.List(pl.List(pl.Int64())): st.none() | st.lists(st.none() | st.lists(st.integers(0, 2))),
    pl.List(pl.Struct({"role": pl.String(), "content": pl.String()})): (
        st.none() | st.lists(STRUCTS, max_size=3)
    ),
    pl.Struct({"role": pl.String(), "content": pl.String()}): STRUCTS,
}
TWO = st.sampled_from(list(COLUMNS)).flatmap(
    lambda kind: st.tuples(st.just(kind), *[st.lists(COLUMNS[kind], max_size=5)] * 2)
)


@settings(max_examples=300)
@given(TWO)
def test_two_columns_have_one_digest_only_if_they_are_equal(case: tuple[Any, Any, Any]) -> None:
    kind, a, b = case
    one, other = pl.Series(a, dtype=kind), pl.Series(b, dtype=kind)
    same = repr(one.to_list()) == repr(other.to_list())
    assert (column_digest(one) == column_digest(other)) == same


@settings(max_examples=200)
@given(TWO, st.integers(0, 5))
def test_chunks_do_not_matter(case: tuple[Any, Any, Any], cut: int) -> None:
    kind, values, more = case
    whole = pl.Series(values + more, dtype=kind)
    chunked = pl.Series(values, dtype=kind).append(pl.Series(more, dtype=kind))
    assert column_digest(chunked) == column_digest(whole)
    longer = pl.Series([*more, *values, *more], dtype=kind)
    sliced = longer.slice(len(more), len(values))
    assert column_digest(sliced) == column_digest(pl.Series(values, dtype=kind))
    assert column_digest(whole.slice(cut)) == column_digest(
        pl.Series((values + more)[cut:], dtype=kind)
    )


def test_columns_that_look_alike() -> None:
    texts = [["ab", "c"], ["a", "bc"], ["abc", ""], ["abc"], ["", "abc"], ["abc", None], ["a", "c"]]
    lists = [[["a"], ["b"]], [["a", "b"], []], [["a", "b"], None], [["a", "b"]], [[], ["a", "b"]]]
    typed = [pl.Series([1], dtype=t) for t in (pl.Int32, pl.Int64, pl.UInt8, pl.Float64)]
    empty = [pl.Series([], dtype=t) for t in (pl.Int32, pl.String, pl.List(pl.String))]
    columns = [*map(pl.Series, texts), *map(pl.Series, lists), *typed, *empty]
    assert len({column_digest(c) for c in columns}) == len(columns)


def test_digests_stay_what_stores_hold() -> None:
    texts = pl.Series(["naïve", None, "", "b"])
    turns = pl.Series(
        [[{"role": "user", "content": "a"}], [], None, [{"role": "x", "content": ""}]]
    )
    assert column_digest(texts) == "b0e9ee409a5a8d3d4354142ee7a021ef"
    assert column_digest(turns) == "78cec6362222d5c58df42233cbf68178"
    many = pl.Series([f"text {i}" if i % 7 else None for i in range(10_000)])
    assert column_digest(many) == "f5bed95e4dd73c80d458fbd35a47277d"


def test_columns_without_stable_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match="no stable encoding"):
        column_digest(pl.Series(["a", "b"], dtype=pl.Categorical))


def test_a_key_for_each_row() -> None:
    nan, inf = float("nan"), float("inf")
    numbers = [0.1, 0.2, nan, inf, -inf, None, 0.1 + 2**-53]
    frame = pl.DataFrame(
        {"a": numbers, "b": [[n, 1.0] for n in numbers]}, schema_overrides={"a": pl.Float64}
    )
    for columns in (["a"], ["b"], ["a", "b"]):
        assert row_keys(frame.select(columns)).n_unique() == len(numbers)
    again = pl.concat([frame[3:], frame[:3]])
    assert row_keys(again).to_list() == [*row_keys(frame)[3:], *row_keys(frame)[:3]]
    texts = pl.DataFrame({"x": ["a", "a", None, ""], "y": ["b", None, "b", "b"]})
    assert row_keys(texts).n_unique() == 4
    assert len(row_keys(texts.clear())) == 0
