"""Likelihood scores against plain forward passes, and against published answers."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from pipeline.models.engines.registry import close_engines
from pipeline.recipe.discovery import find
from schemas.records import RECORD_COLUMNS, record_id
from stages._llm.rendered import rendered_text
from stages.score.loss import FORMULAS, Formula, loss
from tests.support import chats
from tests.support.options import problems
from tests.support.rows import DATA, alpaca, conversations, frame, json_lines, record, sample

HEADER = "<|im_start|>assistant\n"
ALL = ("ifd", "ifd_loss", "ifd_superfilter", "ic_ifd", "loss", "ppl")
UNTEMPLATED = ("ifd_superfilter", "ic_ifd")


class Plain:
    """The model as transformers alone runs it: one sequence, all logits, double precision."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def scores(self, ids: list[int]) -> np.ndarray:
        """log p of each token but the first."""
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0, :-1].double()
        return logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]].numpy()

    def passes(self, messages: list[dict]) -> tuple[float, float]:
        """L(A|Q) and L(A), with the answers where the template's own marks say."""
        encoded = self.tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, marks = encoded["input_ids"], np.array(encoded["assistant_masks"], dtype=bool)
        conditional = self.scores(ids)[marks[1:]]
        header, alone = self.ids(HEADER), []
        edges = np.flatnonzero(np.diff(np.concatenate([[0], marks, [0]])))
        for start, end in edges.reshape(-1, 2):
            alone.append(self.scores(header + ids[start:end])[len(header) - 1 :])
        return -conditional.mean(), -np.concatenate(alone).mean()


@pytest.fixture(scope="module")
def plain(tinylm: LanguageModel) -> Plain:
    return Plain(tinylm.model)


@pytest.fixture(scope="module")
def pool() -> pl.DataFrame:
    """Single exchanges, and ones of several turns made of them."""
    turns = [
        [m["content"] for m in messages]
        for messages in sample("self_instruct.jsonl.gz")["messages"].head(12)
    ]
    several = [list(chain(*turns[i : i + 3])) for i in range(0, 9, 3)]
    return conversations([*turns, *several])


@pytest.fixture
def variant(tmp_path: Path, tinylm: LanguageModel) -> Iterator[Any]:
    """tinylm with another chat template."""

    def make(template: str) -> LanguageModel:
        path = tmp_path / "other.jinja"
        path.write_text(template)
        return LanguageModel(tinylm.model, chat_template=str(path))

    yield make
    close_engines()


def test_they_are_what_plain_forward_passes_give(
    ctx: Context, tinylm: LanguageModel, plain: Plain, pool: pl.DataFrame
) -> None:
    got = loss(ctx, pool, model=tinylm, formulas=ALL)
    pairs = [plain.passes(list(messages)) for messages in pool["messages"]]
    conditional, alone = np.array(pairs).T
    assert np.allclose(got["loss"], conditional, atol=1e-5)
    assert np.allclose(np.log(got["ppl"].to_numpy()), conditional, atol=1e-5)
    assert np.allclose(np.log(got["ifd"].to_numpy()), conditional - alone, atol=2e-5)
    assert np.allclose(got["ifd_loss"], conditional / alone, rtol=1e-5)
    assert (pool["messages"].list.len() > 2).sum() == 3


def test_the_columns_and_the_order_are_as_declared(
    ctx: Context, tinylm: LanguageModel, pool: pl.DataFrame
) -> None:
    stage = find("score.loss")
    options = SimpleNamespace(formulas=ALL, token_losses=False)
    assert list(stage.adds(options, {})) == [*ALL, "tokens"]
    assert stage.scope == "row"
    got = loss(ctx, pool[:3], model=tinylm, formulas=ALL)
    assert dict(got.drop("error").schema) == dict(stage.adds(options, {}))
    assert got["error"].null_count() == 3
    assert set(FORMULAS) == set(get_args(Formula)) > set(ALL)


def test_a_score_depends_on_its_row_alone(
    ctx: Context, tinylm: LanguageModel, pool: pl.DataFrame
) -> None:
    whole = loss(ctx, pool, model=tinylm, formulas=ALL)
    order = np.random.default_rng(0).permutation(len(pool))
    shuffled = loss(ctx, pool[order], model=tinylm, formulas=("ifd",))
    assert shuffled["ifd"].equals(whole["ifd"][order])
    for i in range(0, len(pool), 9):
        assert loss(ctx, pool[i : i + 1], model=tinylm, formulas=ALL).equals(whole[i : i + 1])


def test_the_two_definitions_of_ifd_order_rows_differently(
    ctx: Context, tinylm: LanguageModel, pool: pl.DataFrame
) -> None:
    got = loss(ctx, pool, model=tinylm, formulas=("ifd", "ifd_loss"))
    assert ((got["ifd"] > 1) == (got["ifd_loss"] > 1)).all()
    assert got["ifd"].arg_sort().to_list() != got["ifd_loss"].arg_sort().to_list()


def superfilter(plain: Plain, prompt: str, answer: str, limit: int) -> float | None:
    """Two truncated texts, two mean losses; the prompt's own tokens are not counted."""
    whole = plain.tokenizer.encode(prompt + answer)[:limit]
    own = len(plain.tokenizer.encode(prompt))
    alone = plain.tokenizer.encode(answer)[: max(0, limit - own + 1)]
    if own >= len(whole) or len(alone) < 2:
        return None
    ratio = np.exp(-plain.scores(whole)[own - 1 :].mean()) / np.exp(-plain.scores(alone).mean())
    return float(ratio)


@pytest.mark.parametrize("limit", [2048, 50])
def test_superfiltering_is_the_code_s(
    ctx: Context, tinylm: LanguageModel, plain: Plain, limit: int
) -> None:
    rows, want = [], []
    for line in json_lines(DATA / "samples/self_instruct.jsonl.gz")[:24]:
        prompt = "\n\n".join(filter(None, (line["instruction"], line["input"])))
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": line["output"]},
        ]
        start = len(line["instruction"]) + 2 if line["input"] else None
        rows.append(
            {"id": record_id(messages), "messages": messages, "input_start": start, "tools": None}
        )
        text = "\n".join(filter(None, (line["instruction"], line["input"]))) + "\n"
        want.append(superfilter(plain, text, line["output"], limit))
    frame = pl.DataFrame(rows, schema_overrides=RECORD_COLUMNS)
    got = loss(ctx, frame, model=tinylm, formulas=("ifd_superfilter",), max_length=limit)
    assert got["ifd_superfilter"].is_null().to_list() == [w is None for w in want]
    assert np.allclose(
        got["ifd_superfilter"].drop_nulls(), [w for w in want if w is not None], rtol=1e-4
    )
    assert sum(w is not None for w in want) > 6


def test_the_corrected_ifd_is_three_passes_without_a_template(
    ctx: Context, tinylm: LanguageModel, plain: Plain
) -> None:
    """L(A|Q) / (L(Q) L(A)), with mean losses of the plain texts."""
    rows = alpaca(json_lines(DATA / "samples/self_instruct.jsonl.gz")[:12])
    expected = []
    for messages, start in rows.select("messages", "input_start").iter_rows():
        prompt, answer = (turn["content"] for turn in messages)
        if start is not None:
            prompt = f"{prompt[: start - 2]}\n{prompt[start:]}"
        encode = plain.tokenizer.encode
        own = len(encode(f"{prompt}\n"))
        conditional = -plain.scores(encode(f"{prompt}\n{answer}"))[own - 1 :].mean()
        alone = encode(answer)
        parts = [-plain.scores(ids).mean() for ids in (encode(prompt), alone) if len(ids) > 1]
        expected.append(conditional / np.prod(parts) if len(parts) == 2 else None)
    assert rows["input_start"].null_count() not in (0, len(rows))
    got = loss(ctx, rows, model=tinylm, formulas=("ic_ifd",))["ic_ifd"].to_list()
    assert [value is None for value in got] == [value is None for value in expected]
    assert sum(value is not None for value in got) > 6
    for value, right in zip(got, expected, strict=True):
        assert value is None or np.isclose(value, right, rtol=1e-4)


def test_losses_of_the_paper_s_example_give_its_score() -> None:
    losses = [np.array([-value]) for value in (0.8, 1.6, 2.0)]
    assert FORMULAS["ic_ifd"].score(*losses) == pytest.approx(0.25)
    assert FORMULAS["ifd_loss"].score(*losses[:2]) == pytest.approx(0.5)
    assert np.isnan(FORMULAS["ic_ifd"].score(*losses[:2], np.array([0.0])))


def test_what_cannot_be_scored_is_null_and_no_error(ctx: Context, tinylm: LanguageModel) -> None:
    rows = conversations(
        [["A question?"], ["Q?", ""], ["Q?", " \n"], ["Q?", "word " * 300], ["Q?", "Yes"]]
    )
    got = loss(ctx, rows, model=tinylm, formulas=ALL, max_length=100)
    by_turn = dict(zip((m[-1]["content"] for m in rows["messages"]), got.to_dicts(), strict=True))
    for content in ("A question?", "", " \n"):
        assert all(by_turn[content][name] is None for name in (*ALL, "error"))
        assert by_turn[content]["tokens"] > 5
    long = by_turn["word " * 300]
    assert long["tokens"] > 100
    assert [long[name] for name in ALL if name not in UNTEMPLATED] == [None] * 4
    assert all(long[name] > 0 for name in UNTEMPLATED)
    yes = by_turn["Yes"]
    assert all(yes[name] > 0 for name in ("ifd", "ifd_loss", "loss", "ppl"))
    assert all(yes[name] is None for name in UNTEMPLATED)


def test_a_turn_without_words_adds_nothing(ctx: Context, tinylm: LanguageModel) -> None:
    rows = conversations([["Q?", "A tree.", "And?", ""], ["Q?", "A tree."]])
    got = loss(ctx, rows, model=tinylm, formulas=("loss", "ifd"))
    assert got["loss"].n_unique() == 1
    assert got["ifd"].n_unique() == 1


def test_no_rows(ctx: Context, tinylm: LanguageModel) -> None:
    got = loss(ctx, conversations([]), model=tinylm)
    assert (got.columns, len(got)) == (["ifd", "tokens", "error"], 0)


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEMPLATES = {
    "strips": (
        TURNS.replace("m.content", "m.content | trim") + OPEN,
        ["A tree, assistant?<|im_end|>", "A <user> house.<|im_end|>"],
    ),
    "writes in front of the last answer": (
        TURNS.replace("{{ m.content", "{% if loop.last %}<think></think>{% endif %}{{ m.content")
        + OPEN.replace("\n", "\n<think>"),
        [" A tree, assistant? <|im_end|>", "A <user> house.<|im_end|>"],
    ),
    "begins with the first token": (
        "{{ bos_token }}" + TURNS + OPEN,
        [" A tree, assistant? <|im_end|>", "A <user> house.<|im_end|>"],
    ),
    "has no end mark": (
        "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}",
        [" A tree, assistant? ", "A <user> house."],
    ),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_answers_are_found_in_any_template(
    ctx: Context, plain: Plain, variant: Any, kind: str
) -> None:
    template, answers = TEMPLATES[kind]
    rows = conversations([["What is it?", " A tree, assistant? ", "And this?", "A <user> house."]])
    got = loss(ctx, rows, model=variant(template), formulas=("loss",))
    text = plain.tokenizer.apply_chat_template(
        list(rows["messages"][0]), tokenize=False, chat_template=template
    )
    encoded = plain.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    first, last = np.array(encoded["offset_mapping"]).T
    expected_tokens = np.zeros(len(first), dtype=bool)
    for start, answer in zip([text.index(a) for a in answers], answers, strict=True):
        expected_tokens |= (first < start + len(answer)) & (last > start)
    expected = -plain.scores(encoded["input_ids"])[expected_tokens[1:]].mean()
    assert got["loss"].item() == pytest.approx(expected, abs=1e-5)


def test_a_template_that_rewrites_an_answer_or_refuses_a_row_fails_that_row(
    ctx: Context, variant: Any
) -> None:
    template = (
        "{% for m in messages %}{% if 'secret' in m.content %}{{ raise_exception('not that') }}"
        "{% endif %}{{ m.role }}: {{ m.content | replace('bad', 'good') }}\n{% endfor %}"
    )
    rows = conversations([["Q?", "fine"], ["Q?", "bad idea"], ["Q?", "my secret"]])
    got = loss(ctx, rows, model=variant(template), formulas=("loss",))
    by_answer = dict(zip((m[-1]["content"] for m in rows["messages"]), got.to_dicts(), strict=True))
    assert by_answer["fine"]["error"] is None
    assert by_answer["fine"]["loss"] > 0
    assert "changes the text" in by_answer["bad idea"]["error"]
    assert "not that" in by_answer["my secret"]["error"]
    assert by_answer["bad idea"]["loss"] is by_answer["my secret"]["tokens"] is None


def test_rows_that_the_template_cannot_show_fail_by_themselves(
    ctx: Context, variant: Any, tinylm: LanguageModel
) -> None:
    by_kind = {
        "plain": [chats.user(), chats.answer("High.")],
        "call": [chats.user(), chats.answer("Look.", "{}")],
        "result": [
            chats.user(),
            {"role": "tool", "content": "3 m", "tool_call_id": "c"},
            chats.answer("3 m."),
        ],
        "system": [{"role": "system", "content": "Be brief."}, chats.user(), chats.answer("High.")],
        "token": [chats.user("What is <|im_start|>?"), chats.answer("A token.")],
    }
    rows = frame(
        {**record("?"), "id": f"{i}", "messages": chat, "tools": None}
        for i, chat in enumerate([*by_kind.values(), by_kind["plain"]])
    )
    tools = pl.Series([None] * 5 + [chats.TOOLS])
    rows = rows.with_columns(tools=tools)
    swallows = (
        "{% for m in messages if m.role in ('user', 'assistant') %}{{ m.role }}: {{ m.content }}"
        "<|im_end|>{% endfor %}"
    )
    got = loss(ctx, rows, model=variant(swallows), formulas=("loss",))
    whys = [None, "leaves out a tool call", "leaves out turn 2 (tool)",
            "leaves out turn 1 (system)", None, "leaves out the tools"]  # fmt: skip
    for why, error in zip(whys, got["error"], strict=True):
        assert error is None if why is None else why in error
    assert got["loss"].is_null().to_list() == [why is not None for why in whys]
    shown = loss(ctx, rows, model=tinylm, formulas=("loss",))
    assert shown["error"].null_count() == 6


@pytest.mark.parametrize("view", ["content", "calls", "all"])
def test_calls_and_reasoning_are_scored_by_plain_forward_passes(
    ctx: Context, tinylm: LanguageModel, plain: Plain, view: Any
) -> None:
    chat = [
        chats.user(), chats.answer("Look", '{"port": "Oban"}', reasoning="A port."), chats.result(),
        chats.answer("3 m.", reasoning="Enough."),
    ]  # fmt: skip
    rows = frame([{**record("?"), "messages": chat, "tools": chats.TOOLS}])
    got = loss(ctx, rows, model=tinylm, formulas=("loss",), view=view)
    text = rendered_text(plain.tokenizer, chat, chats.TOOLS)
    first, last = "<think>\nA port.\n</think>\n\n", "<think>\nEnough.\n</think>\n\n"
    call = '<tool_call>\n{"name": "tide", "arguments": {"port": "Oban"}}\n</tool_call><|im_end|>'
    expected = {
        "content": ["Look", "3 m.<|im_end|>"],
        "calls": ["Look" + call, "3 m.<|im_end|>"],
        "all": [first + "Look" + call, last + "3 m.<|im_end|>"],
    }[view]
    encoded = plain.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts, ends = np.array(encoded["offset_mapping"]).T
    scored = np.zeros(len(starts), dtype=bool)
    for part in expected:
        start = text.index(part)
        scored |= (starts >= start) & (ends <= start + len(part))
    losses = -plain.scores(encoded["input_ids"])[scored[1:]].mean()
    assert got["loss"].item() == pytest.approx(losses, abs=1e-5)
    assert got["tokens"].item() == len(starts)


def test_a_template_that_refuses_every_question_is_the_user_s_mistake(
    ctx: Context, variant: Any
) -> None:
    with pytest.raises(UserError, match="never"):
        loss(ctx, conversations([["Q?", "A"]]), model=variant("{{ raise_exception('never') }}"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"formulas": []}, "formulas must be of at least 1 element, got []"),
        ({"formulas": ["ifd", "ifd"]}, "formulas must name each once, got ['ifd', 'ifd']"),
        ({"max_length": 1}, "max_length must be at least 2, got 1"),
    ],
)
def test_options_without_sense_are_refused_before_anything_runs(
    options: dict, problem: str
) -> None:
    assert problems("score.loss", **options) == [problem]


@pytest.mark.proof
def test_the_model_is_as_good_as_its_makers_say(ctx: Context, tinylm: LanguageModel) -> None:
    """Its README: 3.08 nats per answer token on unseen rows, IFD above 1 for a tenth of them."""
    rows = sample("self_instruct.jsonl.gz")[:250]
    got = loss(ctx, rows, model=tinylm, formulas=("loss", "ifd"))
    tokens = got["tokens"].to_numpy()
    assert np.average(got["loss"], weights=tokens) == pytest.approx(3.08, abs=0.35)
    assert (got["ifd"] > 1).mean() == pytest.approx(0.10, abs=0.04)


@pytest.mark.proof
def test_rows_that_ifd_once_chose_stand_out_here_too(
    ctx: Context, tinylm: LanguageModel, shared: Path
) -> None:
    """Cherry LLM's choice from Alpaca by a 7B model, seen by a model of 13 M parameters."""

    def scores(path: Path) -> pl.DataFrame:
        with gzip.open(path) as file:
            lines = random.Random(0).sample(json.load(file), 100)
        prompts = ["\n\n".join(filter(None, (r["instruction"], r["input"]))) for r in lines]
        rows = conversations([(p, r["output"]) for p, r in zip(prompts, lines, strict=True)])
        return loss(ctx, rows, model=tinylm, formulas=("ifd", "ifd_loss"))

    chosen = scores(shared / "references/cherry_alpaca_5pct_ifd.json.gz")
    pool = scores(shared / "pools/alpaca_52k.json.gz")
    for name in ("ifd", "ifd_loss"):
        assert chosen[name].mean() > pool[name].mean() + 0.05  # type: ignore[operator]
