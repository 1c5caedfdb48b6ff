"""embed.text: templates, and vectors of the real bundled model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import Embedder
from stages.embed.text import _texts, text
from tests.stages._selection.binding import problems_of
from tests.support.rows import frame, record, self_instruct

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

    plain = _texts(rows(), template, "calls").to_list()
    forced = Template("{% if true %}" + template + "{% endif %}", keep_trailing_newline=True)
    logic = _texts(rows(), "{% if true %}" + template + "{% endif %}", "calls").to_list()
    assert plain == logic
    assert len(plain) == 4
    expected = forced.render(instruction="Say hello.", input="", response="Hello.\n")
    assert expected in plain


@given(TEXT.filter(lambda t: "{" not in t and "\r" not in t), TEXT, TEXT)
def test_texts_are_put_in_unchanged(around: str, question: str, answer: str) -> None:
    texts = _texts(
        frame([record(question, answer)]), around + "{{ instruction }}|{{ response }}", "calls"
    )
    assert texts.to_list() == [f"{around}{question}|{answer}"]


def test_templates_with_logic_see_all_messages() -> None:
    template = "{% for m in messages if m.role == 'user' %}{{ m.content }};{% endfor %}"
    data = frame([record("one", "two", "three", "four")])
    assert _texts(data, template, "calls").to_list() == ["one;three;"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"template": "{{ instruction"}, "template: template must be a Jinja template"),
        ({"template": "{% if %}"}, "template: template must be a Jinja template"),
        (
            {"template": "{{ output }}"},
            "template: template must name instruction, input, response or messages only, got",
        ),
        ({"batch_size": 0}, "batch_size: batch_size must be at least 1, got 0"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(options: dict, problem: str) -> None:
    assert problems_of("embed.text", embedder="potion", template="{{ input }}") == []
    (message,) = problems_of("embed.text", embedder="potion", **options)
    assert message.startswith(problem)


def test_templates_cannot_reach_into_python() -> None:
    from jinja2.exceptions import SecurityError

    with pytest.raises(SecurityError):
        _texts(rows(), "{{ messages.__class__.__mro__ }}", "calls")


def test_vectors(ctx: Context, potion: Embedder) -> None:
    data = self_instruct(200)
    result = text(ctx, data, embedder=potion)
    assert result.schema["vector"] == pl.List(pl.Float32)
    assert result["error"].null_count() == 200
    vectors = np.array(result["vector"].to_list())
    assert vectors.shape == (200, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    pieces = pl.concat(
        [text(ctx, data[:33], embedder=potion), text(ctx, data[33:], embedder=potion)]
    )
    assert pieces.equals(result)  # a row's vector depends on the row alone
    assert text(ctx, data.head(0), embedder=potion).schema["vector"] == pl.List(pl.Float32)


def test_vectors_are_those_of_sentence_transformers(ctx: Context, potion: Embedder) -> None:
    from sentence_transformers import SentenceTransformer

    data = self_instruct(50)
    result = text(ctx, data, embedder=potion, template="{{ response }}", normalize=False)
    answers = [messages[-1]["content"] for messages in data["messages"]]
    expected = SentenceTransformer(potion.model, device="cpu").encode(answers)
    np.testing.assert_allclose(np.array(result["vector"].to_list()), expected, atol=1e-6)


def test_neighbors_are_similar_texts(ctx: Context, potion: Embedder) -> None:
    first = record("Write a Python function that reverses a string.", "")
    similar = record("In Python, write a function to reverse a string.", "")
    other = record("What should I cook for dinner with lentils?", "")
    data = frame([first, similar, other])
    vectors = dict(zip(data["id"], text(ctx, data, embedder=potion)["vector"], strict=True))
    a, b, c = (np.array(vectors[r["id"]]) for r in (first, similar, other))
    assert a @ b > 0.8 > 0.4 > a @ c


@pytest.mark.parametrize("question", ["", " \n", "\u200b"])
def test_texts_without_words(ctx: Context, potion: Embedder, question: str) -> None:
    result = text(ctx, frame([record(question, "")]), embedder=potion)
    assert result["vector"].to_list() == [[0.0] * 128]
    assert result["error"].to_list() == [None]


def test_a_vector_that_is_not_finite_fails_its_row(
    ctx: Context, potion: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = SimpleNamespace(encode=lambda texts: np.array([[1, np.inf], [3, 4]], np.float32))
    monkeypatch.setattr(ctx, "open", lambda model: broken)
    result = text(ctx, frame([record("a", "b"), record("c", "d")]), embedder=potion)
    assert result["vector"].is_null().to_list() == [True, False]
    assert result["vector"][1].to_list() == pytest.approx([0.6, 0.8])
    assert result["error"].is_null().to_list() == [False, True]


def test_a_document_is_embedded_as_its_text(ctx: Context, potion: Embedder) -> None:
    """It has the vector of a conversation that says no more."""
    texts = ["Whales sing.", "", None, "Rust moves values."]
    documents = pl.DataFrame({"id": list("abcd"), "text": texts, "title": ["Trees"] * 4})
    vectors = text(ctx, documents, embedder=potion)["vector"].to_list()
    said = frame([record("", t or "") for t in texts])
    alone = text(ctx, said, embedder=potion, template="{{ response }}")["vector"].to_list()
    expected = dict(zip(said["id"], alone, strict=True))
    ids = [record("", t or "")["id"] for t in texts]
    assert vectors == [expected[id_] for id_ in ids]
