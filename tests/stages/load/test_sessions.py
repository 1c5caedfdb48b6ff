"""load.sessions: what is written as a session of either kind is read back, turn by turn."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import Exit
from pipeline.recipe.recipe import Recipe
from schemas.records import RECORD_COLUMNS, canonical_turns, record_id
from stages.load.sessions import sessions
from stages.tag.tools import tools
from tests.support.options import problems
from tests.support.rows import kept
from tests.support.running import artifact, run

SAMPLES = Path(__file__).parents[2] / "support/sessions"

Line = dict[str, Any]


def load(folder: Path, *contents: bytes | list[Any], **options: Any) -> pl.DataFrame:
    paths = []
    for number, content in enumerate(contents):
        path = folder / f"{number}/session.jsonl"  # all of one name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else lines(content))
        paths.append(str(path))
    options = {"source": "here", "license": "CC0-1.0"} | options
    frame = sessions(Context.scratch(folder), path=tuple(paths), **options)
    for row in frame.iter_rows(named=True):
        outcomes = [row["error"], row["drop_reason"], row["messages"] and not row["drop_reason"]]
        assert sum(map(bool, outcomes)) == 1
        assert (row["error"] is None) == (row["file"] is None) == (row["line"] is None)
        if row["messages"]:
            assert row["id"] == record_id(row["messages"])
            assert [o["license"] for o in row["origins"]][:1] == ["CC0-1.0"]
    return frame


def lines(rows: list[Any]) -> bytes:
    texts = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    return "".join(f"{text}\n" for text in texts).encode()


def conversations(frame: pl.DataFrame) -> list[list[Line]]:
    return [canonical_turns(messages) for messages in kept(frame)["messages"].to_list()]


def extras(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return [json.loads(extra) for extra in kept(frame)["extra"]]


# Sessions are planned as conversations and written as each program writes them.


def planned(rng: random.Random) -> list[Line]:
    """A conversation of requests, reasoning, parallel calls, results in order, and answers."""
    turns: list[Line] = []
    number = 0
    for request in range(rng.randint(1, 3)):
        turns.append({"role": "user", "content": f"Request {request} of {rng.random()}"})
        for step in range(rng.randint(0, 3)):
            ids = [f"c{number + i}" for i in range(rng.randint(1, 3))]
            number += len(ids)
            arguments = json.dumps({"path": f"f{number}.py", "naïve": "日本"}, ensure_ascii=False)
            turn: Line = {
                "role": "assistant",
                "tool_calls": [{"id": i, "name": "Read", "arguments": arguments} for i in ids],
            }
            turn |= {"content": f"Step {step}."} if rng.random() < 0.5 else {}
            turn |= {"reasoning": f"Why {step}?"} if rng.random() < 0.5 else {}
            turns.append(turn)
            for i in ids:
                content = f"Result {i}\nof two lines"
                turns.append(
                    {"role": "tool", "content": content, "tool_call_id": i, "name": "Read"}
                )
        turns.append({"role": "assistant", "content": f"Done {request}."})
        if rng.random() < 0.5:
            turns[-1]["reasoning"] = "So it is."
    return turns


def claude(rows: list[Line], session: str = "s1", **more: Any) -> list[Line]:
    """Lines as a chain: each is the child of the one before it."""
    written = []
    for number, row in enumerate(rows):
        parent = written[-1]["uuid"] if written else None
        base = {"parentUuid": parent, "isSidechain": False, "sessionId": session}
        uuid = f"{session}-{more.get('agentId', '')}{number}"
        written.append(base | {"uuid": uuid, "cwd": "/srv", "version": "2.0.76"} | more | row)
    return written


def said(text: Any) -> Line:
    return {"type": "user", "message": {"role": "user", "content": text}}


def answered(*blocks: Any, id: str = "m", **more: Any) -> Line:
    message = {"id": id, "role": "assistant", "model": "claude-x", "content": [*blocks]}
    return {"type": "assistant", "message": message, **more}


def text(value: str) -> Line:
    return {"type": "text", "text": value}


def use(id_: str, name: str = "Read") -> Line:
    return {"type": "tool_use", "id": id_, "name": name, "input": {"path": "a.py"}}


def result(id_: str, content: Any) -> Line:
    return {"type": "tool_result", "tool_use_id": id_, "content": content}


def as_claude(turns: list[Line], rng: random.Random) -> list[Line]:
    """A block a line; results may stand between the lines of a message."""
    rows: list[Line] = [{"type": "summary", "summary": "t", "leafUuid": "x"}]
    for number, turn in enumerate(turns):
        if turn["role"] == "tool":
            parts = rng.choice(
                [turn["content"], [text(line) for line in turn["content"].split("\n")]]
            )
            rows.append(said([result(turn["tool_call_id"], parts)]))
        elif turn["role"] == "user":
            rows.append(said(rng.choice([turn["content"], [text(turn["content"])]])))
        else:
            blocks = []
            if "reasoning" in turn:
                blocks.append({"type": "thinking", "thinking": turn["reasoning"], "signature": "x"})
            if "content" in turn:
                blocks.append(text(turn["content"]))
            for call in turn.get("tool_calls", ()):
                arguments = json.loads(call["arguments"])
                blocks.append(use(call["id"]) | {"input": arguments})
            if rng.random() < 0.3:  # the whole message at once
                rows.append(answered(*blocks, id=f"m{number}"))
            else:
                rows += [answered(block, id=f"m{number}") for block in blocks]
        if rng.random() < 0.2:
            rows.append({"type": "progress", "data": {}})
    return claude(rows)


def item(**payload: Any) -> Line:
    return {"timestamp": "2026-01-05T11:00:00Z", "type": "response_item", "payload": payload}


def head(id_: str = "s1", **more: Any) -> Line:
    return {"type": "session_meta", "payload": {"id": id_, "cli_version": "0.80.0", **more}}


def spoken_item(role: str, text: str) -> Line:
    kind = "output_text" if role == "assistant" else "input_text"
    return item(type="message", role=role, content=[{"type": kind, "text": text}])


def as_codex(turns: list[Line], rng: random.Random) -> list[Line]:
    rows = [head()]
    for turn in turns:
        if turn["role"] == "tool":
            id_, content = turn["tool_call_id"], turn["content"]
            output = rng.choice([content, {"content": content, "success": True}])
            rows.append(item(type="function_call_output", call_id=id_, output=output))
            continue
        if "reasoning" in turn:
            rows.append(
                item(
                    type="reasoning", summary=[{"type": "summary_text", "text": turn["reasoning"]}]
                )
            )
        if "content" in turn:
            rows.append(spoken_item(turn["role"], turn["content"]))
        rows += [
            item(type="function_call", name="Read", arguments=c["arguments"], call_id=c["id"])
            for c in turn.get("tool_calls", ())
        ]
        if rng.random() < 0.3:
            rows.append({"type": "event_msg", "payload": {"type": "token_count", "info": {}}})
    return rows


def as_old_codex(turns: list[Line], rng: random.Random) -> list[Line]:
    """As until September 2025: the items are the lines."""
    rows = [row["payload"] for row in as_codex(turns, rng) if row["type"] == "response_item"]
    first = {"id": "s1", "timestamp": "2025-07-01T00:00:00Z", "instructions": None}
    return [first, *rows, {"record_type": "state"}]


WRITERS: list[Callable[[list[Line], random.Random], list[Line]]] = [
    as_claude,
    as_codex,
    as_old_codex,
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("seed", range(12))
def test_what_was_written_is_read(write: Any, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    turns = planned(rng)
    rows = write(turns, rng)
    frame = load(tmp_path, rows)
    assert conversations(frame) == [canonical_turns(turns)]
    checked = tools(Context.__new__(Context), frame.select(list(RECORD_COLUMNS)))
    assert checked["tool_faults"].to_list() == [[]]
    # A row for each request: together they are the session.
    by_request = conversations(load(tmp_path, rows, unit="request"))
    assert [turn for each in by_request for turn in each] == canonical_turns(turns)
    assert all([t["role"] for t in each].count("user") == 1 for each in by_request)
    compressed = load(tmp_path, gzip.compress(lines(rows)))
    assert kept(compressed)["id"].to_list() == kept(frame)["id"].to_list()


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("seed", range(6))
def test_broken_lines_fail_alone(write: Any, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    rows: list[Any] = write(planned(rng), rng)
    at = rng.randrange(len(rows) + 1)
    broken = ["{", '{"type": "user"', "[]", '"text"', '{"unrelated": 1}', "\udcff", "[" * 99_999]
    for line in broken:
        content = lines([*rows[:at], "@", *rows[at:]])
        content = content.replace(b"@", line.encode("utf-8", "surrogateescape"), 1)
        frame = load(tmp_path, content)
        failed = frame.filter(pl.col("error").is_not_null())
        assert failed.select("file", "line").rows() == [("session.jsonl", at + 1)], line
        good = load(tmp_path, rows)
        assert conversations(frame) == conversations(good)
        assert extras(frame)[0].get("broken_lines", 0) <= 1


@pytest.mark.parametrize("seed", range(30))
def test_whatever_stands_in_a_line_every_position_has_one_outcome(
    seed: int, tmp_path: Path
) -> None:
    """Values anywhere in the lines are exchanged for others of another type."""
    rng = random.Random(seed)
    rows = rng.choice(WRITERS)(planned(rng), rng)
    for _ in range(3):
        _exchange(rng.choice(rows), rng)
    load(tmp_path, rows)  # the outcomes are counted there
    load(tmp_path, rows, unit="request", media="mark", side_chains="drop")


def _exchange(value: Any, rng: random.Random) -> None:
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(value[key], dict | list) or not value[key] or rng.random() < 0.3:
            value[key] = rng.choice([None, 3, "", "x", [], {}, [None], [{}], {"type": "image"}])
            return
        value = value[key]


def test_the_samples_of_both_kinds(tmp_path: Path) -> None:
    frame = load(tmp_path, *(path.read_bytes() for path in sorted(SAMPLES.glob("*.jsonl"))))
    assert [extra["agent"] for extra in extras(frame)] == ["claude-code", "codex"]
    one, two = extras(frame)
    assert one["ignored"] == {"summary": 1, "file-history-snapshot": 1, "meta": 1}
    assert two["ignored"] == {"session_meta": 1, "meta": 1, "event_msg": 2, "turn_context": 1}
    assert (one["models"], two["models"]) == (["claude-opus-4-5"], ["gpt-5-codex"])
    roles = [[turn["role"] for turn in turns] for turns in conversations(frame)]
    assert roles[0] == ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant",
                        "user", "assistant", "tool", "assistant"]  # fmt: skip
    assert roles[1][:2] == ["system", "user"]
    assert conversations(frame)[1][6]["tool_calls"][0]["arguments"] == (
        '{"input": "*** Begin Patch\\n*** End Patch"}'
    )
    # Two files of one name are two files; equal sessions are one record.
    frame = load(tmp_path, *[(SAMPLES / "codex.jsonl").read_bytes()] * 2)
    assert frame["drop_reason"].to_list() == [None, "duplicate"]
    assert len(frame["origins"][0]) == 2


def test_results_are_cut_and_the_text_says_how_much(tmp_path: Path) -> None:
    rows = claude(
        [said("Go."), answered(use("1"), use("2")), said([result("1", "abcdefgh")]),
         said([result("2", "abcd")])]
    )  # fmt: skip
    frame = load(tmp_path, rows, max_result_chars=5)
    contents = [turn["content"] for turn in conversations(frame)[0] if turn["role"] == "tool"]
    assert contents == ["abcde\n[3 more characters were cut]", "abcd"]
    assert (extras(frame)[0]["cut_results"], extras(frame)[0]["cut_characters"]) == (1, 3)
    assert "cut_results" not in extras(load(tmp_path, rows, max_result_chars=8))[0]
    long = claude([said("Go."), answered(use("1")), said([result("1", "x" * 20_000)])])
    assert len(load(tmp_path, long)["messages"][0][2]["content"]) < 10_100
    whole = load(tmp_path, long, max_result_chars=None)
    assert whole["messages"][0][2]["content"] == "x" * 20_000


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}


@pytest.mark.parametrize(
    "rows",
    [
        claude([said("A."), answered(text("B.")), said([text("C."), IMAGE])]),
        claude([said("A."), answered(text("B.")), said("C."), answered(use("1"), id="n"),
                said([result("1", [text("D."), IMAGE])])]),
        [head(), spoken_item("user", "A."), spoken_item("assistant", "B."),
         item(type="message", role="user", content=[{"type": "input_text", "text": "C."},
              {"type": "input_image", "image_url": "data:"}])],
    ],
)  # fmt: skip
def test_an_image_makes_its_row_fail_or_is_marked(rows: list[Line], tmp_path: Path) -> None:
    frame = load(tmp_path, rows)
    assert frame["error"].to_list() == ["a part of a content is no text (image)"]
    assert frame["line"].to_list() == [len(rows)]
    frame = load(tmp_path, rows, unit="request")
    assert [error is None for error in frame["error"]] == [True, False]
    frame = load(tmp_path, rows, media="mark")
    assert conversations(frame)[0][-1]["content"].endswith(".\n[image]")
    assert extras(frame)[0]["left_out"] == 1


def test_a_message_that_is_written_again_as_it_grows_is_one(tmp_path: Path) -> None:
    rows = claude(
        [said("Go."), answered(text("One.")), answered(text("One."), use("1")),
         said([result("1", "x")]), answered(text("One."), use("1"), use("2")),
         said([result("2", "y")])]
    )  # fmt: skip
    (turns,) = conversations(load(tmp_path, rows))
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "tool"]
    assert turns[1]["content"] == "One."
    assert [call["id"] for call in turns[1]["tool_calls"]] == ["1", "2"]
    # And so is a line that is there twice.
    again = load(tmp_path, [*rows, rows[-1]])
    assert conversations(again) == [turns]
    assert extras(again)[0]["ignored"] == {"repeated": 1}


def test_side_chains_are_sessions_of_their_own(tmp_path: Path) -> None:
    main = claude([said("A."), answered(text("B."))])
    inner = claude([said("C."), answered(text("D."), id="n")], isSidechain=True)
    inner = json.loads(json.dumps(inner).replace("s1-", "i-"))
    for chain in (inner, [row | {"agentId": "a1"} for row in inner]):
        mixed = [main[0], chain[0], main[1], chain[1]]
        for files in ([mixed], [main, chain]):
            frame = load(tmp_path, *files)
            texts = [[t["content"] for t in turns] for turns in conversations(frame)]
            assert texts == [["A.", "B."], ["C.", "D."]]
            assert [e.get("side_chain", False) for e in extras(frame)] == [False, True]
            frame = load(tmp_path, *files, side_chains="drop")
            assert frame["drop_reason"].to_list() == [None, "side_chain"]
    spawned = [head(source={"subagent": "review"}), spoken_item("user", "A.")]
    assert load(tmp_path, spawned, side_chains="drop")["drop_reason"].to_list() == ["side_chain"]


def test_what_the_user_took_back_is_not_in_the_session(tmp_path: Path) -> None:
    asked = [said("A."), said("Wrong."), said("C.")]
    answers = [answered(text(value), id=value) for value in ("B.", "No.", "D.")]
    rows = claude([row for pair in zip(asked, answers, strict=True) for row in pair])
    rows[4]["parentUuid"] = rows[1]["uuid"]
    rolled = [head(), *(spoken_item(*turn) for turn in (("user", "A."), ("assistant", "B."),
              ("user", "Wrong."), ("assistant", "No.")))]  # fmt: skip
    rolled.append({"type": "event_msg", "payload": {"type": "thread_rolled_back", "num_turns": 1}})
    rolled += [spoken_item("user", "C."), spoken_item("assistant", "D.")]
    for session in (rows, rolled):
        frame = load(tmp_path, session)
        assert [turn["content"] for turn in conversations(frame)[0]] == ["A.", "B.", "C.", "D."]
        assert extras(frame)[0]["rewound_turns"] == 2
        frame = load(tmp_path, session, unit="request")
        assert frame["drop_reason"].to_list() == [None, "rewound", None]
        assert json.loads(frame["evidence"][1])["session"] == "s1"
        assert [extra["request"] for extra in extras(frame)] == [1, 3]


def test_what_the_program_writes_is_a_request_only_where_it_is_answered(tmp_path: Path) -> None:
    command = said("<command-name>/review</command-name>")
    expanded = said([text("Review the changes.")]) | {"isMeta": True}
    interrupted = said([text("[Request interrupted by user]")])
    summary = said("This session is continued.") | {"isCompactSummary": True}
    rows = claude([command, expanded, answered(text("A."), id="1"), summary, said("B."), expanded,
                   answered(text("C."), id="2"), interrupted, expanded,
                   answered(text("D."), id="3")])  # fmt: skip
    (turns,) = conversations(load(tmp_path, rows))
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3
    assert turns[0]["content"].endswith("Review the changes.")
    assert turns[2]["content"] == "B."
    error = answered(text("API Error: 500"), id="4") | {"isApiErrorMessage": True}
    assert conversations(load(tmp_path, claude([said("A."), error]))) == [
        [{"role": "user", "content": "A."}]
    ]


def test_reasoning_in_full_its_summary_or_none(tmp_path: Path) -> None:
    summary = [{"type": "summary_text", "text": "Short"}]
    full = [{"type": "reasoning_text", "text": "Long"}]
    for parts, expected in (
        ({"summary": summary, "content": full}, "Long"),
        ({"summary": summary, "content": None}, "Short"),
        ({"summary": [], "encrypted_content": "gAAA"}, None),
    ):
        rows = [head(), spoken_item("user", "A."), item(type="reasoning", **parts)]
        frame = load(tmp_path, [*rows, spoken_item("assistant", "B.")])
        assert conversations(frame)[0][1].get("reasoning") == expected
        assert extras(frame)[0].get("hidden_reasoning", 0) == (expected is None)
    rows = claude([said("A."), answered({"type": "redacted_thinking", "data": "x"}, text("B."))])
    assert extras(load(tmp_path, rows))[0]["hidden_reasoning"] == 1


def test_local_shell_calls(tmp_path: Path) -> None:
    action = {"type": "exec", "command": ["ls", "-l"]}
    rows = [head(), spoken_item("user", "A."),
            item(type="local_shell_call", call_id="1", status="completed", action=action),
            item(type="function_call_output", call_id="1", output="a.py")]  # fmt: skip
    turns = conversations(load(tmp_path, rows))[0]
    assert json.loads(turns[1]["tool_calls"][0]["arguments"]) == action
    assert turns[2]["name"] == turns[1]["tool_calls"][0]["name"] == "local_shell"


def test_several_sessions_in_one_file(tmp_path: Path) -> None:
    first = claude([said("A."), answered(text("B."), id="1")], "s1")
    second = claude([said("C."), answered(text("D."), id="2")], "s2")
    codex = [head("s1"), spoken_item("user", "A."), head("s2"), spoken_item("user", "C.")]
    for rows in (first + second, codex):
        assert [extra["session"] for extra in extras(load(tmp_path, rows))] == ["s1", "s2"]
    fork = [head("s2", forked_from_id="s1"), head("s1"), spoken_item("user", "A.")]
    assert [extra["session"] for extra in extras(load(tmp_path, fork))] == ["s2"]


def test_a_session_without_a_request_is_dropped(tmp_path: Path) -> None:
    summary = {"type": "summary", "summary": "t", "leafUuid": "x"}
    frame = load(tmp_path, [summary], [head()], claude([answered(text("A."))]))
    assert frame["drop_reason"].to_list() == ["no_request"] * 3
    assert json.loads(frame["evidence"][1]) == {"session": "s1", "file": "session.jsonl", "line": 1}


def test_lone_surrogates_fail(tmp_path: Path) -> None:
    frame = load(tmp_path, b'{"type": "user", "sessionId": "s", "message": {"content": "\\ud800"}}')
    assert "surrogate" in frame["error"][0]


def test_a_call_whose_arguments_hide_one_fails_alone(tmp_path: Path) -> None:
    call = item(type="function_call", name="f", arguments=r'{"a": "\ud83d"}', call_id="1")
    rows = [head(), spoken_item("user", "q"), call, spoken_item("assistant", "a")]
    frame = load(tmp_path, rows)
    assert frame["error"].is_null().to_list() == [True, False]
    assert frame.filter(pl.col("error").is_not_null())["line"].item() == 3


def test_in_a_recipe_every_position_is_accounted_for(tmp_path: Path) -> None:
    rows = claude([said("A."), answered(use("1"), id="1"), answered(text("B."), id="2"),
                   said("C."), answered(text("D."), id="3"), said("E.")])  # fmt: skip
    rows[5]["parentUuid"] = rows[2]["uuid"]
    (tmp_path / "session.jsonl").write_bytes(lines([*rows, "{"]))
    options = {"path": str(tmp_path / "session.jsonl"), "unit": "request"}
    options |= {"source": "here", "license": "CC0-1.0"}
    stages = {
        "agents": {"uses": "load.sessions", "with": options},
        "checked": {"uses": "tag.tools", "needs": "agents", "with": {"decide": True}},
        "measured": {"uses": "tag.reasoning", "needs": "checked"},
    }
    recipe = Recipe.of("agents", stages, {})
    assert run(recipe, tmp_path / "store") is Exit.ROWS_FAILED
    counts = [artifact(recipe, tmp_path / "store", name).manifest["counts"] for name in stages]
    assert [(c["kept"], c["dropped"], c["failed"]) for c in counts] == [
        (2, {"rewound": 1}, 1),
        (1, {"unanswered_call": 1}, 0),
        (1, {}, 0),
    ]


def test_options(tmp_path: Path) -> None:
    here = {"source": "s", "license": "MIT"}
    good = str(SAMPLES / "codex.jsonl")
    assert problems("load.sessions", path=good, max_result_chars=None, **here) == []
    assert problems("load.sessions", path=good, max_result_chars=0, **here) != []
    assert problems("load.sessions", path=[], **here) != []
    (tmp_path / "empty.jsonl").touch()
    assert problems("load.sessions", path=[good, str(tmp_path / "empty.jsonl")], **here) == []
    (tmp_path / "rows.jsonl").write_text('{"instruction": "A", "output": "B"}\n')
    (problem,) = problems("load.sessions", path=str(tmp_path / "rows.jsonl"), **here)
    assert "no row of an agent's session" in str(problem)
