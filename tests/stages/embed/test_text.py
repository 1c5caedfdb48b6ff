"""embed.text: templates, and vectors of the real bundled model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Embedder
from stages.embed.text import _texts, text
from tests.support.records import frame, record, self_instruct

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def rows() -> pl.DataFrame:
    return frame(
        [
            record("Add.\n\n1, 2", "3", input_start=6),
            record("Say hello.", "Hello.\n"),
            record("no answer here"),
            record(),
        ]
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ instruction }}\n{{ input }}\n{{ response }}",
        "{{ instruction }}",
        "Q: {{ instruction }} {{input}}\n\nA: {{ response }}\n",
        "only text",
    ],
)
def test_plain_templates_are_what_jinja_renders(template: str) -> None:
    from jinja2 import Template

    plain = _texts(rows(), template).to_list()
    forced = Template("{% if true %}" + template + "{% endif %}", keep_trailing_newline=True)
    logic = _texts(rows(), "{% if true %}" + template + "{% endif %}").to_list()
    assert plain == logic
    assert len(plain) == 4
    expected = forced.render(instruction="Say hello.", input="", response="Hello.\n")
    assert expected in plain


@given(TEXT.filter(lambda t: "{" not in t and "\r" not in t), TEXT, TEXT)
def test_texts_are_put_in_unchanged(around: str, question: str, answer: str) -> None:
    made = _texts(frame([record(question, answer)]), around + "{{ instruction }}|{{ response }}")
    assert made.to_list() == [f"{around}{question}|{answer}"]


def test_templates_with_logic_see_all_messages() -> None:
    template = "{% for m in messages if m.role == 'user' %}{{ m.content }};{% endfor %}"
    data = frame([record("one", "two", "three", "four")])
    assert _texts(data, template).to_list() == ["one;three;"]


@pytest.mark.parametrize("template", ["{{ instruction", "{{ output }}", "{% if %}"])
def test_bad_templates_are_told(template: str) -> None:
    with pytest.raises(UserError, match="template"):
        text.__stage__.check(SimpleNamespace(template=template, batch=1))  # type: ignore[attr-defined]


def test_templates_cannot_reach_into_python() -> None:
    from jinja2.exceptions import SecurityError

    with pytest.raises(SecurityError):
        _texts(rows(), "{{ messages.__class__.__mro__ }}")


def test_vectors(ctx: Context, potion: Embedder) -> None:
    data = self_instruct(200)
    found = text(ctx, data, model=potion)
    assert found.schema["vector"] == pl.List(pl.Float32)
    assert found["error"].null_count() == 200
    vectors = np.array(found["vector"].to_list())
    assert vectors.shape == (200, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    pieces = pl.concat([text(ctx, data[:33], model=potion), text(ctx, data[33:], model=potion)])
    assert pieces.equals(found)  # a row's vector depends on the row alone
    assert text(ctx, data.head(0), model=potion).schema["vector"] == pl.List(pl.Float32)


def test_vectors_are_those_of_sentence_transformers(ctx: Context, potion: Embedder) -> None:
    from sentence_transformers import SentenceTransformer

    data = self_instruct(50)
    found = text(ctx, data, model=potion, template="{{ response }}", normalise=False)
    answers = [messages[-1]["content"] for messages in data["messages"]]
    expected = SentenceTransformer(potion.model, device="cpu").encode(answers)
    np.testing.assert_allclose(np.array(found["vector"].to_list()), expected, atol=1e-6)


def test_neighbours_are_similar_texts(ctx: Context, potion: Embedder) -> None:
    near = record("Write a Python function that reverses a string.", "")
    twin = record("In Python, write a function to reverse a string.", "")
    other = record("What should I cook for dinner with lentils?", "")
    data = frame([near, twin, other])
    vectors = dict(zip(data["id"], text(ctx, data, model=potion)["vector"], strict=True))
    a, b, c = (np.array(vectors[r["id"]]) for r in (near, twin, other))
    assert a @ b > 0.8 > 0.4 > a @ c


@pytest.mark.parametrize("question", ["", " \n", "\u200b"])
def test_texts_without_words(ctx: Context, potion: Embedder, question: str) -> None:
    found = text(ctx, frame([record(question, "")]), model=potion)
    assert found["vector"].to_list() == [[0.0] * 128]
    assert found["error"].to_list() == [None]


def test_a_vector_that_is_not_finite_fails_its_row(
    ctx: Context, potion: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = SimpleNamespace(encode=lambda texts: np.array([[1, np.inf], [3, 4]], np.float32))
    monkeypatch.setattr(ctx, "open", lambda model: broken)
    found = text(ctx, frame([record("a", "b"), record("c", "d")]), model=potion)
    assert found["vector"].is_null().to_list() == [True, False]
    assert found["vector"][1].to_list() == pytest.approx([0.6, 0.8])
    assert found["error"].is_null().to_list() == [False, True]
