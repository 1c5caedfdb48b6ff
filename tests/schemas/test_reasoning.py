"""Reasoning in texts: what is parted, what is told unclosed, and what only speaks of marks."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.reasoning import MARKS, THINK, parted


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think>b", "b"),
        ("<think>\n\n</think>\n\nb", "b"),
        ("\n<think>a</think>\n<think>c</think>b", "b"),
        ("a</think>\n\nb", "b"),
        ("Sure.\n<think>a</think>\nb", "Sure.\nb"),
        ("[THINK]a[/THINK]b", "b"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
            "b",
        ),
        ("analysisWe a.assistantfinalb", "b"),
        ("<think>```\nx\n</think>```py\n<think>\n```", "```py\n<think>\n```"),
    ],
)
def test_reasoning_is_parted(text: str, answer: str) -> None:
    result = parted(text)
    assert (result.answer, result.unclosed) == (answer, False)
    assert result.start <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        "b",
        "",
        "analysis of the data",
        "The tag `<think>` opens it, `</think>` closes it.",
        "```\n<think>\na\n</think>\n```",
        "Write <think> first.",
        "x <|channel|> y",
    ],
)
def test_an_answer_that_speaks_of_marks_stays(text: str) -> None:
    assert parted(text).answer == text


@pytest.mark.parametrize(
    "text",
    [
        "<think>a",
        "<think>",
        "[THINK]a",
        "<think>a</think>\n<think>b",
        "<|channel|>analysis<|message|>a",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant",
        "<|channel|>ana",
        "analysisWe think",
    ],
)
def test_what_does_not_close_is_no_answer(text: str) -> None:
    result = parted(text)
    assert (result.answer, result.unclosed) == ("", True)


words = st.text(alphabet="abc \n1.{}`", max_size=40)


@given(words, words, st.sampled_from(MARKS))
def test_any_reasoning_in_any_marks_is_parted(
    thought: str, answer: str, mark: tuple[str, str]
) -> None:
    result = parted(f"{mark[0]}{thought}{mark[1]}{answer}")
    assert (result.reasoning, result.answer) == (thought.strip(), answer.lstrip())
    assert parted(thought, opened=mark).unclosed
    assert parted(f"{thought}{mark[1]}{answer}", opened=mark).answer == answer.lstrip()
    assert parted(answer) == parted(answer, [("<plan>", "</plan>")])
    own = parted(f"<plan>{thought}</plan>{answer}", [("<plan>", "</plan>")])
    assert own.answer == answer.lstrip()


@given(st.text(alphabet="<>/think`\n [THINK]|analysis", max_size=80))
def test_every_text_is_parted_into_its_own_parts(text: str) -> None:
    result = parted(text)
    assert not (result.unclosed and result.answer)
    assert len(result.answer) + len(result.reasoning) <= len(text) + 2 * text.count("\n") + 4
    assert parted(text, opened=THINK).start <= len(text)


def test_a_text_of_many_marks_takes_no_time() -> None:
    start = time.process_time()
    for text in (
        "<think>" * 20_000,
        "</think>" * 20_000,
        "\n<think>a</think>" * 2_000,
        "analysis" * 9_000,
    ):
        parted(text)
    assert time.process_time() - start < 4
