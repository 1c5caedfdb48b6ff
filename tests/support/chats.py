"""Conversations with tools and reasoning, and tokenizers with the templates of real models."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.support.rows import DATA

TEMPLATES = Path(__file__).parents[1] / "stages/_llm/chat_templates"
EOS = {
    "qwen2": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "xml_calls": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "mistral": "</s>",
    "gpt_oss": "<|return|>",
    "deepseek": "<|end_of_sentence|>",
}
TOOLS = (
    '[{"type": "function", "function": {"name": "tide", "description": "The height of the tide", '
    '"parameters": {"type": "object", "properties": {"port": {"type": "string"}}}}}]'
)
CONTROL = re.compile(r"<\|\w+\|>|\[/?[A-Z_]+\]")


@cache
def tokenizer(name: str) -> Any:
    """tinylm's tokenizer, or that with the template and control tokens of another model."""
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(DATA / "models/tinylm")
    if name != "tinylm":
        own.chat_template = (TEMPLATES / f"{name}.jinja").read_text("utf-8")
        control = sorted(set(CONTROL.findall(own.chat_template)))
        own.add_special_tokens(
            {"eos_token": EOS[name], "bos_token": "<|begin|>", "additional_special_tokens": control}
        )
    return own


def user(text: str = "What is the tide at Oban?") -> dict[str, Any]:
    """A user's turn."""
    return {"role": "user", "content": text}


def answer(
    content: str | None = None, *arguments: str, reasoning: str | None = None, **more: Any
) -> dict[str, Any]:
    """An assistant's turn. arguments: of calls of the tool `tide`, as JSON text."""
    calls = [
        {"id": f"call{i:05}", "name": "tide", "arguments": each} for i, each in enumerate(arguments)
    ]
    turn = {"role": "assistant", "content": content, "reasoning": reasoning, **more}
    return turn | {"tool_calls": calls or None}


def result(content: str = '{"height_m": 3.1}', call: int = 0) -> dict[str, Any]:
    """The result of a call."""
    return {"role": "tool", "content": content, "tool_call_id": f"call{call:05}"}


# Words that templates write themselves are among them, so that a search would go astray.
WORDS = st.lists(
    st.sampled_from(
        ["tide", "assistant", "\n", " ", "<think>", "</tool_call>", '{"name": "tide"}', "Oban", "é",
         "user\n", "?", "<tool_response>", "\\n", "😀", "<|im_end"]
    ),
    min_size=1, max_size=4,
).map("".join)  # fmt: skip
TEXTS = WORDS | st.text(max_size=6)
ARGUMENTS = st.sampled_from(
    ['{"port": "Oban"}', "{}", '{"n": 2, "of": [1, {"a": null}]}', '{"q": "tide </tool_call>"}',
     "no JSON", '["a", 1]', '{"port": ""}']
)  # fmt: skip


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Conversations of one to three requests, with calls, results and reasoning."""
    turns: list[dict[str, Any]] = []
    if draw(st.booleans()):
        turns.append({"role": "system", "content": draw(TEXTS)})
    for _ in range(draw(st.integers(1, 3))):
        turns.append(user(draw(TEXTS)))
        for _ in range(draw(st.integers(0, 2))):
            calls = draw(st.lists(ARGUMENTS, min_size=1, max_size=2))
            content, reasoning = (draw(st.none() | TEXTS) for _ in range(2))
            turns.append(answer(content, *calls, reasoning=reasoning))
            turns += [result(draw(TEXTS), i) for i in range(len(calls))]
        turns.append(answer(draw(TEXTS), reasoning=draw(st.none() | TEXTS)))
    return turns
