"""Sessions of coding agents as conversations: requests, reasoning, tool calls and their results.

Two kinds of files are read, recognized by their lines: Claude Code's (`_sessions/`) and those of
OpenAI's Codex CLI. Both write JSON lines while they work; of these the turns of the user and
the model are taken, and what the programs write beside them is counted.
The tools are not defined in the files, so `tools` is null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from types import ModuleType, SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import InputFiles, Records, stage
from pipeline.types import Count
from schemas.records import RECORD_COLUMNS, record_id
from stages._common.verdicts import evidence_json
from stages.load._chat.turns import Row, Unusable
from stages.load._files.json_lines import Position
from stages.load._rows.accepted import accept, read_accepted
from stages.load._rows.merging import merge_duplicates
from stages.load._rows.output import (
    SURROGATE,
    TOO_DEEP,
    VERDICT,
    OutputRow,
    check_file,
    existing_files,
    extra_json,
    read_files,
    to_frames,
)
from stages.load._sessions import claude_code, codex
from stages.load._sessions.transcript import Limits, Request, Transcript

Unit = Literal["session", "request"]

_KINDS: Final = (claude_code, codex)
_SCHEMA: Final[dict[Any, Any]] = {**RECORD_COLUMNS, **VERDICT}
_COLUMNS: Final[dict[Any, Any]] = {
    name: _SCHEMA[name] for name in ("id", "messages", "extra", "error", "file", "line")
} | {"drop_reason": pl.String(), "evidence": pl.String()}
_UNKNOWN: Final = "no line of a session that is known (Claude Code or Codex)"


def _check(options: SimpleNamespace) -> None:
    """Whether each file can be read and its first megabyte holds a line of a session."""
    if not options.path:
        raise OptionError(
            "path", "must be at least one file, got none", hint="path: FILE, a list, or a pattern"
        )
    for path in existing_files(options.path):
        if path.stat().st_size:
            check_file(
                path,
                lambda *_: "jsonl",
                lambda row: isinstance(row, dict) and _kind_of(row) is not None,
                "of an agent's session",
                "name the sessions of Claude Code (~/.claude/projects/*/*.jsonl) or Codex "
                "(~/.codex/sessions/**/rollout-*.jsonl); other conversations: load.records",
            )
    read_accepted(options.accepted)


def _kind_of(row: Row) -> ModuleType | None:
    return next((kind for kind in _KINDS if kind.is_line(row)), None)


@stage(version=2, scope="set", check=_check)
def sessions(
    ctx: Context,
    *,
    path: InputFiles,
    unit: Unit = "session",
    max_result_chars: Count | None = 10_000,
    side_chains: Literal["keep", "drop"] = "keep",
    media: Literal["fail", "mark"] = "fail",
    accepted: InputFiles = (),
    source: str,
    license: str,
) -> Records:
    """Load what coding agents wrote of their sessions.

    A position is a session (one in each file, as a rule), or a request of the user in it with
    all that follows until the next; a side chain, what another agent did within the session,
    is a session of its own. The lines of one message of the assistant are one turn, with its
    reasoning and its calls; reasoning that is encrypted is not there. Summaries, settings and
    what the programs write in the user's name (environment, output of local commands) are no
    turns.

    `extra` has `agent`, `session`, `models`, `cwd`, `branch`, `version`, `started`, with a unit
    of requests its number (`request`), `side_chain` for one, and what is not in the messages:
    `ignored` (lines, by kind), `cut_results` and `cut_characters`, `left_out` (parts that are
    no text), `hidden_reasoning`, `rewound_turns` (taken back by the user), `broken_lines`.

    A line that cannot be read has failed, with `error`, `file` and `line`; its session goes on
    without it. Dropped are `rewound` requests, to before which the user went back; `side_chain`
    by option; what has no turn of a user (`no_request`); and equal ones as `duplicate`.

    Args:
        path: Files; gzip and zstandard are recognized by content.
        unit: What a row is: a session, or a request in it (without those before it).
        max_result_chars: The length in characters at which the result of a tool is cut; its
            text then says how much was. null never cuts.
        side_chains: Whether side chains are rows or dropped.
        media: What an image, or another part that is no text, does: its row has failed, or
            the text has a mark `[image]` in its place.
        accepted: Failed rows that are accepted, as `gristmill cat RECIPE STAGE --failed -o
            FILE.jsonl` writes them: file, line and error.
        source: Where the rows come from; it stands in `origins`.
        license: On what terms they come; it stands in `origins`.

    Raises:
        UserError: A file cannot be read at all.

    Example:
        ```yaml
        agents:
          uses: load.sessions
          with: {path: sessions/*.jsonl, unit: request, source: agents, license: CC0-1.0}
        ```

        >>> import json
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> call = {"type": "tool_use", "id": "1", "name": "Bash", "input": {"command": "ls"}}
        >>> result = {"type": "tool_result", "tool_use_id": "1", "content": "a.py"}
        >>> turns = [("user", "List."), ("assistant", [call]), ("user", [result])]
        >>> lines = [{"type": r, "sessionId": "s", "message": {"content": c}} for r, c in turns]
        >>> file = Path(mkdtemp()) / "session.jsonl"
        >>> size = file.write_text("\\n".join(map(json.dumps, lines)))
        >>> ctx = Context.scratch(file.parent)
        >>> rows = sessions(ctx, path=(str(file),), source="here", license="CC0-1.0")
        >>> [(turn["role"], turn["content"]) for turn in rows["messages"][0]]
        [('user', 'List.'), ('assistant', None), ('tool', 'a.py')]
    """
    limits = Limits(max_result_chars, media == "mark")
    positions = read_files(ctx, existing_files(path), lambda *_: "jsonl")
    rows = chain.from_iterable(
        _rows_of_file(file, lines, limits, unit, side_chains == "keep")
        for file, lines in _by_file(positions)
    )
    frames = to_frames(rows, _build, _size)
    frame = pl.concat(merge_duplicates(frames, source, license, ctx.work))
    return accept(frame, read_accepted(accepted)).select(list(_SCHEMA)).cast(_SCHEMA)


def _by_file(
    positions: Iterable[tuple[str, Position]],
) -> Iterator[tuple[str, list[Position]]]:
    """The lines of each file; two files may have one name, and then the lines begin anew."""
    name, lines = "", list[Position]()
    for file, position in positions:
        if lines and (file != name or position[0] < lines[-1][0] or position[0] == 1):
            yield name, lines
            lines = []
        name = file
        lines.append(position)
    if lines:
        yield name, lines


def _rows_of_file(
    file: str, lines: Sequence[Position], limits: Limits, unit: Unit, keep_side_chains: bool
) -> list[OutputRow]:
    """The rows of a file by the lines at which they begin."""
    kind = next((k for _, row, _ in lines if isinstance(row, dict) and (k := _kind_of(row))), None)
    reader = kind.Reader(limits) if kind else None
    rows: list[OutputRow] = []
    for line, row, error in lines:
        if error is None:
            try:
                if not isinstance(row, dict) or reader is None or _kind_of(row) is not kind:
                    raise Unusable(_UNKNOWN)
                reader.add(line, row)
                continue
            except Unusable as reason:
                error = str(reason)
            except RecursionError:
                error = TOO_DEEP
        rows.append(_failed(error, file, line))
        if reader and reader.transcripts:
            reader.transcripts[-1].request(line).counts["broken_lines"] += 1
    for transcript in reader.transcripts if reader else ():
        rows += _rows_of(transcript, file, unit, keep_side_chains)
    return sorted(rows, key=lambda row: row[_LINE])


_LINE: Final = -1
"""Where in a row its first line stands, by which the rows of a file are in order."""


def _rows_of(
    transcript: Transcript, file: str, unit: Unit, keep_side_chains: bool
) -> Iterator[OutputRow]:
    """The rows of a session: one, or one for each request."""
    requests = transcript.requests
    parts = [[request] for request in requests] if unit == "request" else [requests]
    for number, part in enumerate(parts, 1):
        standing = [request for request in part if not request.rewound]
        line = part[0].line if part and unit == "request" else transcript.line
        messages = transcript.messages(standing)
        reason = None
        if part and not standing:
            reason = "rewound"
        elif transcript.side_chain and not keep_side_chains:
            reason = "side_chain"
        elif not any(turn["role"] == "user" for turn in messages):
            reason = "no_request"
        if reason:
            evidence = {"session": transcript.about.get("session"), "file": file, "line": line}
            yield (None, None, None, None, None, None, reason, evidence_json(evidence), line)
            continue
        error = next((request.error for request in standing if request.error), None)
        if error:
            yield _failed(error[1], file, error[0])
            continue
        yield _row(messages, _extra(transcript, part, number, unit), file, line)


def _row(messages: list[Row], extra: Row, file: str, line: int) -> OutputRow:
    try:
        id_ = record_id(messages)
        return (id_, messages, extra_json(extra), None, None, None, None, None, line)
    except UnicodeEncodeError:
        return _failed(SURROGATE, file, line)


def _failed(error: str, file: str, line: int) -> OutputRow:
    return (None, None, None, error, file, line, None, None, line)


def _extra(transcript: Transcript, part: Sequence[Request], number: int, unit: Unit) -> Row:
    """What is known of the session, and what of it is not in the messages."""
    extra: Row = {"agent": transcript.agent, **transcript.about}
    if transcript.side_chain:
        extra["side_chain"] = True
    if unit == "request":
        extra["request"] = number
    counts, ignored = Counter[str](), Counter[str]()
    for request in part:
        ignored += request.ignored
        if request.rewound:
            counts["rewound_turns"] += len(request.turns)
        else:
            counts += request.counts
    return extra | dict(counts) | ({"ignored": dict(ignored)} if ignored else {})


def _build(batch: list[OutputRow]) -> pl.DataFrame:
    frame = pl.DataFrame([row[:_LINE] for row in batch], schema=_COLUMNS, orient="row")
    no_parents = pl.when(pl.col("id").is_not_null()).then(pl.lit([], dtype=pl.List(pl.String)))
    return frame.with_columns(
        no_parents.alias("parents"),
        pl.lit(None, pl.String).alias("tools"),
        pl.lit(None, pl.Int32).alias("input_start"),
    )


def _size(row: OutputRow) -> int:
    """Characters of the contents of a row."""
    return sum(len(turn["content"] or "") for turn in row[1] or ())
