"""Sentence encoders: the library's vectors, and a function of the text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Embedder, Encoder, LanguageModel
from pipeline.models.engines.sentence_transformers import width_of
from tests.support.rows import sample


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rows = sample("self_instruct.jsonl.gz")["messages"].head(250)
    return [messages[0]["content"] for messages in rows]


@pytest.fixture(scope="module")
def contextual(tmp_path_factory: pytest.TempPathFactory, tinylm: LanguageModel) -> Embedder:
    """A small BERT with random weights: the real library, without a real model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8192,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=128,
        pad_token_id=3,
    )
    BertModel(config).save_pretrained(folder / "weights")
    AutoTokenizer.from_pretrained(tinylm.model).save_pretrained(folder / "weights")
    words = Transformer(str(folder / "weights"), max_seq_length=128)
    SentenceTransformer(modules=[words, Pooling(48)]).save(str(folder / "model"))
    return Embedder(str(folder / "model"))


@pytest.fixture(params=["static", "contextual"])
def embedder(request: pytest.FixtureRequest, potion: Embedder, contextual: Embedder) -> Embedder:
    return potion if request.param == "static" else contextual


def test_vectors_are_those_of_the_library(
    ctx: Context, embedder: Embedder, texts: list[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder: Encoder = ctx.open(embedder)
    vectors = encoder.encode(texts)
    assert (vectors.shape, vectors.dtype) == ((len(texts), encoder.dimensions), np.float32)
    plain = SentenceTransformer(embedder.model, device="cpu").encode(texts)
    assert np.allclose(vectors, plain, atol=1e-5)
    assert len(np.unique(vectors, axis=0)) > 200


def test_a_vector_depends_on_its_text_alone(
    ctx: Context, embedder: Embedder, texts: list[str]
) -> None:
    encoder = ctx.open(embedder)
    together = encoder.encode(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    assert np.array_equal(encoder.encode([texts[i] for i in order]), together[order])
    for i in range(0, len(texts), 25):
        assert np.array_equal(encoder.encode([texts[i]])[0], together[i])


def test_no_texts_empty_texts_and_very_long_ones(ctx: Context, embedder: Embedder) -> None:
    encoder = ctx.open(embedder)
    assert encoder.encode([]).shape == (0, encoder.dimensions)
    vectors = encoder.encode(["", "word " * 3000])
    assert np.isfinite(vectors).all()


def test_a_text_of_any_length_has_the_vector_of_its_words(ctx: Context, potion: Embedder) -> None:
    """In half precision the sum over so many tokens is infinite."""
    short, long = ctx.open(potion).encode(["alpha beta gamma", "alpha beta gamma " * 40_000])
    assert np.allclose(short, long, atol=1e-3)


def test_a_static_model_gives_zeros_for_an_empty_text(ctx: Context, potion: Embedder) -> None:
    assert not ctx.open(potion).encode([""]).any()


def test_a_folder_without_an_encoder_is_refused(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="embedder cannot be loaded"):
        ctx.open(Embedder(str(tmp_path)))


def test_widths_hold_their_texts_with_little_room() -> None:
    widths = [width_of(n) for n in range(1, 2000)]
    assert all(n <= width for n, width in enumerate(widths, 1))
    assert all(width < 1.5 * n for n, width in enumerate(widths, 1) if n > 16)
    assert len(set(widths)) < 16
