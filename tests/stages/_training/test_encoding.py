"""On which tokens loss is: of tool calls, reasoning and answers, turn by turn."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.models import LanguageModel
from stages._llm import likelihood_views
from stages._llm.rendered import rendered_text
from stages._training.dataset import IGNORED, tokenizer_for
from stages._training.encoding import ANSWER_PARTS, AnswerPart, encode
from stages._training.hyperparameters import Full
from stages._training.trainer import load_model, quiet
from tests.support.chats import TOOLS, answer, conversations, result, user

SUBSETS: Final[list[tuple[AnswerPart, ...]]] = [
    parts for size in (1, 2, 3) for parts in combinations(ANSWER_PARTS, size)
]

TINYLM = LanguageModel(model=str(Path(__file__).parents[3] / "data/models/tinylm"))
TOKENIZER, TEMPLATE = tokenizer_for(TINYLM)

CALL = '<tool_call>\n{"name": "tide", "arguments": {"port": "%s"}}\n</tool_call>'
END = "<|im_end|>"


def port(name: str) -> str:
    """The arguments of a call."""
    return json.dumps({"port": name})


TOOL_ROW = [
    user(),
    answer("Let me look", port("Oban"), port("Leith"), reasoning="Two ports."),
    result(), result(call=1),
    answer(None, port("Ullapool"), reasoning="One more."),
    result("4 m"),
    answer("All are high.", reasoning="Enough."),
    user("Thanks."),
    answer("Welcome."),
]  # fmt: skip


def rows(*conversations: list[dict[str, Any]], tools: str | None = TOOLS) -> pl.DataFrame:
    messages = pl.Series("messages", conversations, strict=False)
    return pl.DataFrame({"messages": messages, "tools": [tools] * len(conversations)})


def labels_of(messages: list[dict[str, Any]], *loss_on: AnswerPart) -> np.ndarray[Any, Any]:
    encoded = encode(TOKENIZER, TEMPLATE, rows(messages), loss_on or ANSWER_PARTS)
    assert encoded["error"].item() is None
    return encoded["labels"][0].to_numpy()


def supervised(messages: list[dict[str, Any]], *loss_on: AnswerPart) -> list[str]:
    """The texts that loss is on, a run of tokens each."""
    labels = labels_of(messages, *loss_on)
    runs = np.split(labels, np.flatnonzero(np.diff(labels == IGNORED)) + 1)
    return [TOKENIZER.decode(run) for run in runs if run[0] != IGNORED]


@pytest.mark.parametrize("loss_on", SUBSETS, ids="-".join)
def test_loss_is_on_the_parts_that_are_named(loss_on: tuple[AnswerPart, ...]) -> None:
    calls = [CALL % "Oban" + CALL % "Leith" + END, CALL % "Ullapool" + END]
    thought = [f"<think>\n{text}\n</think>\n\n" for text in ("Two ports.", "One more.", "Enough.")]
    turns = [
        (("reasoning", thought[0]), ("content", "Let me look"), ("calls", calls[0])),
        (("reasoning", thought[1]), ("calls", calls[1])),
        (("reasoning", thought[2]), ("content", "All are high." + END)),
        (("content", "Welcome." + END),),
    ]
    expected = []
    for turn in turns:
        runs = [""]
        for part, text in turn:
            if part in loss_on:
                runs[-1] += text
            else:
                runs.append("")
        expected += filter(None, runs)
    assert supervised(TOOL_ROW, *loss_on) == expected


@pytest.mark.parametrize("loss_on", SUBSETS, ids="-".join)
@pytest.mark.parametrize("number", [1, 4, 6, 8])
def test_a_turn_that_is_not_trained_has_no_loss(
    number: int, loss_on: tuple[AnswerPart, ...]
) -> None:
    """Whichever turn it is: all others have the loss that they had."""
    flagged = [*TOOL_ROW]
    flagged[number] = {**TOOL_ROW[number], "train": False}
    text = rendered_text(TOKENIZER, TOOL_ROW, TOOLS)
    offsets = TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True)
    before = len(rendered_text(TOKENIZER, TOOL_ROW[:number], TOOLS))
    after = len(rendered_text(TOKENIZER, TOOL_ROW[: number + 1], TOOLS))
    starts = np.array(offsets["offset_mapping"])[:, 0]
    expected = labels_of(TOOL_ROW, *loss_on).copy()
    expected[(starts >= before) & (starts < after)] = IGNORED
    assert labels_of(flagged, *loss_on).tolist() == expected.tolist()
    explicit = [{**m, "train": True} if m["role"] == "assistant" else m for m in TOOL_ROW]
    assert labels_of(explicit, *loss_on).tolist() == labels_of(TOOL_ROW, *loss_on).tolist()


def test_a_token_of_two_parts_is_learnt_with_either() -> None:
    messages = [user(), answer("Look.", port("Oban"))]
    assert ".<" in [TOKENIZER.decode([token]) for token in labels_of(messages) if token != IGNORED]
    assert supervised(messages, "content") == ["Look.<"]
    assert supervised(messages, "calls") == [".<" + (CALL % "Oban" + END).removeprefix("<")]


def test_an_empty_turn_that_is_not_trained_has_no_end_token_either() -> None:
    messages = [user(), answer("", train=False), user(), answer("High.")]
    assert supervised(messages) == ["High." + END]
    messages = [user(), answer("High.", train=False), user(), answer("")]
    assert supervised(messages) == [END]


@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_loss_on_another_s_turn_is_refused_and_named(role: str) -> None:
    turn = {"role": role, "content": "So?", "train": True}
    encoded = encode(TOKENIZER, TEMPLATE, rows([user(), turn, answer("High.")], TOOL_ROW))
    assert encoded["error"][0] == f"turn 2 ({role}) wants loss, which is on the assistant's alone"
    assert encoded["labels"].is_null().to_list() == [True, False]
    silent = {**turn, "train": False}
    assert supervised([user(), silent, answer("High.")]) == ["High." + END]


VIEWS: Final[dict[str, tuple[AnswerPart, ...]]] = {
    "all": ANSWER_PARTS, "calls": ("content", "calls"), "content": ("content",),
}  # fmt: skip
RENDERING = {view: likelihood_views.rendering(TOKENIZER, 4096, view) for view in VIEWS}  # type: ignore[arg-type]


@given(
    messages=conversations(),
    tools=st.sampled_from([None, TOOLS]),
    view=st.sampled_from(list(VIEWS)),
)
def test_likelihoods_are_of_the_tokens_that_training_puts_loss_on(
    messages: list[dict[str, Any]], tools: str | None, view: str
) -> None:
    """But of what is blank: a likelihood of nothing is none."""
    said = [m["content"] for m in messages if m["role"] == "assistant"]
    assume(all(content is None or content.strip() for content in said))
    encoded = encode(TOKENIZER, TEMPLATE, rows(messages, tools=tools), VIEWS[view]).row(0)
    scored = likelihood_views.conversation(RENDERING[view], messages, None, tools)  # type: ignore[arg-type]
    assert list(scored.tokens) == encoded[0]
    expected = np.full(len(scored.tokens), IGNORED)
    for start, end in scored.answers:
        expected[start:end] = scored.tokens[start:end]
    assert encoded[1] == expected.tolist()


@given(messages=conversations(), loss_on=st.sampled_from(SUBSETS))
def test_what_others_say_never_has_loss(
    messages: list[dict[str, Any]], loss_on: tuple[AnswerPart, ...]
) -> None:
    """Changed texts of users, tools and the system change no label but by their length."""
    others = [
        m if m["role"] == "assistant" else {**m, "content": "Something else."} for m in messages
    ]
    assert supervised(messages, *loss_on) == supervised(others, *loss_on)


def test_tokens_and_labels_of_tool_rows_are_those_of_trl(tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    def shown(turn: dict[str, Any]) -> dict[str, Any]:
        functions = [
            {"name": call["name"], "arguments": json.loads(call["arguments"])}
            for call in turn.get("tool_calls") or ()
        ]
        calls = [{"type": "function", "function": function} for function in functions]
        return {
            "role": turn["role"],
            "content": turn["content"] or "",
            "reasoning_content": turn.get("reasoning"),
            "tool_calls": calls or None,
        }

    other = [user(), answer("High.", reasoning="So."), user(), answer("", port("Oban"))]
    chats = [TOOL_ROW, other, TOOL_ROW[:2]]
    data = [{"messages": [shown(t) for t in chat], "tools": json.loads(TOOLS)} for chat in chats]
    with quiet():
        trainer = SFTTrainer(
            model=load_model(TINYLM, Full(), 512),
            args=SFTConfig(
                output_dir=str(tmp_path), assistant_only_loss=True, max_length=512, bf16=False,
                use_cpu=True, report_to="none",
            ),
            train_dataset=Dataset.from_list(data),
            processing_class=TOKENIZER,
        )  # fmt: skip
    ours = encode(TOKENIZER, TEMPLATE, rows(*chats))
    assert trainer.train_dataset["input_ids"][:] == ours["input_ids"].to_list()
    assert trainer.train_dataset["labels"][:] == ours["labels"].to_list()


@given(chat=conversations())
def test_reasoning_that_is_not_rendered_is_counted(chat: list[dict[str, Any]]) -> None:
    """By the template that leaves it out in all but the last turn, and by the one that shows it."""
    last = max((at for at, turn in enumerate(chat) if turn["role"] == "assistant"), default=-1)
    condition = "m['reasoning_content'] is defined"
    hiding = TEMPLATE.replace(condition, f"loop.last and {condition}")
    for template, shown in ((TEMPLATE, range(len(chat))), (hiding, range(last, len(chat)))):
        thoughts = [turn.get("reasoning") or "" for turn in chat]
        expected = sum(
            len(text) for at, text in enumerate(thoughts) if text.strip() and at not in shown
        )
        encoded = encode(TOKENIZER, template, rows(chat))
        if encoded["error"].item() is None:
            assert encoded["hidden_reasoning"].item() == expected
