"""Conversations with tools: made rows, and files of the kind that Glaive publishes.

- `tool_record(...)`: one record, with any of what stands beside content;
- `glaive_row(number)`: a row as Glaive's tool data in ShareGPT's form has them, its number in
  every text, so that no two are equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.records import record_id


def call(name: str, arguments: str | None, id: str | None = None) -> dict[str, Any]:
    """A tool call of a record."""
    return {"id": id, "name": name, "arguments": arguments}


def tool_record(messages: Sequence[Mapping[str, Any]], tools: str | None = None) -> dict[str, Any]:
    """A record of turns with whatever fields."""
    return {
        "id": record_id(messages, tools),
        "messages": [*messages],
        "tools": tools,
        "origins": [{"source": "here", "index": 0, "license": "MIT"}],
        "parents": [],
        "extra": "{}",
    }


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place"],
        },
    },
}

CONVERSATION: Sequence[Mapping[str, Any]] = (
    {"role": "system", "content": "You are a forecaster."},
    {"role": "user", "content": "What will the weather be in Skerryvore?"},
    {
        "role": "assistant",
        "content": None,
        "reasoning": "I need the forecast.",
        "tool_calls": [call("get_weather", '{"place": "Skerryvore", "days": 2}', "call_1")],
        "train": False,
    },
    {
        "role": "tool",
        "content": '{"sky": "grey"}',
        "tool_call_id": "call_1",
        "name": "get_weather",
    },
    {"role": "assistant", "content": "Grey for two days.", "reasoning": "It says grey."},
)
"""One of everything."""


def glaive_row(number: int) -> dict[str, Any]:
    """A row of a call, its result and an answer, in ShareGPT's form."""
    names = (f"search_recipes_{number % 50}", f"convert_currency_{number % 50}")
    tools = [
        {
            "name": name,
            "description": f"Does what {name} says, for all who want it done.",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "What to look for"},
                    "amount": {"type": "number", "description": "How much of it"},
                },
                "required": ["query"],
            },
        }
        for name in names
    ]
    query = f"item {number} of the {number * 7919 % 100_003} that the store has"
    arguments = {"query": query, "amount": number / 8, "tags": ["fresh", f"lot {number}"]}
    result = {"status": "ok", "results": [{"title": query, "rank": n} for n in range(4)]}
    said = [
        ("human", f"Please find {query}, and tell me what it costs today. " * 2),
        ("function_call", json.dumps({"name": names[number % 2], "arguments": arguments})),
        ("observation", json.dumps(result)),
        ("gpt", f"There are four offers of {query}; the first costs {number % 97} euros. " * 3),
        ("human", "Thank you, which one would you take?"),
        ("gpt", f"I would take the second, as lot {number} is the freshest of them all."),
    ]
    turns = [{"from": speaker, "value": text} for speaker, text in said]
    return {"conversations": turns, "tools": json.dumps(tools)}


def glaive_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record of such a row."""
    roles = {"human": "user", "observation": "tool"}
    messages: list[dict[str, Any]] = []
    for turn in row["conversations"]:
        message = {"role": roles.get(turn["from"], "assistant"), "content": turn["value"]}
        if turn["from"] == "function_call":
            said = json.loads(turn["value"])
            arguments = json.dumps(said["arguments"], ensure_ascii=False)
            message |= {"content": None, "tool_calls": [call(said["name"], arguments)]}
        messages.append(message)
    return tool_record(messages, row["tools"] if row["tools"] not in ("", "[]") else None)
