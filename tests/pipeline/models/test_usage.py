"""What an answer is billed, as providers document it, and what no answer can be billed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.journal.responses import well_formed
from pipeline.models.journal.usage import TokenUsage, billed, usage_of
from tests.support.billing import SHAPES

DOCUMENTED: dict[str, tuple[dict[str, Any], TokenUsage]] = {
    "OpenAI's chat completion": (
        {
            "usage": {
                "prompt_tokens": 1117,
                "completion_tokens": 46,
                "total_tokens": 1163,
                "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 40, "audio_tokens": 0},
            }
        },
        TokenUsage(1117, 1024, 46, 40),
    ),
    "OpenAI's response": (
        {
            "usage": {
                "input_tokens": 36,
                "input_tokens_details": {"cached_tokens": 12},
                "output_tokens": 87,
                "output_tokens_details": {"reasoning_tokens": 64},
                "total_tokens": 123,
            }
        },
        TokenUsage(36, 12, 87, 64),
    ),
    "xAI: reasoning beside the completion": (
        {
            "usage": {
                "prompt_tokens": 10120,
                "completion_tokens": 1499,
                "total_tokens": 14428,
                "prompt_tokens_details": {"cached_tokens": 128},
                "completion_tokens_details": {"reasoning_tokens": 2809},
            }
        },
        TokenUsage(10120, 128, 4308, 2809),
    ),
    "Gemini behind OpenAI's form: the total alone says so": (
        {"usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 1029}},
        TokenUsage(9, 0, 1020, 1008),
    ),
    "no total, and more reasoning than completion": (
        {"usage": {"prompt_tokens": 9, "completion_tokens": 2, "reasoning_tokens": 60}},
        TokenUsage(9, 0, 62, 60),
    ),
    "no total, and reasoning that fits into the completion": (
        {"usage": {"prompt_tokens": 9, "completion_tokens": 80, "reasoning_tokens": 60}},
        TokenUsage(9, 0, 80, 60),
    ),
    "DeepSeek": (
        {
            "usage": {
                "prompt_tokens": 100,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 36,
                "completion_tokens": 5,
                "total_tokens": 105,
            }
        },
        TokenUsage(100, 64, 5),
    ),
    "Anthropic: cached parts beside the input": (
        {
            "usage": {
                "input_tokens": 50,
                "cache_creation_input_tokens": 248,
                "cache_read_input_tokens": 1800,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 148,
                    "ephemeral_1h_input_tokens": 100,
                },
                "output_tokens": 503,
                "service_tier": "standard",
            }
        },
        TokenUsage(2098, 1800, 503, 0, 248),
    ),
    "Gemini": (
        {
            "usageMetadata": {
                "promptTokenCount": 21,
                "cachedContentTokenCount": 16,
                "candidatesTokenCount": 10,
                "thoughtsTokenCount": 60,
                "toolUsePromptTokenCount": 7,
                "totalTokenCount": 98,
            }
        },
        TokenUsage(28, 16, 70, 60),
    ),
    "Gemini that was cut while it thought": (
        {
            "usageMetadata": {
                "promptTokenCount": 21,
                "thoughtsTokenCount": 60,
                "totalTokenCount": 81,
            }
        },
        TokenUsage(21, 0, 60, 60),
    ),
    "vLLM": (
        {
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "total_tokens": 13,
                "prompt_tokens_details": None,
            }
        },
        TokenUsage(9, 0, 4),
    ),
    "no usage": ({"choices": []}, TokenUsage()),
    "null": ({"usage": None}, TokenUsage()),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_usage_is_read_as_providers_document_it(name: str) -> None:
    raw, tokens = DOCUMENTED[name]
    assert usage_of(raw) == tokens


counts = st.integers(0, 10**6)


@given(st.sampled_from(sorted(SHAPES)), counts, st.floats(0, 1), counts, counts)
def test_all_that_is_billed_is_counted_once_in_every_shape(
    shape: str, prompt: int, cached: float, text: int, reasoning: int
) -> None:
    usage = usage_of(SHAPES[shape]((prompt, int(prompt * cached), 0, text, reasoning)))
    assert (usage.prompt, usage.completion) == (prompt, text + reasoning)
    assert usage.cached <= usage.prompt
    assert usage.reasoning <= usage.completion


ABSURD = [float("inf"), float("-inf"), float("nan"), -1, 10**12, 1.5, True, "9", [9], {"n": 9}]
CHOICE = {"message": {"content": "sea"}, "finish_reason": "stop"}


@pytest.mark.parametrize("number", ABSURD, ids=str)
@pytest.mark.parametrize(
    "name", ["prompt_tokens", "completion_tokens", "total_tokens", "reasoning_tokens"]
)
def test_absurd_numbers_make_an_answer_unreadable(name: str, number: object) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, name: number}
    with pytest.raises((TypeError, ValueError)):
        usage_of({"usage": usage})
    assert not well_formed({"choices": [CHOICE], "usage": usage})
    assert billed({"usage": usage}) is None


@pytest.mark.parametrize("raw", [[], "text", 3, {"usage": [1]}, {"usageMetadata": "none"}, {}])
def test_what_does_not_say_its_usage_is_billed_nothing(raw: object) -> None:
    assert billed(raw) is None
