"""compose.combine with self_seq and with tasks of sequence that a model does."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.models import LanguageModel
from stages.compose.combine import combine
from stages.compose.combine.self_seq import EXAMPLES, KINDS, SelfSeq, new_instruction
from stages.compose.combine.sequence import SequenceMethod
from tests.support.rows import DATA, kept, self_instruct
from tests.support.scripted import Answer, Scripted, scripted

TINYLM = LanguageModel(model=str(DATA / "models/tinylm"))
POOL = self_instruct(40)
KIND, REWRITE = "split, prefix, suffix, keep.", "#New Instruction#"

Script = Callable[[str], Answer]


def writer(kind: Callable[[str], str]) -> Script:
    """Chooses the kind by the instruction, adds a song to it, and answers with its length."""

    def script(text: str) -> Answer:
        instruction = text.rpartition("\n\nInstruction: ")[2]
        if text.endswith(KIND):
            return kind(instruction.partition("\n\nWhich way is best")[0]), "stop"
        if REWRITE in text:
            return f"#Explanation#\nWhy not.\n\n{REWRITE}\n{instruction} Then sing.###", "stop"
        return f"It has {len(text)} characters.", "stop"

    return script


def written(
    tmp_path: Path, script: Script, method: Any, rows: pl.DataFrame = POOL, **options: Any
) -> tuple[pl.DataFrame, Scripted]:
    ctx = scripted(Context.scratch(tmp_path), script)
    frame = combine(ctx, rows, model=TINYLM, writer=TINYLM, method=method, **options)
    return frame, ctx.engine


def requests(rows: pl.DataFrame) -> dict[str, str]:
    return {row["id"]: row["messages"][0]["content"] for row in rows.to_dicts()}


def by_length(text: str) -> str:
    return KINDS[len(text) % 4]


@pytest.mark.parametrize("rounds", [1, 3])
def test_an_instruction_gets_a_task_in_each_round_until_it_is_kept(
    tmp_path: Path, rounds: int
) -> None:
    frame, engine = written(tmp_path, writer(by_length), SelfSeq(rounds=rounds))
    old = requests(POOL)
    assert Counter(ids[0] for ids in frame["parents"].to_list()) == dict.fromkeys(old, 1)
    for row in frame.to_dicts():
        text = old[row["parents"][0]]
        kinds: list[str] = []
        while len(kinds) < rounds and by_length(text) != "keep":
            kinds.append(by_length(text))
            text += " Then sing."
        assert row["messages"][0]["content"] == text
        assert row["kinds"] == kinds
        if not kinds:
            assert row["drop_reason"] == "sufficient"
            continue
        assert row["drop_reason"] is None
        assert row["messages"][1]["content"] == f"It has {len(text)} characters."
    assert 0 < frame["drop_reason"].null_count() < len(frame)
    rewritten = sum(map(len, frame["kinds"].to_list()))
    prompts = [request.prompt[-1][1] for call in engine.calls for request in call]
    assert sum(REWRITE in prompt for prompt in prompts) == rewritten


@pytest.mark.parametrize("kind", KINDS[:3])
def test_the_examples_are_those_of_the_kind_in_an_order_of_each_row(
    tmp_path: Path, kind: str
) -> None:
    _, engine = written(tmp_path, writer(lambda _: kind), SelfSeq())
    prompts = [r.prompt[-1][1] for call in engine.calls for r in call]
    rewriting = [prompt for prompt in prompts if REWRITE in prompt]
    places = [
        tuple(prompt.index(example["rewritten"]) for example in EXAMPLES[kind])
        for prompt in rewriting
    ]
    orders = {tuple(sorted(range(3), key=at.__getitem__)) for at in places}
    assert len(orders) == 6


def test_without_reasons_the_whole_response_is_the_instruction(tmp_path: Path) -> None:
    def brief(text: str) -> Answer:
        if "\nNew instruction: " in text:
            return "Here is the new instruction: Hum. Then sing.", "stop"
        return writer(lambda _: "split")(text)

    frame, _ = written(tmp_path, brief, SelfSeq(explain=False))
    assert {row[0]["content"] for row in kept(frame)["messages"]} == {"Hum. Then sing."}


def test_an_instruction_that_comes_back_as_it_was_is_no_sequence(tmp_path: Path) -> None:
    def echo(text: str) -> Answer:
        answer, reason = writer(lambda _: "prefix")(text)
        return answer.replace(" Then sing.", ""), reason

    frame, _ = written(tmp_path, echo, SelfSeq())
    assert {*frame["drop_reason"]} == {"unchanged"}


def test_what_cannot_be_read_is_dropped_and_never_kept(tmp_path: Path) -> None:
    frame, _ = written(tmp_path, writer(lambda _: "perhaps"), SelfSeq())
    assert {*frame["drop_reason"]} == {"unreadable"}

    def headless(text: str) -> Answer:
        answer, reason = writer(lambda _: "split")(text)
        return answer.replace(REWRITE, "Well:"), reason

    frame, _ = written(tmp_path, headless, SelfSeq())
    assert {*frame["drop_reason"]} == {"new_unparsed"}
    assert frame["evidence"].str.contains("Then sing").all()


def test_a_failed_request_fails_its_row_alone(tmp_path: Path) -> None:
    victim = POOL["messages"].to_list()[3][0]["content"]

    def broken(text: str) -> Answer:
        is_answer = text.startswith(victim) and text.endswith("Then sing.")
        return ("down", "error") if is_answer else writer(lambda _: "suffix")(text)

    frame, _ = written(tmp_path, broken, SelfSeq())
    assert frame["error"].drop_nulls().to_list() == ["down"]
    assert frame["drop_reason"].null_count() == len(frame)


@pytest.mark.parametrize("method", [SelfSeq(rounds=2), SequenceMethod(task="translate")])
def test_the_order_changes_nothing_and_the_budget_holds(tmp_path: Path, method: Any) -> None:
    script = writer(by_length)
    frame, _ = written(tmp_path, script, method, max_tokens=120)
    turned, _ = written(tmp_path, script, method, POOL.reverse(), max_tokens=120)
    assert_frame_equal(*(kept(rows).drop("origins").sort("id") for rows in (frame, turned)))
    assert frame.filter(drop_reason="over_budget").height
    assert kept(frame)["tokens"].max() <= 120  # type: ignore[operator]


def test_authors_instructions_are_read_out_of_their_responses(shared: Path) -> None:
    """All of the first round; in the second one of theirs is the whole response.

    Quotes around a whole instruction are left out by either side, there before it is answered.
    """
    rounds = []
    for number, same in ((1, 805), (2, 804)):
        data = (shared / f"references/seqeval_iteration_{number}.jsonl.gz").read_bytes()
        rows = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        read = [(new_instruction(row["full_response"]) or "").strip('"') for row in rows]
        published = [row["seq_instruction"].strip('"') for row in rows]
        assert sum(a == b for a, b in zip(read, published, strict=True)) == same
        rounds.append(rows)
    first, second = rounds
    assert [row["seq_instruction"] for row in first] == [row["ori_instruction"] for row in second]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#New Instruction#\nExplain C#", "Explain C#"),
        ("#New Instruction#\nExplain C####", "Explain C#"),
        ("**New instruction:** Sing.\n\n### Song\nLa", "Sing.\n\n### Song\nLa"),
        ("#New Instruction#\nOld\n#New Instruction#\nSing.\n#Explanation#\nFun.", "Sing."),
        ("A new instruction is hard to write.", None),
        ("#New Instruction#\n###", None),
        ("", None),
    ],
)
def test_the_new_instruction_is_what_stands_under_the_last_heading(
    text: str, expected: str | None
) -> None:
    assert new_instruction(text) == expected


@pytest.mark.parametrize(("task", "label"), [("paraphrase", "Paraphrase"), ("translate", "Transl")])
def test_what_a_model_makes_of_the_input_stands_before_the_answer(
    tmp_path: Path, task: Any, label: str
) -> None:
    def shouting(text: str) -> Answer:
        input = text.split("\n\n", 1)[1]
        return (input if input.isdigit() else input.swapcase() + "!"), "stop"

    method = SequenceMethod(task=task, language="Latin")
    frame, engine = written(tmp_path, shouting, method)
    assert ("Latin" in engine.calls[0][0].prompt[-1][1]) == (task == "translate")
    parts = {row["id"]: row for row in POOL.to_dicts()}
    rows = kept(frame).to_dicts()
    assert rows
    for row in rows:
        part = parts[row["parents"][0]]
        old = part["messages"][0]["content"]
        input = old[part["input_start"] :].strip()
        request, answer = (turn["content"] for turn in row["messages"])
        assert request[row["input_start"] :] == input
        assert answer.startswith(label)
        assert answer.endswith(
            f": {input.swapcase()}!\n\nResponse: {part['messages'][1]['content']}"
        )
    without = frame.filter(drop_reason="no_input")["parents"].explode()
    assert {*without} == {id_ for id_, row in parts.items() if row["input_start"] is None}


def test_an_input_that_comes_back_as_it_was_is_no_paraphrase(tmp_path: Path) -> None:
    frame, _ = written(
        tmp_path, lambda text: (text.split("\n\n", 1)[1], "stop"), SequenceMethod(task="paraphrase")
    )
    assert {*frame["drop_reason"]} == {"no_input", "unchanged"}
