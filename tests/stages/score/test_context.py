"""Attention to the user's words, against the weights that transformers itself gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from stages.score.context import context
from tests.support import chats
from tests.support.rows import conversations, frame, record

LAYERS = 8
LAYER = 15 * LAYERS // 22


@pytest.fixture(scope="module")
def plain(tinylm: LanguageModel) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(
        tinylm.model, dtype=torch.float32, attn_implementation="eager"
    )
    return AutoTokenizer.from_pretrained(tinylm.model), model.eval()


def expected(plain: tuple[Any, Any], messages: Any, layer: int = LAYER) -> list[float]:
    """One value per answer, from the attentions of all layers and the texts' own places."""
    tokenizer, model = plain
    text = tokenizer.apply_chat_template(list(messages), tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    first, last = np.array(encoded["offset_mapping"]).T
    user, answers, at = np.zeros(len(first), dtype=bool), [], 0
    for message in messages:
        at = text.index(f"<|im_start|>{message['role']}\n", at) + len(message["role"]) + 13
        end = at + len(message["content"])
        inside = (first < end) & (last > at)
        blank = np.array([not text[a:b].strip() for a, b in zip(first, last, strict=True)])
        if message["role"] == "user":
            user |= inside & ~blank
        elif message["role"] == "assistant":
            span = np.flatnonzero(inside)
            answers.append([*span, span[-1] + 1])  # and the token that ends it
        at = end
    with torch.no_grad():
        outputs = model(torch.tensor([encoded["input_ids"]]), output_attentions=True)
    weights = outputs.attentions[layer][0].numpy()
    mass = weights[:, :, user].sum(-1).max(0)
    return [float(mass[answer].mean()) for answer in answers]


ROWS = [
    ["Name a sea.\n\nWhich one is it?", "The Aral Sea."],
    ["Say the word word.", "word"],
    ["Hello there", "Hi.", "Which tree?\nOne.", "An oak tree, of course."],
]


def test_it_is_what_plain_attention_weights_give(
    ctx: Context, tinylm: LanguageModel, plain: tuple[Any, Any]
) -> None:
    rows = conversations(ROWS)
    got = context(ctx, rows, model=tinylm)
    for messages, mean, values in zip(
        rows["messages"], got["context_attention"], got["context_attentions"], strict=True
    ):
        own = expected(plain, messages)
        assert np.allclose(values, own, atol=1e-5)
        assert mean == pytest.approx(np.mean(own), abs=1e-5)
        assert all(0 < value < 1 for value in own)
    lower = context(ctx, rows, model=tinylm, layer=0)
    assert np.allclose(lower["context_attentions"][0], expected(plain, rows["messages"][0], 0))
    # A row's value is its own, in whatever order and company.
    order = [2, 0, 1]
    assert context(ctx, rows[order], model=tinylm).equals(got[order])
    assert context(ctx, rows[1:2], model=tinylm).equals(got[1:2])


def test_a_system_prompt_that_says_the_same_is_no_context(
    ctx: Context, tinylm: LanguageModel, plain: tuple[Any, Any]
) -> None:
    chat = [
        {"role": "system", "content": "Name a sea. Be brief."},
        chats.user("Name a sea."),
        chats.answer("The Aral Sea."),
    ]
    rows = frame([{**record("?"), "messages": chat, "tools": None}])
    got = context(ctx, rows, model=tinylm)
    assert got["context_attention"].item() == pytest.approx(expected(plain, chat)[0], abs=1e-5)


def test_what_has_no_words_is_null_and_no_error(ctx: Context, tinylm: LanguageModel) -> None:
    rows = conversations(
        [
            ["A question?"],
            ["Q?", ""],
            ["", "An answer."],
            ["Q?", "word " * 300],
            ["Q?", "A", "?", ""],
        ]
    )
    got = context(ctx, rows, model=tinylm, max_length=100)
    assert got["error"].null_count() == len(rows)
    scored = got["context_attention"].is_not_null()
    assert [len(m) for m in rows["messages"].filter(scored)] == [4]
    assert got["context_attentions"].filter(scored).list.len().to_list() == [1]
    nothing = context(ctx, conversations([]), model=tinylm)
    assert nothing.columns == ["context_attention", "context_attentions", "error"]


def test_a_layer_that_is_not_there_is_named(ctx: Context, tinylm: LanguageModel) -> None:
    rows = conversations(ROWS[:1])
    with pytest.raises(UserError, match="layer must be one from 0 to 7 with attention, got 8"):
        context(ctx, rows, model=tinylm, layer=LAYERS)
    # The shared weights attend as before.
    assert ctx.open(tinylm).weights.config._attn_implementation != "eager"


def test_a_model_elsewhere_gives_no_weights(ctx: Context, tinylm: LanguageModel) -> None:
    server = LanguageModel("m", "openai", base_url="http://127.0.0.1:9/v1", tokenizer=tinylm.model)
    with pytest.raises(UserError, match="only generates; the stage needs the weights here"):
        context(ctx, conversations(ROWS[:1]), model=server)
    empty = pl.DataFrame(schema=conversations([]).schema)
    assert len(context(ctx, empty, model=tinylm)) == 0
