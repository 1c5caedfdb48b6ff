"""Planted keys are found wherever a row has text, and ordinary rows hold none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

from pipeline.stage import ROOT
from schemas.records import RECORD_COLUMNS
from stages._privacy import keys
from stages._privacy.keys import find_secrets
from stages._privacy.scan import KINDS, PERSONAL, masked, scan
from tests.support.planted import HARMLESS, planted_keys
from tests.support.planted import PERSONAL as DATA
from tests.support.rows import sample

FIELDS = ("system", "content", "reasoning", "arguments", "result", "name", "tools", "extra")


def row(field: str, text: str) -> dict[str, Any]:
    """A conversation that holds a text in one field."""

    def here(name: str, otherwise: str = "plain") -> str:
        return text if name == field else otherwise

    call = {"id": "1", "name": "look_up", "arguments": json.dumps({"q": [here("arguments")]})}
    messages = [
        {"role": "system", "content": here("system")},
        {"role": "user", "content": here("content"), "name": here("name", "ada")},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": here("result"), "tool_call_id": "1"},
        {"role": "assistant", "content": "Done.", "reasoning": here("reasoning")},
    ]
    tools = json.dumps([{"type": "function", "function": {"description": here("tools")}}])
    extra = json.dumps({"note": {"deep": here("extra")}})
    return {"id": field, "messages": messages, "tools": tools, "extra": extra}


def frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=RECORD_COLUMNS)


@pytest.mark.parametrize("seed", range(3))
def test_every_planted_key_is_found_in_every_field(seed: int) -> None:
    planted = planted_keys(seed)
    rows = [
        row(field, f"This is how I call it:\n{text}\nThanks.")
        for text, _ in planted.values()
        for field in FIELDS
    ]
    findings = scan(frame(rows), ["key"])
    names = [(name, field) for name in planted for field in FIELDS]
    missed = [names[i] for i in sorted({*range(len(rows))} - {*findings["row"]})]
    print(f"planted keys found: {len(rows) - len(missed)} of {len(rows)}")
    assert not missed
    fields = {"system": "content", "result": "content", "arguments": "tool_calls.arguments"}
    for position, place in findings.select("row", "place").iter_rows():
        field = names[position][1]
        assert place in (f"messages.{fields.get(field, field)}", field)
    for _, secret in planted.values():
        assert secret not in masked(secret)


def test_one_detector_alone_misses_some() -> None:
    texts = pl.Series([f"It is\n{text}\n." for text, _ in planted_keys(0).values()])
    by_betterleaks = {i for i, text in enumerate(texts) if [*keys._by_betterleaks(i, text)]}
    by_detect_secrets = {i for i, text in enumerate(texts) if [*keys._by_detect_secrets(i, text)]}
    print(len(by_betterleaks), len(by_detect_secrets), "of", len(texts))
    assert by_betterleaks | by_detect_secrets == {*range(len(texts))}
    assert max(len(by_betterleaks), len(by_detect_secrets)) < len(texts)


@pytest.mark.parametrize(
    "hiding",
    [
        "{} # gitleaks:allow",
        "{} # pragma: allowlist secret",
        "before\0 {}",
        "Client({}, timeout=3)",
        "client = Client('{}')",
        "| {} |",
        "\u200b{}\u200b",
        "键{}值",
    ],
)
def test_what_stands_around_a_key_does_not_hide_it(hiding: str) -> None:
    texts = [hiding.format(key) for key in (planted_keys(4)[n][1] for n in ("github", "stripe"))]
    assert [secret.text for secret in find_secrets(pl.Series(texts))] == [0, 1]


def test_the_filter_before_detect_secrets_loses_nothing() -> None:
    """The same as running every plugin over every text."""
    texts = pl.Series([text for seed in range(5) for text, _ in planted_keys(seed).values()])
    pool = sample("self_instruct.jsonl.gz")["messages"].explode().struct.field("content")
    texts = pl.concat([texts, pool.drop_nulls().head(1500)])
    suspicious = {*texts.str.contains(keys._prefilter()).arg_true()}
    slow = {i for i, text in enumerate(texts) if [*keys._by_detect_secrets(i, text)]}
    assert slow <= suspicious
    assert len(suspicious) < len(slow) + 50


def test_a_rows_findings_do_not_depend_on_other_rows() -> None:
    rows = frame([row("content", text) for text, _ in planted_keys(6).values()])
    whole = scan(rows, KINDS, ("US",))
    alone = [scan(rows[i : i + 1], KINDS, ("US",)) for i in range(len(rows))]
    for i, part in enumerate(alone):
        same = whole.filter(pl.col("row") == i).drop("row")
        assert same.equals(part.drop("row"))


@pytest.mark.parametrize("kind", PERSONAL)
def test_personal_data_is_found_by_what_can_be_verified(kind: str) -> None:
    texts = [f"Please note {value}, as agreed." for value in DATA[kind]]
    findings = scan(frame([row("content", text) for text in texts]), PERSONAL, ("US",))
    assert findings.select("row", "kind", "value").rows() == [
        (i, kind, value) for i, value in enumerate(DATA[kind])
    ]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_is_none(text: str) -> None:
    kinds = [kind for kind in KINDS if kind != "password"]
    assert scan(frame([row("content", text)]), kinds, ("US",)).is_empty()


def test_few_real_rows_hold_anything() -> None:
    rows = sample("self_instruct.jsonl.gz")
    findings = scan(rows, KINDS, ("US",))
    counts = dict(findings["kind"].value_counts().sort("kind").iter_rows())
    print(f"{len(rows):,} real rows: {counts}")
    assert "key" not in counts
    assert findings["row"].n_unique() < len(rows) / 200


SHARED = ROOT.parent / "shared/data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
@pytest.mark.parametrize(
    "name", ["pools/code_alpaca_2k.json.gz", "pools/gpteacher_codegen.json.gz"]
)
def test_lessons_about_code_hold_no_key(name: str) -> None:
    import gzip

    raw = json.loads(gzip.decompress((SHARED / name).read_bytes()))
    texts = ["\n".join(map(str, fields.values())) for fields in raw]
    findings = scan(pl.DataFrame({"text": texts}), KINDS, ("US",))
    counts = dict(findings["kind"].value_counts().sort("kind").iter_rows())
    print(f"{len(texts):,} rows of {name}: {counts}")
    assert "key" not in counts
    assert findings["row"].n_unique() < len(texts) / 100
