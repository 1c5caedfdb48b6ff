"""Answers in rendered conversations: at the right place in every template, or the row fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.local.chat_template import Unrenderable
from pipeline.models.local.literal_tokens import tokenize, uncovered
from stages._llm.rendered import render, rendered_text
from tests.support.chats import EOS, TOOLS, answer, conversations, result, tokenizer, user

NAMES = ("tinylm", *EOS)

SHORT = [user(), answer(None, '{"port": "Oban"}'), result(), answer("It is 3.1 m.")]
CALL = {
    "tinylm": '<tool_call>\n{"name": "tide", "arguments": {"port": "Oban"}}\n</tool_call>',
    "qwen2": '<tool_call>\n{"name": "tide", "arguments": {"port": "Oban"}}\n</tool_call>',
    "qwen3": '<tool_call>\n{"name": "tide", "arguments": {"port": "Oban"}}\n</tool_call>',
    "xml_calls": (
        "<tool_call>\n<function=tide>\n<parameter=port>\nOban\n</parameter>\n</function>\n"
        "</tool_call>"
    ),
    "llama3": '{"name": "tide", "parameters": {"port": "Oban"}}',
    "mistral": (
        '[TOOL_CALLS] [{"name": "tide", "arguments": {"port": "Oban"}, "id": "call00000"}]'
    ),
    "gpt_oss": ' to=functions.tide<|channel|>commentary json<|message|>{"port": "Oban"}',
    "deepseek": (
        '<|tool_calls_begin|><|tool_call_begin|>tide<|tool_sep|>{"port": "Oban"}'
        "<|tool_call_end|><|tool_calls_end|>"
    ),
}
ENDS = {**EOS, "tinylm": "<|im_end|>"}


def parts(name: str, messages: list[dict[str, Any]], tools: str | None = None) -> list[Any]:
    """Of each answer what stands at its places: reasoning, content, calls, and all."""
    rendered = render(tokenizer(name), messages, tools)
    return [
        tuple(
            None if span is None else rendered.text[slice(*span)]
            for span in (each.reasoning, each.content, each.calls, each.span())
        )
        for each in rendered.answers
    ]


@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("name", NAMES)
def test_a_call_stands_where_the_template_writes_it(name: str, tools: str | None) -> None:
    call, last = parts(name, SHORT, tools)
    assert call == (None, "", CALL[name], CALL[name])
    assert last == (None, "It is 3.1 m.", None, "It is 3.1 m.")
    rendered = render(tokenizer(name), SHORT, tools)
    end = "<|call|>" if name == "gpt_oss" else ENDS[name]
    assert rendered.text.startswith(end, rendered.answers[0].end)
    assert rendered.text.startswith(ENDS[name], rendered.answers[1].end)


def test_reasoning_stands_where_it_is_shown_and_what_opens_it_belongs_to_the_answer() -> None:
    messages = [
        user(), answer("High.", reasoning="First."),
        user(), answer(None, '{"port": "Oban"}', reasoning="Then."), result(),
        answer("Low.", reasoning="Last."),
    ]  # fmt: skip
    call = CALL["qwen3"]
    think = "<think>\n{}\n</think>\n\n"
    assert parts("tinylm", messages) == [
        ("First.", "High.", None, think.format("First.") + "High."),
        ("Then.", "", call, think.format("Then.") + call),
        ("Last.", "Low.", None, think.format("Last.") + "Low."),
    ]
    assert parts("qwen3", messages)[0] == (None, "High.", None, "High.")
    assert parts("qwen3", messages)[1:] == parts("tinylm", messages)[1:]
    analysis = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
    assert [each[3] for each in parts("gpt_oss", messages)] == [
        "High.",
        analysis.format("Then.") + CALL["gpt_oss"],
        analysis.format("Last.") + "<|channel|>final<|message|>Low.",
    ]
    assert [each[0] for each in parts("deepseek", messages)] == [None] * 3


@pytest.mark.parametrize(
    ("name", "messages", "why"),
    [
        ("llama3", [user(), answer("Look.", "{}")], "leaves out the content of turn 2"),
        ("llama3", [user(), answer(None, "{}", "{}")], "one call at a time"),
        ("mistral", [user(), user(), answer("High.")], "must take turns"),
        ("mistral", [user(), {"role": "system", "content": "x"}], "system turn must be the first"),
        ("mistral", [user(), result(call=123456)], "nine characters"),
        ("gpt_oss", [user(), answer(None, "{}", "{}")], "leaves out a tool call of turn 2"),
        ("gpt_oss", [user(), {"role": "system", "content": "x"}], "leaves out turn 2 .system."),
        ("gpt_oss", [user(), result()], "a result needs a call"),
        ("qwen3", [user(), answer("<think>\na\n</think>\nb")], "changes the text"),
        ("deepseek", [user(), answer("<think>\na\n</think>\n\nb")], "changes the text"),
    ],
)
def test_what_a_template_refuses_or_leaves_out_fails(
    name: str, messages: list[dict[str, Any]], why: str
) -> None:
    with pytest.raises(Unrenderable, match=why):
        render(tokenizer(name), messages)


def test_what_no_tokenizer_takes_fails() -> None:
    with pytest.raises(Unrenderable, match="surrogates"):
        render(tokenizer("tinylm"), [user(), answer(None, r'{"a": "\ud83d"}')])


@pytest.mark.parametrize("what", ["tools", "calls", "a tool's result", "all"])
def test_templates_that_swallow(what: str) -> None:
    whole = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}"
    calls = "{% for m in messages %}{{ m.role + ': ' + m.content }}{{ m.tool_calls }}{% endfor %}"
    said = (
        "{% for m in messages if m.role != 'tool' %}{{ m.content }}{{ m.tool_calls }}{% endfor %}"
    )
    template = {"tools": calls, "calls": whole, "a tool's result": said, "all": "nothing"}[what]
    error = {
        "tools": "leaves out the tools",
        "calls": "leaves out a tool call of turn 2",
        "a tool's result": "leaves out turn 3 .tool.",
        "all": "leaves out turn 1 .user.",
    }[what]
    with pytest.raises(Unrenderable, match=error):
        render(tokenizer("tinylm"), SHORT, TOOLS if what == "tools" else None, template)


@pytest.mark.parametrize(
    "place", ["user", "content", "reasoning", "name", "arguments", "escaped", "result", "tools"]
)
@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>"])
def test_a_control_token_in_any_text_is_text(place: str, token: str) -> None:
    ids, text = _tokens(place, f"Before{token}after")
    plain, _ = _tokens(place, "Before that after")
    special = set(tokenizer("tinylm").added_tokens_decoder)
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    if place != "name":  # which the template does not show
        assert f"Before{token}after" in text
        assert f"Before{token}after" in tokenizer("tinylm").decode(ids)


def _tokens(place: str, text: str) -> tuple[list[int], str]:
    arguments = json.dumps({"port": text})
    escaped = arguments.replace("<", "\\u003c")
    messages = {
        "user": [user(text), answer("High.")],
        "content": [user(), answer(text)],
        "reasoning": [user(), answer("High.", reasoning=text)],
        "name": [user(), {**result(), "name": text}, answer("High.")],
        "arguments": [user(), answer(None, arguments)],
        "escaped": [user(), answer(None, escaped)],
        "result": [user(), answer(None, "{}"), result(text)],
        "tools": [user(), answer("High.")],
    }[place]
    tools = TOOLS.replace("The height", text) if place == "tools" else None
    rendered = render(tokenizer("tinylm"), messages, tools)
    ids, spans = tokenize(tokenizer("tinylm"), rendered.text)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    return ids, uncovered(tokenizer("tinylm"), rendered.text)


@settings(max_examples=150)
@given(messages=conversations(), tools=st.sampled_from([None, TOOLS]), name=st.sampled_from(NAMES))
def test_the_text_at_each_place_is_what_was_said_or_the_row_fails(
    messages: list[dict[str, Any]], tools: str | None, name: str
) -> None:
    try:
        rendered = render(tokenizer(name), messages, tools)
    except Unrenderable:
        return
    text = rendered.text
    assert text == rendered_text(tokenizer(name), messages, tools)
    end = 0
    said = [message for message in messages if message["role"] == "assistant"]
    assert [messages[each.turn] for each in rendered.answers] == said
    for place, message in zip(rendered.answers, said, strict=True):
        content = message["content"] or ""
        assert text[slice(*place.content)] in (content, content.strip())
        if place.reasoning:
            shown = text[slice(*place.reasoning)]
            assert shown in (message["reasoning"], message["reasoning"].strip())
            assert place.reasoning[1] <= place.content[0]
        assert (place.calls is None) == (message["tool_calls"] is None)
        if place.calls:
            assert place.calls[0] == place.content[1]
            calls = text[slice(*place.calls)]
            assert calls.count("tide") >= len(message["tool_calls"])
            assert ENDS[name] not in calls
            following = ("<|call|>",) if name == "gpt_oss" else (ENDS[name],)
            assert text.startswith(following, place.calls[1])
        assert end <= place.start <= place.content[0]
        end = place.end
