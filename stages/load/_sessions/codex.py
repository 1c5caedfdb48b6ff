"""Sessions of OpenAI's Codex CLI: the lines of `~/.codex/sessions/YEAR/MONTH/DAY/rollout-*.jsonl`.

A line has a `type` and a `payload`. `session_meta` comes first; `response_item` holds the
items of OpenAI's Responses API: messages, reasoning, calls and their outputs. What else is
written repeats them for display (`event_msg`) or says how the program was set
(`turn_context`). Until September 2025 the items stood in the lines themselves.
"""

from __future__ import annotations

from typing import Any, Final

from stages.load._chat.turns import Row, Unusable
from stages.load._sessions.transcript import (
    Limits,
    Transcript,
    append_text,
    is_empty,
    optional_text,
    parts_of,
)

AGENT: Final = "codex"

_LINES: Final = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")
_ITEMS: Final = ("message", "reasoning", "function_call", "function_call_output",
                 "local_shell_call", "custom_tool_call", "custom_tool_call_output")  # fmt: skip

_META: Final = (
    "<environment_context>",
    "<user_instructions>",
    "<INSTRUCTIONS>",
    "# AGENTS.md instructions",
    "<turn_aborted>",
    "<permissions instructions>",
    "<user_shell_command>",
    "<skill>",
    "<subagent_notification>",
)
"""How texts begin that the program writes in the user's name."""


def is_line(row: Row) -> bool:
    """Whether a line is one of such a session.

    Args:
        row: An object of the file.
    """
    kind = row.get("type")
    if isinstance(row.get("payload"), dict):
        return kind in _LINES
    is_head = kind is None and {"id", "timestamp"} <= row.keys()
    return is_head or "record_type" in row or (kind in _ITEMS and "sessionId" not in row)


class Reader:
    """Reads the lines of a file.

    Args:
        limits: What is left out.

    Attributes:
        transcripts: The sessions, in their order; a file has one, or several one after another.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.transcripts: list[Transcript] = []

    def add(self, line: int, row: Row) -> None:
        """Read a line.

        Args:
            line: Its number.
            row: What it holds.

        Raises:
            Unusable: It cannot be read.
        """
        kind, payload = row.get("type"), row.get("payload")
        if not isinstance(payload, dict):  # as until September 2025
            payload = row
            kind = "state" if "record_type" in row else "response_item" if kind else "session_meta"
        if kind == "session_meta":
            self._head(line, payload)
            return
        if not self.transcripts:
            self.transcripts.append(Transcript(AGENT, line, self._limits))
        transcript = self.transcripts[-1]
        if kind == "response_item":
            _item(transcript, line, payload)
            return
        transcript.ignore({"compacted": "summary"}.get(str(kind), str(kind)), line)
        if kind == "turn_context":
            transcript.note(models=payload.get("model"), cwd=payload.get("cwd"))
        elif payload.get("type") == "thread_rolled_back":
            _roll_back(transcript, payload.get("num_turns"))

    def _head(self, line: int, payload: Row) -> None:
        """The line with which a session begins; a fork repeats that of the session it is of."""
        about = self.transcripts[-1].about if self.transcripts else {}
        id_ = optional_text(payload, "id")
        if not self.transcripts or id_ not in (about.get("session"), about.get("forked_from")):
            self.transcripts.append(Transcript(AGENT, line, self._limits))
            git = payload.get("git")
            self.transcripts[-1].side_chain = "subagent" in (payload.get("source") or "")
            self.transcripts[-1].note(
                session=id_,
                forked_from=payload.get("forked_from_id"),
                version=payload.get("cli_version"),
                cwd=payload.get("cwd"),
                branch=git.get("branch") if isinstance(git, dict) else None,
                started=payload.get("timestamp"),
            )
        self.transcripts[-1].ignore("session_meta", line)


def _roll_back(transcript: Transcript, count: Any) -> None:
    """The user went back by some requests."""
    standing = [n for n, request in enumerate(transcript.requests) if not request.rewound]
    if isinstance(count, int) and count > 0:
        for number in standing[-count:]:
            transcript.requests[number].rewound = True


def _item(transcript: Transcript, line: int, item: Row) -> None:
    """Add an item: what the assistant does until a result comes is one turn."""
    id_, name = optional_text(item, "call_id"), optional_text(item, "name")
    match item.get("type"):
        case "message":
            _message(transcript, line, item)
        case "reasoning":
            _reasoning(transcript, line, item)
        case "function_call":
            turn = _turn(transcript, line)
            arguments = item.get("arguments") or "{}"
            transcript.call(turn, id_, name, arguments)
        case "custom_tool_call":
            arguments = {"input": item.get("input")}
            turn = _turn(transcript, line)
            transcript.call(turn, id_, name, arguments)
        case "local_shell_call":
            id_ = id_ or optional_text(item, "id")
            arguments = item.get("action") or {}
            transcript.call(_turn(transcript, line), id_, "local_shell", arguments)
        case "function_call_output" | "custom_tool_call_output":
            output = item.get("output")
            if isinstance(output, dict) and isinstance(output.get("content"), str):
                output = output["content"]
            transcript.result(id_, output, line)
        case kind:
            transcript.ignore(str(kind), line)


def _turn(transcript: Transcript, line: int) -> Row:
    """The assistant's turn that is being written."""
    last = transcript.last_turn
    if last is not None and last["role"] == "assistant":
        return last
    return transcript.add({"role": "assistant"}, line)


def _message(transcript: Transcript, line: int, item: Row) -> None:
    parts = parts_of(item.get("content"))
    match item.get("role"):
        case "assistant":
            text = transcript.text(list(parts), line)
            append_text(_turn(transcript, line), "content", text)
        case "user":
            said = [p for p in parts if not str(p.get("text", "")).lstrip().startswith(_META)]
            if len(said) < len(parts):
                transcript.ignore("meta", line)
            if not is_empty(said):
                transcript.ask(said, line)
        case "system" | "developer" if transcript.last_turn is None:
            text = transcript.text(list(parts), line)
            transcript.system = "\n\n".join(filter(None, [transcript.system, text]))
        case "system" | "developer":
            transcript.ignore("meta", line)
        case role:
            raise Unusable(f"unknown role {role!r:.80}")


def _reasoning(transcript: Transcript, line: int, item: Row) -> None:
    """Reasoning in full where it is there, else its summary; it may be encrypted."""
    last = transcript.last_turn
    is_next = last is not None and (last.get("content") or last.get("tool_calls"))
    text = transcript.text(item.get("content") or item.get("summary") or "", line)
    if not text:
        transcript.request(line).counts["hidden_reasoning"] += 1
        return
    turn = transcript.add({"role": "assistant"}, line) if is_next else _turn(transcript, line)
    append_text(turn, "reasoning", text)
