"""No key reaches the disk, whatever a server's JSON does with it; and no number breaks a run."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Api, Completion, Decoding, Limits, Request
from pipeline.models.engines.registry import close_engines
from pipeline.models.http.redaction import LeakError, Redaction
from pipeline.models.journal.export import export, import_entries
from pipeline.models.journal.journal import NAME, Journal, JournalEntry
from pipeline.recipe.options import build_model
from tests.support.serving import FakeServer, fixed, http_response, listening, served

KEY = "sk-live/very+secret=0123456789"
DIGITS = "12345678901234567890"

Reply = dict[str, Any]


def reply(text: str = "sea", **more: Any) -> Reply:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}, **more}


def generate(folder: Path, body: str | bytes, count: int = 1, **more: Any) -> list[Completion]:
    raw = body.encode() if isinstance(body, str) else body
    with listening(FakeServer(fixed(http_response("200 OK", raw)))) as port:
        engine = Context.scratch(folder).open(served(port, limits=Limits(attempts=2), **more))
        requests = [Request((("user", f"Name {i} seas."),), Decoding()) for i in range(count)]
        try:
            return engine.generate(requests)
        finally:
            close_engines()


def carriers(key: str) -> dict[str, str]:
    """Bodies that carry a key past a redaction of their text or of their parsed value alone."""
    plain = json.dumps(reply())
    inside = json.dumps(key)
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in key)
    return {
        "a repeated name": f'{{"note": {inside}, "note": "x", {plain[1:]}',
        "a repeated name, escaped": f'{{"note": "{escaped}", "note": 1, {plain[1:]}',
        "an escaped slash": plain.replace("sea", key.replace("/", "\\/")),
        "escapes": plain.replace("sea", escaped),
        "a name": f'{{{inside}: 1, {plain[1:]}',
        "a name, escaped": f'{{"{escaped}": 1, {plain[1:]}',
        "white space": json.dumps(reply(key), indent=4),
        "deep": json.dumps(reply(note=[[{"a": {"b": [f"x{key}y"]}}]])),
    }  # fmt: skip


CASES = [(KEY, name, body) for name, body in carriers(KEY).items()] + [
    (DIGITS, "a number", json.dumps(reply(note=int(DIGITS)))),
    (DIGITS, "a part of a number", json.dumps(reply(note=int(f"7{DIGITS}7")))),
    (DIGITS, "a negative number", json.dumps(reply(note=-int(DIGITS)))),
    ("12345678.5", "a fraction", json.dumps(reply(note=12345678.5))),
    ("12345678.5", "zeros", json.dumps(reply()).replace('"usage"', '"n": 12345678.500, "usage"')),
    ('a", "b": "', "the JSON itself", json.dumps(reply(note={"x": "a", "b": "c"}))),
]  # fmt: skip


@pytest.mark.parametrize(("key", "name", "body"), CASES)
def test_no_spelling_carries_a_key_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, name: str, body: str
) -> None:
    monkeypatch.setenv("ODD_KEY", key)
    (answer,) = generate(tmp_path, body, api_key_env="ODD_KEY")
    assert key not in repr(answer)
    readable = key == 'a", "b": "'
    assert (answer.error is None) != readable, answer
    assert not leaks(tmp_path, key)
    journal = Journal(tmp_path / "store" / "journal")
    export(journal, tmp_path / "out.jsonl")
    assert not leaks(tmp_path, key)


def leaks(folder: Path, key: str) -> list[Path]:
    """Files that hold a key as it is, or as JSON spells it."""
    spellings = {key, json.dumps(key)[1:-1], key.replace("/", "\\/")}
    spellings.add("".join(f"\\u{ord(letter):04x}" for letter in key))
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [path for path, content in contents.items() for s in spellings if s.encode() in content]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=12)


@given(values, keys, st.data())
def test_whatever_holds_a_key_is_written_without_it(value: Any, key: str, data: Any) -> None:
    """The key is put anywhere: into texts, names or beside what is there already."""
    text = data.draw(st.sampled_from([key, f"a{key}", key * 2, f"{key}é"]))
    planted = data.draw(st.sampled_from([{text: value}, [value, text], {"a": {"b": [text]}}]))
    redaction = Redaction([key, "another-key-1234"])
    try:
        written, clean = redaction.json(planted)
    except LeakError:
        return
    assert key not in written
    assert json.dumps(key)[1:-1] not in written
    assert json.loads(written) == clean
    text = json.dumps(value, ensure_ascii=False)
    assert redaction.json(value)[1] == value or key in text or json.dumps(key)[1:-1] in text


def test_a_header_is_a_key_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE", f"Bearer {KEY}")
    api = Api(headers={"X-Gate": "GATE"})
    (answer,) = generate(tmp_path, json.dumps(reply(f"It is {KEY}.")), api=api)
    assert answer.text == "It is [key]."
    assert not leaks(tmp_path, KEY)


@pytest.mark.parametrize("value", ["", "short", "two\nlines"])
def test_a_header_of_which_the_value_is_missing_or_odd_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("GATE", value)
    with pytest.raises(UserError, match="environment variable GATE"):
        generate(tmp_path, json.dumps(reply()), api=Api(headers={"X-Gate": "GATE"}))


@pytest.mark.parametrize(
    ("api", "what"),
    [
        ({"headers": {"X-Key": KEY}}, "must be the NAME of an environment variable"),
        ({"headers": {"X Key": "GATE"}}, "must be named as HTTP allows it"),
        ({"extra_body": {"api_key": KEY}}, "must hold no key, got api_key"),
        ({"extra_body": {"a": [{"Authorization": KEY}]}}, "must hold no key, got Authorization"),
        ({"extra_body": {"messages": []}}, "must leave the request as it is"),
        ({"provider": "gemini", "version": "v1"}, "it is part of base_url"),
        ({"provider": "anthropic", "max_tokens_field": "max_tokens"}, "left out for anthropic"),
        ({"provider": "gemini", "chat_template_kwargs": {"a": 1}}, "left out for gemini"),
    ],
)
def test_a_section_api_that_cannot_be_is_refused_without_showing_a_key(
    api: dict[str, Any], what: str
) -> None:
    raw = {"engine": "openai", "model": "m", "base_url": "http://h/v1", "api": api}
    _, problems = build_model(raw, Path())
    assert what in " ".join(problem.what for problem in problems)
    assert KEY not in repr(problems)


# Numbers


@pytest.mark.parametrize(
    "usage",
    [
        '{"prompt_tokens": 1e400, "completion_tokens": 4}',
        '{"prompt_tokens": 3, "completion_tokens": -1e400}',
        '{"prompt_tokens": 3, "completion_tokens": NaN}',
        '{"prompt_tokens": -3, "completion_tokens": 4}',
        '{"prompt_tokens": 3, "completion_tokens": 100000000000000000000}',
        '{"prompt_tokens": "three", "completion_tokens": 4}',
        '{"prompt_tokens": [3], "completion_tokens": 4}',
        '{"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 1e30}',
    ],
)
def test_an_absurd_count_fails_the_row_and_not_the_run(tmp_path: Path, usage: str) -> None:
    body = json.dumps(reply()).replace('{"prompt_tokens": 3, "completion_tokens": 4}', usage)
    assert usage in body
    answers = generate(tmp_path, body, 20)
    assert all("cannot be right" in str(answer.error) for answer in answers)
    assert Journal(tmp_path / "store" / "journal").count() == 0


@pytest.mark.parametrize("number", ["NaN", "1e400", "2.5", '"-1"'])
def test_an_absurd_log_probability_fails_the_row(tmp_path: Path, number: str) -> None:
    body = reply()
    body["choices"][0]["logprobs"] = {"content": [{"token": "sea", "logprob": "HERE"}]}
    (answer,) = generate(tmp_path, json.dumps(body).replace('"HERE"', number))
    assert "cannot be right" in str(answer.error)


def test_an_alternative_without_probability_is_none(tmp_path: Path) -> None:
    body = reply()
    top = [{"token": "sea", "logprob": -0.1}, {"token": "x", "logprob": "HERE"}]
    body["choices"][0]["logprobs"] = {
        "content": [{"token": "sea", "logprob": -0.1, "top_logprobs": top}]
    }
    (answer,) = generate(tmp_path, json.dumps(body).replace('"HERE"', "-Infinity"))
    assert answer.error is None
    assert answer.logprobs[0].top == (("sea", -0.1),)
    (entry,) = Journal(tmp_path / "store" / "journal").entries()
    json.loads(entry.response, parse_constant=pytest.fail)


def test_a_number_beside_the_answer_costs_nothing(tmp_path: Path) -> None:
    body = json.dumps(reply()).replace('"usage"', '"load": 1e400, "temperature": NaN, "usage"')
    (answer,) = generate(tmp_path, body)
    assert answer.text == "sea"
    (entry,) = Journal(tmp_path / "store" / "journal").entries()
    stored = json.loads(entry.response, parse_constant=pytest.fail)
    assert stored["load"] is None


# Who may read it


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_journal_and_its_exports_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        journal = Journal(tmp_path / "journal")
        entry = JournalEntry("0" * 32, '{"model":{}}', reply())
        journal.put_many([entry])
        files = sorted((tmp_path / "journal").iterdir())
        assert [path.name for path in files] == [NAME, f"{NAME}-shm", f"{NAME}-wal"]
        assert [rights(path) for path in files] == [0o600] * 3
        for name in ("out.jsonl", "out.jsonl.gz"):
            export(journal, tmp_path / name)
            assert rights(tmp_path / name) == 0o600
    finally:
        os.umask(before)


def test_an_open_journal_of_an_earlier_version_is_closed_to_others(tmp_path: Path) -> None:
    Journal(tmp_path).put_many([JournalEntry("0" * 32, "{}", reply())])
    for path in tmp_path.iterdir():
        path.chmod(0o644)
    Journal(tmp_path)
    assert {rights(path) for path in tmp_path.iterdir()} == {0o600}


# What was sent


def test_a_journal_of_an_earlier_version_gets_the_column_of_what_was_sent(tmp_path: Path) -> None:
    entries = [JournalEntry(f"{i:032x}", "{}", reply(str(i))) for i in range(3)]
    Journal(tmp_path).put_many(entries[:2])
    with sqlite3.connect(tmp_path / NAME) as file:
        file.execute("ALTER TABLE responses DROP COLUMN sent")
        file.execute("ALTER TABLE responses DROP COLUMN checksum")
    file.close()
    journal = Journal(tmp_path)
    assert set(journal.get_many([entry.key for entry in entries])) == {e.key for e in entries[:2]}
    journal.put_many([entries[2]._replace(sent='{"seed":1}')])
    assert [entry.sent for entry in journal.entries()] == [None, None, '{"seed":1}']
    assert [entry.sound for entry in journal.entries()] == [None, None, True]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_what_was_sent_is_exported_and_imported(tmp_path: Path, suffix: str) -> None:
    requests = [f'{{"model":{{"a":{i}}}}}' for i in range(3)]
    keys = [blake2b(request.encode(), digest_size=16).hexdigest() for request in requests]
    sent = [None, '{"max_completion_tokens":4}', None]
    journal = Journal(tmp_path / "a")
    journal.put_many(
        JournalEntry(k, r, reply(), s) for k, r, s in zip(keys, requests, sent, strict=True)
    )
    path = tmp_path / f"out.{suffix}"
    export(journal, path)
    other = Journal(tmp_path / "b")
    assert import_entries(other, path) == (3, 0)
    assert {e.key: e.sent for e in other.entries()} == dict(zip(keys, sent, strict=True))
    export(other, tmp_path / f"again.{suffix}")
    assert (tmp_path / f"again.{suffix}").read_bytes() == path.read_bytes()


def test_what_was_sent_must_be_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"key": "0", "request": {"model": {}}, "response": {}, "sent": [1]}\n')
    with pytest.raises(UserError, match="not a journal entry"):
        import_entries(Journal(tmp_path), path)
