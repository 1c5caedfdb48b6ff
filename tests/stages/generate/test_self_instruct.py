"""Self-Instruct with a real small model, and its rules with scripted answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import copy
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from pipeline.models.journal.journal import Journal
from pipeline.models.local.chat_template import opened_user_turn, user_turn_stops
from schemas.records import record_id
from stages._text.rouge import rouge_l, tokenize
from stages.generate._parsing import lists
from stages.generate.self_instruct import self_instruct
from stages.generate.self_instruct.instance_options import Turns
from stages.generate.self_instruct.methods import SelfInstruct
from tests.support.chats import tokenizer
from tests.support.journals import max_answers
from tests.support.options import problems
from tests.support.rows import kept, seed_tasks
from tests.support.scripted import Answer, ScriptedContext, scripted

SMALL: dict[str, Any] = {
    "num_rows": 8,
    "max_requests": 4,
    "requests_per_round": 4,
    "license": "CC0-1.0",
    "method": SelfInstruct(
        max_tokens=64,
        temperature=1.0,
        top_p=0.9,
        presence_penalty=0.0,
        on_length="keep_complete",
        capitalize="first",
        instances=Turns(max_tokens=40),
    ),
}
MODEL = LanguageModel("scripted")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return seed_tasks(Context.scratch(tmp_path_factory.mktemp("seeds")))


@pytest.fixture(scope="module")
def run(
    seeds: pl.DataFrame, tinylm: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pl.DataFrame, Context]:
    ctx = Context.scratch(tmp_path_factory.mktemp("run"))
    return self_instruct(ctx, seeds, model=tinylm, **SMALL), ctx


def test_every_row_has_its_verdict_and_evidence(run: tuple[pl.DataFrame, Context]) -> None:
    rows, _ = run
    good, dropped = kept(rows), rows.filter(pl.col("drop_reason").is_not_null())
    assert len(good) >= 3
    assert len(good) + len(dropped) == len(rows)
    assert good["id"].is_unique().all()
    assert all(isinstance(json.loads(evidence), dict) for evidence in dropped["evidence"])
    for row in rows.iter_rows(named=True):
        assert row["id"] == record_id(row["messages"])
        assert len(row["parents"]) >= 6
        assert row["origins"][0]["license"] == "CC0-1.0"
    assert [o[0]["index"] for o in rows["origins"]] == list(range(len(rows)))


def test_novelty_is_true_and_the_similar_row_exists(
    run: tuple[pl.DataFrame, Context], seeds: pl.DataFrame
) -> None:
    rows, _ = run
    first = {r["id"]: _instruction(r) for r in [*rows.to_dicts(), *seeds.to_dicts()]}
    refused = rows.filter(pl.col("drop_reason") == "not_novel")
    for row in refused.iter_rows(named=True):
        evidence = json.loads(row["evidence"])
        other = first[evidence["duplicate_of"]]
        assert evidence["rouge_l"] == rouge_l(tokenize(_instruction(row)), tokenize(other)) > 0.7
    assert (kept(rows)["nearest_rouge_l"] <= 0.7).all()


def _instruction(row: dict[str, Any]) -> str:
    text = row["messages"][0]["content"]
    start = row["input_start"]
    return text if start is None else text[: start - 2]


def test_a_row_can_be_read_again_from_its_journal(run: tuple[pl.DataFrame, Context]) -> None:
    rows, ctx = run
    journal = Journal(ctx.store / "journal")
    for row in kept(rows).iter_rows(named=True):
        answers = journal.get_many(row["journal"])
        listed, turn, answer = (answers[key]["text"] for key in row["journal"])
        instruction = _instruction(row)
        items = [item[:1].upper() + item[1:] for item in lists.numbered_items(listed)]
        assert instruction in items
        input = lists.continued_turn(turn)
        user = f"{instruction}\n\n{input}" if input else instruction
        assert [m["content"] for m in row["messages"]] == [user, answer.strip()]


@pytest.mark.proof
def test_resumed_after_a_kill_it_repeats_no_request_and_ends_alike(
    run: tuple[pl.DataFrame, Context],
    seeds: pl.DataFrame,
    tinylm: LanguageModel,
    ctx: Context,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.models.engines import transformers as transformers_module

    send, sent = transformers_module._answer, [0]

    def killed_at_the_second(*args: Any) -> Any:
        sent[0] += 1
        if sent[0] == 2:
            raise KeyboardInterrupt
        return send(*args)

    with monkeypatch.context() as patch:
        patch.setattr(transformers_module, "_answer", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            self_instruct(ctx, seeds, model=tinylm, **SMALL)
    journal = Journal(ctx.store / "journal")
    before = journal.count()
    assert before > 0
    again = Context.scratch(ctx.store.parent)
    resumed = self_instruct(again, seeds, model=tinylm, **SMALL)
    rows, undisturbed = run
    assert resumed.equals(rows)
    assert again.counters["requests"] == undisturbed.counters["requests"] - before
    third = Context.scratch(ctx.store.parent)
    assert self_instruct(third, seeds, model=tinylm, **SMALL).equals(rows)
    assert third.counters["requests"] == 0
    assert max_answers(journal) == 1


def script(listing: Answer, examples: Answer, labels: Answer) -> Callable[[str], Answer]:
    """A model that always lists and answers the same, and calls "or not?" classification."""

    def answer(prompt: str) -> Answer:
        if prompt.endswith("Is it classification?"):
            return (" Yes" if "or not?" in prompt.splitlines()[-2] else " No"), "stop"
        if prompt.endswith("9."):
            return listing
        return labels if prompt.startswith("Each task asks for a label") else examples

    return answer


LIST = " name four kinds of Whales.\n10. Sort them by size.\n11. Is this about whales or not?\n"
MACHINE = {"Name four kinds of whales.", "Sort them by size.", "Is this about whales or not?"}
EXAMPLES = "Example 1\nInput: blue, grey\nOutput: grey, blue\n\nExample 2\nInput: a\nOutput: a\n"
LABELS = "Class label: whales\nA blue whale sings.\nClass label: other\nBread.\n"


def play(
    ctx: Context, seeds: pl.DataFrame, answer: Callable[[str], Answer], **options: Any
) -> tuple[pl.DataFrame, ScriptedContext]:
    context = scripted(ctx, answer)
    options = {"num_rows": 3, "max_requests": 2, "requests_per_round": 1} | options
    return self_instruct(context, seeds, model=MODEL, **options), context


def test_from_list_to_instances_as_in_the_paper(ctx: Context, seeds: pl.DataFrame) -> None:
    answer = script((LIST, "stop"), (EXAMPLES, "stop"), (LABELS, "stop"))
    rows, context = play(ctx, seeds, answer)
    conversations = {tuple(m["content"] for m in row) for row in kept(rows)["messages"]}
    assert conversations == {
        ("Name four kinds of whales.\n\nblue, grey", "grey, blue"),
        ("Sort them by size.\n\nblue, grey", "grey, blue"),
        ("Is this about whales or not?\n\nA blue whale sings.", "whales"),
        ("Is this about whales or not?\n\nBread.", "other"),
    }
    assert rows["drop_reason"].drop_nulls().to_list() == ["input_equals_output"] * 2
    assert (rows["journal"].list.len() == 3).all()
    lists, classify, *parts = context.engine.calls
    instances = [request for part in parts for request in part]
    assert lists[0].decoding.stop == ("\n\n", "\n16", "16.", "16 .")
    assert lists[0].prompt.count("\n") == 9  # a heading and eight demonstrations
    assert classify[0].prompt.count("Is it classification? ") == 12 + 19
    assert classify[0].prompt.count("Is it classification? Yes") == 12
    assert classify[0].decoding.max_tokens == 3
    assert [r.decoding.max_tokens for r in instances] == [350, 350, 300]
    assert [r.prompt.count("\nTask: ") for r in instances] == [12, 12, 17]


def test_tasks_are_finished_in_an_open_turn_by_all_that_ends_it(
    ctx: Context, seeds: pl.DataFrame
) -> None:
    context = scripted(ctx, script((LIST, "stop"), (" Its keel.", "stop"), ("", "stop")))
    context.engine.tokenizer = copy(tokenizer("tinylm"))
    options = SMALL | {"max_requests": 1}
    self_instruct(context, seeds, model=MODEL, **options)
    request = context.engine.calls[1][0]
    assert str(request.prompt).startswith(opened_user_turn(context.engine.tokenizer, ()))
    assert request.decoding.stop == user_turn_stops(tokenizer("tinylm"))
    context.engine.tokenizer.chat_template = "{{ messages[-1]['content'][:3] }}"
    rows = self_instruct(context, seeds, model=MODEL, **options)
    assert rows["error"].str.contains("where a user's words begin").sum() == 3


def test_an_open_turn_needs_the_template_at_hand() -> None:
    served = LanguageModel("gpt", engine="openai", base_url="http://localhost:8000/v1")
    method = {"name": "self-instruct", "instances": {"name": "turns"}}
    (mistake,) = problems("generate.self_instruct", served, num_rows=9, method=method)
    assert mistake.startswith("model must be one whose chat template is at hand, got gpt")
    assert problems("generate.self_instruct", served, num_rows=9) == []


def test_prompts_list_two_machine_instructions_as_soon_as_there_are_any(
    ctx: Context, seeds: pl.DataFrame
) -> None:
    answer = script((LIST, "stop"), (EXAMPLES, "stop"), (LABELS, "stop"))
    rows, context = play(ctx, seeds, answer, num_rows=9, max_requests=3)
    prompts = [asked[0].prompt for asked in context.engine.calls[:3]]
    shown = [sum(line.split(". ", 1)[-1] in MACHINE for line in p.splitlines()) for p in prompts]
    assert shown == [0, 2, 2]
    parents = kept(rows)["parents"].list.len()
    assert set(parents) == {8}
    assert rows["drop_reason"].value_counts().filter(pl.col("drop_reason") == "not_novel")[
        "count"
    ].to_list() == [6]


def test_an_unfinished_list_is_dropped_or_loses_its_last_item(
    ctx: Context, seeds: pl.DataFrame
) -> None:
    answer = script((LIST, "length"), (EXAMPLES, "stop"), (LABELS, "stop"))
    rows, _ = play(ctx, seeds, answer, max_requests=1)
    assert rows["drop_reason"].to_list() == ["response_cut"]
    lenient = SelfInstruct(on_length="keep_complete")
    rows, _ = play(ctx, seeds, answer, max_requests=1, method=lenient)
    assert rows["drop_reason"].to_list().count("response_cut") == 1
    assert len(kept(rows)) == 2


def test_a_failed_request_fails_its_row_alone(ctx: Context, seeds: pl.DataFrame) -> None:
    answer = script((LIST, "stop"), ("too long", "error"), (LABELS, "stop"))
    rows, _ = play(ctx, seeds, answer)
    assert rows["error"].to_list() == ["too long", "too long", None, None]
    assert rows["drop_reason"].null_count() == 4
    rows, _ = play(ctx, seeds, script(("", "stop"), ("", "stop"), ("", "stop")), max_requests=1)
    assert rows["drop_reason"].to_list() == ["nothing_parsed"]


def test_a_shortage_says_why(
    ctx: Context, seeds: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    play(ctx, seeds, script((LIST, "length"), ("", "stop"), ("", "stop")))
    assert "0 of 3 instructions" in caplog.text
    assert "response_cut 2" in caplog.text


def test_surplus_instances_are_dropped_at_random_and_by_seed(
    ctx: Context, seeds: pl.DataFrame
) -> None:
    many = "".join(f"Class label: {n}\nnumber {n}\n" for n in range(9))
    answer = script((LIST, "stop"), ("nothing", "stop"), (many, "stop"))
    rows, _ = play(ctx, seeds, answer)
    reasons = rows["drop_reason"].to_list()
    assert (reasons.count(None), reasons.count("over_max_instances")) == (5, 4)
    assert reasons.count("no_instances") == 2


def test_seeds_that_do_not_suffice_are_an_error(ctx: Context, seeds: pl.DataFrame) -> None:
    answer = script((LIST, "stop"), ("", "stop"), ("", "stop"))
    with pytest.raises(UserError, match="at least 8 usable instructions, got 3"):
        play(ctx, seeds.head(3), answer)
    with pytest.raises(UserError, match="what is classification and what is not"):
        play(ctx, seeds.with_columns(extra=pl.lit("{}")), answer)
