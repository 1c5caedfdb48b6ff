"""tag.reasoning: measures as of score.heuristics, and made cases for each sign of trouble."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_series_equal

from pipeline.context import Context
from pipeline.models import LanguageModel
from schemas.records import RECORD_COLUMNS
from stages._text.final_answer import final_answer, holds_answer
from stages.score.heuristics import heuristics
from stages.tag.reasoning import reasoning
from stages.tag.tokens import tokens
from tests.support.options import problems
from tests.support.rows import record, self_instruct

CTX = Context.__new__(Context)  # the stage computes only
TINYLM = LanguageModel(model="data/models/tinylm")
CHINESE = "我们先把这个问题分成两个部分，然后再看结果是不是正确的。"
ENGLISH = "First we split the problem into two parts, and then we check the result."


def row(*answers: tuple[str | None, str]) -> dict[str, Any]:
    """A conversation with these reasonings and contents of the assistant."""
    turns: list[dict[str, Any]] = []
    for thought, content in answers:
        turns.append({"role": "user", "content": "Why <think>?"})
        turns.append({"role": "assistant", "content": content, "reasoning": thought})
    return record() | {"messages": turns}


def tag(*answers: tuple[str | None, str], **options: Any) -> dict[str, Any]:
    return reasoning(CTX, pl.DataFrame([row(*answers)], schema=RECORD_COLUMNS), **options).row(
        0, named=True
    )


def test_without_reasoning_nothing_is_measured() -> None:
    without = {
        "reasoning_words": 0,
        "reasoning_repetition": None,
        "reasoning_other_script": None,
        "reasoning_unclosed": False,
        "reasoning_has_answer": None,
    }
    for answers in ([], [(None, "So.")], [("", "So.")]):
        assert tag(*answers) == without
    frame = pl.DataFrame({"messages": [[{"role": "user", "content": "Why?"}]]})
    assert reasoning(CTX, frame).row(0, named=True) == without


@pytest.mark.parametrize("ngram_size", [1, 3])
def test_words_and_repetition_are_those_of_the_heuristics(ngram_size: int) -> None:
    texts = [r["messages"][-1]["content"] for r in self_instruct(200).iter_rows(named=True)]
    texts += ["a b a b a b", CHINESE * 2, "...", "Isn't it?"]
    reasoned = [row((text, "So.")) for text in texts]
    answered = [row((None, text)) for text in texts]
    ours = reasoning(CTX, pl.DataFrame(reasoned, schema=RECORD_COLUMNS), ngram_size=ngram_size)
    expected = heuristics(CTX, pl.DataFrame(answered, schema=RECORD_COLUMNS), ngram_size=ngram_size)
    for name, other in (("words", "response_words"), ("repetition", "repetition")):
        assert_series_equal(ours[f"reasoning_{name}"], expected[other], check_names=False)


def test_the_last_turn_or_all() -> None:
    answers = [("One two three", "The answer is 1."), ("four <think>", "The answer is four.")]
    every, last = tag(*answers), tag(*answers, part="last")
    assert (every["reasoning_words"], last["reasoning_words"]) == (5, 2)
    assert tag(answers[1], answers[0], part="last")["reasoning_unclosed"] is False
    assert every["reasoning_has_answer"] is last["reasoning_has_answer"] is True
    answers = [("It is 7.", "7"), ("Hm.", "7")]
    assert tag(*answers)["reasoning_has_answer"] is True
    assert tag(*answers, part="last")["reasoning_has_answer"] is False


def test_tokens_are_those_of_the_tokenizer() -> None:
    thought = "Twice three is six."
    row = tag((thought, "6"), model=TINYLM)
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": thought}]
    frame = pl.DataFrame({"messages": [messages]})
    assert row["reasoning_tokens"] == tokens(CTX, frame, model=TINYLM, rendering="plain").item(0, 0)
    assert tag((None, "6"), model=TINYLM)["reasoning_tokens"] == 0


@pytest.mark.parametrize(
    ("thought", "answer", "low", "high"),
    [
        (ENGLISH, "Yes, it is.", 0, 0),
        (CHINESE, "是的。", 0, 0),
        (CHINESE, "Yes, it is.", 1, 1),
        (ENGLISH + CHINESE, "Yes, it is.", 0.2, 0.5),
        (ENGLISH + CHINESE, "是的。", 0.5, 0.8),
        (f"{ENGLISH} Потом проверим.", "Yes, it is.", 0.1, 0.3),
        ("これはテストです。東京は日本の首都です。", "東京です。", 0, 0),
        # An answer without letters: what the reasoning mostly is.
        (ENGLISH, "42", 0, 0),
        (f"{ENGLISH} 好", "42", 0.01, 0.05),
        # Symbols of mathematics, commands and code are no language.
        ("令 x = 3，则 π 与 \\alpha 和 \\frac{x}{y} 都成立，`return value` 也是。", "成立。", 0, 0),
        ("所以\n```python\nfor item in items: print(item)\n```\n就是这样。", "就是这样。", 0, 0),
        ("1 + 1 = 2", "2", None, None),
    ],
)
def test_other_scripts(thought: str, answer: str, low: float | None, high: float | None) -> None:
    fraction = tag((thought, answer))["reasoning_other_script"]
    if low is None or high is None:
        assert fraction is None
    else:
        assert low <= fraction <= high


@pytest.mark.parametrize(
    ("thought", "content", "expected"),
    [
        (None, "<think>Hm.</think>So.", False),
        (None, "[THINK]Hm.[/THINK]So.", False),
        (None, "<think>Hm.</think>So.<think>Hm.</think>", False),
        (None, "Write `<think>` before it.", False),
        (None, "```\n<think>\n```", False),
        ("Hm. a < b and [think]", "<thinker>", False),
        (None, "<think>Hm.", True),
        (None, "Hm.</think>So.", True),
        (None, "[THINK]Hm.", True),
        (None, "Hm.[/THINK]", True),
        (None, "<thinking>Hm.</think>", True),
        (None, "<think>Hm.<think>Hm.</think>", True),
        (None, "</think>Hm.<think>", True),
        (None, "<|begin_of_thought|>Hm.", True),
        (None, "<|begin_of_thought|>Hm.<|end_of_thought|>", False),
        (None, "<seed:think>Hm.", True),
        ("Hm.</think>", "So.", True),
        ("<think>Hm.", "So.", True),
        ("<think>Hm.", "So.</think>", True),
        (None, "<|channel|>analysis<|message|>Hm.<|end|>", True),
        ("<|channel|>commentary", "So.", True),
    ],
)
def test_unclosed_marks(thought: str | None, content: str, expected: bool) -> None:
    assert tag((thought, content))["reasoning_unclosed"] is expected
    assert tag((None, "So."), (thought, content), (None, "So."))["reasoning_unclosed"] is expected


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So $\boxed{42}$.", "42"),
        (r"\boxed{1}, no: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} or \boxed{2", "1"),
        ("Weng earns 12/60 = $0.2 a minute.\n#### 10", "10"),
        ("#### 3\nand then\n####  1,040 ", "1,040"),
        ("The answer is 42.", "42"),
        ("The final answer is: **3.5 km**.", "3.5 km"),
        ("**Answer:** B", "B"),
        ("答案是42。", "42"),
        ("The answer is long: one two three four five six seven.", None),
        ("Paris", "Paris"),
        ("Paris, as far as anybody here knows today.", None),
        ("", None),
        ("   ", None),
        ("### A heading of a longer answer with words", None),
        ("The answer is\n5", "5"),
        ("First 2 + 3.\n\n**Final Answer:**\n\n**5**\n", "5"),
        ("The answer is 4, no, the answer is:\n  5 km.  ", "5 km"),
        ("答案是：\n42", "42"),
        ("The answer is\nlong: one two three four five six seven.", None),
        ("Answer:\nLet us begin.\nThe sum of both is 5 in the end.", None),
        ("I don't know", None),
        ("I do not know.", None),
        ("Sorry, I don’t really know.", None),
        ("I'm not sure.", None),
        ("No idea!", None),
        ("I'm sorry, but I can't help.", None),
        ("Unfortunately, I cannot answer that.", None),
        ("I can't say.", None),
        ("我不知道。", None),
        ("No", "No"),
        ("I", "I"),
        ("Can't Stop", "Can't Stop"),
    ],
)
def test_the_final_answer(text: str, answer: str | None) -> None:
    result = final_answer(text, 6)
    assert (result and result.strip("* ")) == answer


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("so 42 it is", "42", True),
        ("so 142 it is", "42", False),
        ("so 42nd", "42", False),
        ("so 4.5", "4", False),
        ("so 4.", "4", True),
        ("so 14.5", "4.5", False),
        ("it has 1,040 seats", "1040", True),
        ("it has 1040 seats", "1,040", True),
        ("it costs \\$5", "$5$", True),
        ("$x = \\dfrac{1}{2}$", r"\frac{1}{2}", True),
        ("x=1/2", r"\frac{1}{2}", True),
        ("x = 3", "x=3", True),
        ("PARIS!", "paris.", True),
        ("parisian", "paris", False),
        ("首都是巴黎。", "巴黎", True),
        ("共42个", "42", True),
        ("共142个", "42", False),
        ("３ apples", "3", True),
        ("that is \\text{ten km} away", "ten km", True),
        ("no", "?!", None),
    ],
)
def test_an_answer_is_found_as_a_whole(text: str, answer: str, expected: bool | None) -> None:
    assert holds_answer(text, answer) is expected


@given(st.text(alphabet="ab1,. ", max_size=20), st.sampled_from(["a b1", "12", "b.1"]))
@settings(deadline=None)
def test_an_answer_between_marks_is_always_found(around: str, answer: str) -> None:
    assert holds_answer(f"{around}; {answer}; {around}", answer)


def test_has_answer() -> None:
    assert tag(("So 6 * 7 = 42.", "The answer is 42."))["reasoning_has_answer"] is True
    assert tag(("So 6 * 7 = 43.", "The answer is 42."))["reasoning_has_answer"] is False
    text = "A long answer that ends without any short result at all."
    assert tag(("So 6 * 7 = 42.", text))["reasoning_has_answer"] is None
    assert tag(("So.", "one two"), max_answer_words=1)["reasoning_has_answer"] is None


def test_options() -> None:
    assert problems("tag.reasoning", part="last") == []
    assert problems("tag.reasoning", part="first") != []
    assert problems("tag.reasoning", ngram_size=0) != []
