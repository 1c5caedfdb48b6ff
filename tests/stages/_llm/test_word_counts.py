"""Tokens counted word by word are those of the whole text, for each kind that is cut."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from pipeline.models import LanguageModel
from stages._llm import word_counts
from stages._llm.token_counts import token_lengths, tokenizer_of
from stages._llm.word_counts import can_be_cut, words_of
from tests.support.rows import DATA, json_lines

LLAMA, QWEN = sorted(word_counts._PATTERNS, key=len, reverse=True)


def split(pattern: str) -> Any:
    parts = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return pre_tokenizers.Sequence(parts)


KINDS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "digits": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama": split(LLAMA),
    "qwen": split(QWEN),
}
TEXTS = st.text(st.sampled_from("ab9 \n\t.'!é中\u00a0\u2028\x1c\r"), max_size=30)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """A tokenizer of each kind, which merges whatever it may: blanks and newlines too."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = KINDS[request.param]
    rows = json_lines(DATA / "samples/self_instruct.jsonl.gz")[:200]
    odd = ["ab\n\nab  9.\n\n\n'! \n\t a", "\r\n\r\n a\u00a0 b"] * 99
    texts = [*(json.dumps(row, indent=2) for row in rows), *odd]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return _Named(backend)


class _Named(SimpleNamespace):
    """What a tokenizer of transformers has beside its own."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend_tokenizer=backend)

    __hash__ = object.__hash__


@given(TEXTS)
def test_words_are_the_text(text: str) -> None:
    assert "".join(words_of(text)) == text


@given(texts=st.lists(TEXTS, max_size=8))
def test_a_text_has_the_tokens_of_its_words(tokenizer: Any, texts: list[str]) -> None:
    assert can_be_cut(tokenizer)
    whole = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    assert token_lengths(tokenizer, texts).tolist() == [len(one) for one in whole]


def test_other_tokenizers_are_not_cut() -> None:
    assert can_be_cut(tokenizer_of(LanguageModel(model=str(DATA / "models/tinylm"))))
    backend = Tokenizer(models.BPE())
    for other in (pre_tokenizers.Metaspace(), pre_tokenizers.ByteLevel(), split(r"\s+|\S+")):
        backend.pre_tokenizer = other
        assert not can_be_cut(_Named(backend))
    backend.pre_tokenizer = KINDS["gpt2"]
    assert can_be_cut(_Named(backend))
    backend.add_tokens(["two words"])
    assert not can_be_cut(_Named(backend))
