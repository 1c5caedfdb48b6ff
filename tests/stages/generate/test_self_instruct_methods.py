"""Self-Instruct and its successors, method by method: prompts, filters, stop rules, columns."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel, Request
from pipeline.recipe.recipe import Recipe
from schemas.records import RECORD_COLUMNS, record_id
from stages.generate._parsing.lists import KEYWORDS, without_mark
from stages.generate.self_instruct import added_columns, self_instruct
from stages.generate.self_instruct.instance_options import Answered, ZeroShotAnswered
from stages.generate.self_instruct.methods import (
    Alpaca,
    AlpaCare,
    BioInstruct,
    EnsembleInstruct,
    LaMini,
    Method,
    SelfGuide,
    SelfInstruct,
    SelfSpecialization,
    Unnatural,
)
from stages.generate.taxonomy.axes import TOPICS
from stages.load.records import records
from tests.conftest import ROOT
from tests.support.options import problems
from tests.support.rows import json_lines, seed_tasks
from tests.support.scripted import Answer, Scripted, scripted

MODEL = LanguageModel("scripted")


METHODS: list[Method] = [
    *(SelfInstruct(), Alpaca(), Unnatural(), EnsembleInstruct(inputs="with"), LaMini()),
    *(SelfGuide(), SelfSpecialization(), BioInstruct(), AlpaCare()),
]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return seed_tasks(Context.scratch(tmp_path_factory.mktemp("seeds")))


def tasks(*rows_of_text: tuple[str, str, str], **extra: Any) -> pl.DataFrame:
    """Seeds out of (instruction, input, output)."""
    rows = []
    for instruction, text, output in rows_of_text:
        user = f"{instruction}\n\n{text}" if text else instruction
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": output}]
        start = len(instruction) + 2 if text else None
        row = {"id": record_id(messages), "messages": messages, "input_start": start}
        rows.append({**row, "extra": json.dumps(extra)})
    columns = {n: t for n, t in RECORD_COLUMNS.items() if n in rows[0]}
    return pl.DataFrame(rows, schema=columns).sort("id")


def play(
    ctx: Context,
    seeds: pl.DataFrame,
    script: Callable[[str], Answer],
    method: Method,
    **options: Any,
) -> tuple[pl.DataFrame, Scripted]:
    context = scripted(ctx, script)
    options = {"num_rows": 99, "max_requests": 1, "requests_per_round": 1} | options
    return self_instruct(context, seeds, model=MODEL, method=method, **options), context.engine


def kept(rows: pl.DataFrame) -> list[tuple[str, ...]]:
    good = rows.filter(pl.col("drop_reason").is_null() & pl.col("error").is_null())
    return [tuple(m["content"] for m in messages) for messages in good["messages"]]


def text_of(request: Request) -> str:
    return request.prompt if isinstance(request.prompt, str) else request.prompt[-1][1]


WRITTEN = """ Name four great whales.
4. Input: <noinput>
4. Output: Blue, grey, minke, sperm.
###
5. Instruction: Sort these numbers upwards:
5. Input:
3, 1,
2
5. Output: 1, 2, 3
###
6. Instruction: Say why the sea is salt.
6. Output: Rivers bring it.
###
7. Instruction: Cut a video of the sea.
7. Input: <noinput>
7. Output: I cannot.
###
8. Instruction: Write a poem on salt.
8. Input: <NoInput>
8. Output:
###
9. Instruction: Name four great whales now.
9. Input: <noinput>
9. Output: No.
###
10. Instruction: Half a ta"""


def test_alpaca_has_whole_tasks_written_after_three_seeds(
    ctx: Context, seeds: pl.DataFrame
) -> None:
    rows, engine = play(
        ctx, seeds, lambda _: (WRITTEN, "length"), Alpaca(), num_rows=5, max_requests=2
    )
    assert kept(rows) == [
        ("Name four great whales.", "Blue, grey, minke, sperm."),
        ("Sort these numbers upwards:\n\n3, 1,\n2", "1, 2, 3"),
    ]
    assert Counter(rows["drop_reason"]) == {
        **{None: 2, "fields_missing": 2, "banned_keyword": 2, "empty_output": 1},
        **{"not_novel": 5, "response_cut": 2},
    }
    first, second = (asked[0] for asked in engine.calls)
    assert (first.decoding.temperature, first.decoding.top_p) == (1.0, 1.0)
    assert first.decoding.max_tokens == 3072
    assert first.decoding.stop == ("\n20.", "\n20 .")
    for request in (first, second):
        prompt = text_of(request)
        assert "What follows are 19 tasks" in prompt
        assert prompt.endswith("###\n4. Instruction:")
        assert prompt.count("\n###\n") == 4
        assert "whales" not in prompt, "no machine tasks are shown"
    assert set(rows["parents"].list.len()) == {3}
    assert len(engine.calls) == 2, "a complete task needs no further request"


def test_a_chat_model_is_asked_and_may_chatter(ctx: Context, seeds: pl.DataFrame) -> None:
    answer = "Sure, here they are:\n###\n4. Instruction:" + WRITTEN
    rows, engine = play(ctx, seeds, lambda _: (answer, "stop"), Alpaca(prompting="chat"))
    assert len(kept(rows)) == 2
    [[request]] = engine.calls
    assert request.prompt[0][0] == "user"
    assert request.prompt[0][1].endswith("in exactly this form and with nothing else.")
    assert request.decoding.stop == ()
    chatter = rows.filter(pl.col("drop_reason") == "fields_missing")["evidence"][0]
    assert json.loads(chatter)["response"].startswith("Sure")


FOURTH = " Translate the word.\n4. Input: sel\n4. Constraints: one word"


def test_unnatural_shows_five_triplets_in_turn_and_answers_greedily(
    ctx: Context, seeds: pl.DataFrame
) -> None:
    def script(prompt: str) -> Answer:
        if prompt.endswith("4. Instruction:"):
            return FOURTH, "stop"
        return " salt ", "stop"

    rows, engine = play(ctx, seeds, script, Unnatural(), max_requests=10, requests_per_round=10)
    drafts, answers = engine.calls
    prompts = [text_of(request) for request in drafts]
    assert len(set(prompts)) == 5
    assert prompts[:5] == prompts[5:]
    assert len({request.sample for request in drafts}) == 10
    shown = {parent for parents in rows["parents"] for parent in parents}
    assert len(shown) == 15
    assert (drafts[0].decoding.temperature, drafts[0].decoding.top_p) == (1.0, 0.99)
    assert drafts[0].decoding.stop == ("\n###",)
    assert "1. Constraints: None." in prompts[0]
    [answer] = answers
    assert answer.decoding.temperature == 0
    assert text_of(answer).endswith(
        "Instruction: Translate the word.\nInput: sel\nConstraints: one word\nOutput:"
    )
    assert kept(rows) == [("Translate the word.\n\nsel", "salt")]
    assert rows.filter(pl.col("drop_reason").is_null())["constraints"].to_list() == ["one word"]
    assert rows["drop_reason"].to_list() == [None, *["duplicate"] * 9]
    assert json.loads(rows["evidence"][1]) == {"duplicate_of": rows["id"][0]}
    assert rows["nearest_rouge_l"].null_count() == 10, "novelty is not measured"


def test_our_seeds_of_unnatural_carry_constraints_and_others_are_warned_of(
    ctx: Context, seeds: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(ROOT / "data/seeds/unnatural_seed_tasks.jsonl")
    ours = next(records(ctx, path=(path,), source="unnatural-seeds", license="Apache-2.0"))
    assert ours.height == 15
    options = {"max_requests": 5, "requests_per_round": 5}
    _, engine = play(ctx, ours, lambda _: (FOURTH, "stop"), Unnatural(), **options)
    prompts = " ".join(map(text_of, engine.calls[0]))
    assert prompts.count("Constraints: ") == 15
    assert not re.search(r"Constraints: None|Input: <noinput>", prompts)
    assert not caplog.messages or "constraints" not in caplog.text
    play(ctx, seeds, lambda _: (FOURTH, "stop"), Unnatural(), **options)
    assert "none of the 175 seeds has constraints" in caplog.text


def test_unnatural_requests_a_task_field_by_field(ctx: Context, seeds: pl.DataFrame) -> None:
    written = {
        "4. Instruction:": (" Translate the word.", "stop"),
        "4. Input:": (" sel", "stop"),
        "4. Constraints:": (" one word", "stop"),
    }

    def script(prompt: str) -> Answer:
        return written.get(prompt.rpartition("\n")[2], (" salt", "stop"))

    rows, engine = play(ctx, seeds, script, Unnatural(field_by_field=True))
    assert kept(rows) == [("Translate the word.\n\nsel", "salt")]
    assert rows["constraints"].to_list() == ["one word"]
    assert rows["journal"].list.len().to_list() == [4]
    assert [call[0].decoding.stop for call in engine.calls[:3]] == [("\n",)] * 3
    # A field that was cut ends the task.
    written["4. Input:"] = (" se", "length")
    rows, engine = play(ctx, seeds, script, Unnatural(field_by_field=True))
    assert rows["drop_reason"].to_list() == ["response_cut"]
    assert sum(map(len, engine.calls)) == 2
    with pytest.raises(ValueError, match="field_by_field"):
        Unnatural(field_by_field=True, prompting="chat")


def test_unnatural_filters_what_is_copied_or_lacks_a_field(ctx: Context) -> None:
    numbered = tasks(*((f"Do number {i}.", f"in {i}", "out") for i in range(15)))

    def script(prompt: str) -> Answer:
        if not prompt.endswith("4. Instruction:"):
            return "", "stop"
        first = prompt.split("1. Instruction: ")[1].splitlines()
        number = int(first[0].split()[2].rstrip("."))
        return {
            0: (f" {first[0]}\n4. Input: {first[1][10:]}\n4. Constraints: None.", "stop"),
            1: (" Do it.\n4. Input: x\n", "stop"),
            2: (" Do it.\n4. Input: y\n4. Constraints: None.", "length"),
        }.get(number % 4, (" Do it.\n4. Input: y\n4. Constraints: None.", "stop"))

    rows, engine = play(
        ctx, numbered, script, Unnatural(), max_requests=40, requests_per_round=40, seed=2
    )
    reasons = Counter(rows["drop_reason"])
    assert {"repeats_demonstration", "fields_missing", "empty_output"} <= set(reasons)
    assert "Constraints" not in text_of(engine.calls[1][0]).splitlines()[-2]
    with pytest.raises(UserError, match="at least 15 usable instructions, got 14"):
        play(ctx, numbered[1:], script, Unnatural())


def raw(name: str) -> dict[str, str]:
    """Raw completions of a real run, by instruction."""
    completions = json_lines(ROOT / f"tests/golden/ensemble_instruct_{name}_instances.jsonl.gz")
    return {without_mark(row["instruction"]): row["raw_instances"] for row in completions}


@pytest.mark.parametrize(("inputs", "name", "shown"), [("with", "io", 24), ("without", "o", 10)])
def test_ensemble_instruct_has_two_pipelines_of_simple_prompts(
    ctx: Context, seeds: pl.DataFrame, inputs: Any, name: str, shown: int
) -> None:
    """Its own raw completions, read again: the samples that its authors kept come out."""
    completions = raw(name)
    instructions = iter(list(completions))

    def script(prompt: str) -> Answer:
        if prompt.endswith(f"\n{shown + 1}."):
            return f" {next(instructions)} |EoS| and so", "stop"
        return completions[prompt.rstrip("\n").rpartition("instruction: ")[2]], "stop"

    number = len(completions)
    rows, engine = play(
        *(ctx, seeds, script),
        EnsembleInstruct(inputs=inputs, max_rouge_l=1.0, instruction_filter=None),
        num_rows=number,
        max_requests=number,
        requests_per_round=number,
    )
    lists, instances = engine.calls
    humans = seeds.filter(pl.col("input_start").is_not_null() == (inputs == "with"))["id"]
    assert all(set(parents) <= set(humans) for parents in rows["parents"])
    assert text_of(lists[0]).count("|EoS|") == shown
    assert lists[0].decoding.stop[0] == "|EoS|"
    demonstrations = {"with": 18, "without": 15}[inputs]
    assert text_of(instances[0]).count("\ninstruction: ") == demonstrations + 1
    assert text_of(instances[0]).count("\ninput: ") == (demonstrations if inputs == "with" else 0)
    published = {
        (row["instruction"], row["input"])
        for row in json_lines(ROOT / "tests/golden/ensemble_instruct_samples.jsonl.gz")
        if row["instruction"] in completions and bool(row["input"]) == (inputs == "with")
    }
    assert len(published) > 60
    instances_read = {
        (m[0]["content"][: start - 2], m[0]["content"][start:].partition("\n")[0].strip())
        if start is not None
        else (m[0]["content"], "")
        for m, start in rows[["messages", "input_start"]].iter_rows()
    }
    assert published <= instances_read
    assert set(rows["drop_reason"].drop_nulls()) <= {
        *("no_instances", "input_equals_output", "ends_with_colon", "empty_output"),
    }


def test_ensemble_instruct_shows_four_machine_instructions_at_most(
    ctx: Context, seeds: pl.DataFrame
) -> None:
    words = iter(
        f"{a} {b} and again {a}" for a, b in pairwise(f"w{i} x{i} y{i}" for i in range(99))
    )

    def script(prompt: str) -> Answer:
        return f" Tell {next(words)}", "stop"

    _, engine = play(
        ctx, seeds, script, EnsembleInstruct(inputs="without"), num_rows=7, max_requests=7
    )
    lists = [text_of(asked[0]) for asked in engine.calls[:7]]
    assert [prompt.count("Tell w") for prompt in lists] == [0, 1, 2, 3, 4, 4, 4]


def test_lamini_draws_topics_and_has_each_instruction_answered(
    ctx: Context, seeds: pl.DataFrame, tmp_path: Path
) -> None:
    def script(prompt: str) -> Answer:
        if "more tasks" in prompt:
            return (
                "Here you go:\n4. Explain how salt is won.\n5) Compare two seas in words.",
                "stop",
            )
        return f"Answer to: {prompt}", "stop"

    rows, engine = play(ctx, seeds, script, LaMini())
    [asked], answers = engine.calls
    assert asked.prompt[0][0] == "user"
    assert "Write 20 more tasks, numbered from 4" in text_of(asked)
    topics = rows["topics"][0].to_list()
    assert len(topics) == 3
    assert set(topics) <= set(TOPICS)
    assert "; ".join(topics) in text_of(asked)
    assert [text_of(a) for a in answers] == [
        *("Explain how salt is won.", "Compare two seas in words."),
    ]
    assert kept(rows)[0] == ("Explain how salt is won.", "Answer to: Explain how salt is won.")
    file = tmp_path / "topics.txt"
    file.write_text("tides\n\n  algae \nreefs\n", "utf-8")
    rows, _ = play(ctx, seeds, script, LaMini(), topic_files=(str(file),))
    assert sorted(rows["topics"][0]) == ["algae", "reefs", "tides"]
    with pytest.raises(UserError, match="at most 3, the number of topics, got 4"):
        play(ctx, seeds, script, LaMini(topics_per_request=4), topic_files=(str(file),))
    _, one = play(ctx, seeds, script, Alpaca(topics_per_request=1), topics=("kelp",))
    assert "about these topics: kelp" in text_of(one.calls[0][0])


EXAMPLES = tasks(*(("Say if it is good.", f"review {i}", "yes") for i in range(8)))


def test_self_guide_writes_inputs_for_one_task_then_outputs(ctx: Context) -> None:
    reviews = [f"a review of {i} words" for i in range(100, 112)]
    inputs = iter([*reviews, "Input: a review", "r" * 900, "review 3"])

    def script(prompt: str) -> Answer:
        if prompt.endswith("7. Input:"):
            return f" {next(inputs)}", "stop"
        return (" yes" if "100" not in prompt else " no\nInstruction: next"), "stop"

    rows, engine = play(
        *(ctx, EXAMPLES, script),
        SelfGuide(),
        max_requests=15,
        requests_per_round=5,
    )
    listing = text_of(engine.calls[0][0])
    assert listing.startswith("The task is: Say if it is good.")
    assert listing.count("###") == 7
    later = text_of(engine.calls[2][0])
    assert later.count("a review of") == 3, "half of the inputs shown are the model's own"
    answer = engine.calls[3][0]
    assert answer.decoding.temperature == 0
    assert text_of(answer).count("Output: yes") == 3
    reasons = Counter(rows["drop_reason"])
    assert reasons["noisy_text"] == 2
    assert reasons["length_outlier"] == 1
    assert reasons["repeats_demonstration"] + reasons[None] == 12
    assert all(turns[0].startswith("Say if it is good.\n\na review") for turns in kept(rows)[:11])
    outlier = rows.filter(pl.col("drop_reason") == "length_outlier")["evidence"][0]
    assert json.loads(outlier)["characters"] == 900


def test_the_recipe_of_self_guide_shows_all_demonstrations() -> None:
    options = Recipe.load("self-guide").steps["written"].options
    demonstrations = (ROOT / "data/seeds/plain_english.jsonl").read_text("utf-8").splitlines()
    assert options.method.num_shots == len(demonstrations) + options.method.max_generated_shots


def test_self_guide_needs_one_task(ctx: Context) -> None:
    mixed = tasks(("Do this.", "a", "b"), ("Do that.", "c", "d"))
    with pytest.raises(UserError, match="examples of one task, got 2 tasks"):
        play(ctx, mixed, lambda _: ("", "stop"), SelfGuide(num_shots=2, max_generated_shots=0))
    method = SelfGuide(num_shots=2, max_generated_shots=0, task="Do both.", instances=None)
    rows, engine = play(ctx, mixed, lambda p: (" x", "stop"), method)
    assert "The task is: Do both." in text_of(engine.calls[0][0])
    assert kept(rows) == [("Do both.\n\nx",)]


def test_self_specialization_leaves_the_answer_to_others(ctx: Context, seeds: pl.DataFrame) -> None:
    second = "###\n7. Instruction: Name three drugs.\n7. Input: <noinput>"
    answer = f" Read this scan of the chest.\n6. Input: A shadow.\n{second}"
    rows, engine = play(
        ctx, seeds, lambda _: (answer, "stop"), SelfSpecialization(domain="radiology")
    )
    assert kept(rows) == [("Read this scan of the chest.\n\nA shadow.",)]
    assert rows["drop_reason"].to_list() == [None, "too_short"]
    assert "an expert in radiology" in text_of(engine.calls[0][0])
    assert len(engine.calls) == 1


def test_bioinstruct_asks_a_chat_model_in_its_domain(ctx: Context, seeds: pl.DataFrame) -> None:
    answer = (
        "###\n4. Instruction: Name the four chambers of a heart.\n4. Input: <noinput>\n4. Output: x"
    )
    rows, engine = play(ctx, seeds, lambda _: (answer, "stop"), BioInstruct())
    assert kept(rows) == [("Name the four chambers of a heart.", "x")]
    assert "biomedicine" in text_of(engine.calls[0][0])
    assert text_of(engine.calls[0][0]).count("\n###") == 4


CASE = """###
4. Type: USMLE style Q&A
4. Topic: Cardiology
4. View: clinician
4. Difficulty: 4
4. Instruction: Choose the next step.
4. Input: A man of 60 ... (A) wait (B) operate
###
5. Type: chat
5. Topic: Sleep
5. View: patient
5. Instruction: Why am I tired?
5. Input: <noinput>"""


def test_alpacare_keeps_what_the_seeds_attributes_ask_for(ctx: Context) -> None:
    attributes = {"type": "open Q&A", "topic": "genetics", "view": "student", "difficulty": 2}
    genes = tasks(*((f"Explain gene {i}.", "", "...") for i in range(4)), **attributes)

    def script(prompt: str) -> Answer:
        return (CASE if "Go on with 7 more" in prompt else "Operate."), "stop"

    rows, engine = play(ctx, genes, script, AlpaCare())
    assert rows.columns[-8:-3] == [
        "nearest_rouge_l", *(f"task_{a}" for a in ("type", "topic", "view", "difficulty"))
    ]  # fmt: skip
    assert rows["task_difficulty"].to_list() == ["4", None]
    assert rows["drop_reason"].to_list() == [None, "fields_missing"]
    asked = engine.calls[0][0]
    assert "1. Difficulty: 2\n1. Instruction: Explain gene" in text_of(asked)
    assert (asked.decoding.temperature, asked.decoding.presence_penalty) == (1.0, 1.5)
    assert text_of(engine.calls[1][0]).startswith("Choose the next step.\n\nA man of 60")
    lacking = {name: value for name, value in attributes.items() if name != "difficulty"}
    bare = tasks(*((f"Do {i}.", "", "x") for i in range(4)), **lacking)
    with pytest.raises(UserError, match="every seed must have difficulty"):
        play(ctx, bare, script, AlpaCare())


def test_an_open_chat_model_is_asked_in_turns_all_the_way(
    ctx: Context, seeds: pl.DataFrame
) -> None:
    def script(prompt: str) -> Answer:
        if "more tasks" in prompt:
            return "9. Sort the words by length.\n10. Is it about the sea or not?", "stop"
        if prompt.endswith("Is it classification?"):
            return ("Yes." if "sea" in prompt.splitlines()[-2] else "No."), "stop"
        if prompt.startswith("Each task asks"):
            return "Class label: sea\nA wave.", "stop"
        return "Example 1\nInput: bb a\nOutput: a bb", "stop"

    rows, engine = play(ctx, seeds, script, SelfInstruct(prompting="chat"))
    assert sorted(kept(rows)) == [
        ("Is it about the sea or not?\n\nA wave.", "sea"),
        ("Sort the words by length.\n\nbb a", "a bb"),
    ]
    assert all(request.prompt[0][0] == "user" for asked in engine.calls for request in asked)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_seeds_are_a_mistake_for_every_method(
    ctx: Context, seeds: pl.DataFrame, method: Method
) -> None:
    without_shots = {"num_shots": 0, "max_generated_shots": 0}
    if isinstance(method, Unnatural):
        without_shots.pop("max_generated_shots")
    for changes in ({}, without_shots):
        changed = replace(method, **changes)
        with pytest.raises(UserError, match=r"at least \d+ usable instructions, got 0"):
            play(ctx, seeds.clear(), lambda _: ("", "stop"), changed)


def test_failed_and_empty_answers_are_reported(
    ctx: Context, seeds: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    for method in METHODS:
        if isinstance(method, AlpaCare | SelfGuide):
            continue
        method = replace(method, inputs="with")
        rows, _ = play(ctx, seeds, lambda _: ("no answer", "error"), method, max_requests=2)
        assert rows["error"].to_list() == ["no answer"] * 2
        rows, _ = play(ctx, seeds, lambda _: ("", "stop"), method, max_requests=2)
        assert set(rows["drop_reason"]) <= {"nothing_parsed", "fields_missing"}
        assert "0 of 99 instructions" in caplog.text
        caplog.clear()


def test_an_option_replaces_the_default_of_its_method(ctx: Context, seeds: pl.DataFrame) -> None:
    method = Alpaca(
        num_shots=5, list_until=9, temperature=0.0, instruction_filter=None, instances=None
    )
    answer = " Go on.\n6. Input: a video\n6. Output: o"
    rows, engine = play(ctx, seeds, lambda _: (answer, "stop"), method)
    assert kept(rows) == [("Go on.\n\na video",)]
    [[request]] = engine.calls
    assert text_of(request).endswith("6. Instruction:")
    assert request.decoding.stop == ("\n9.", "\n9 .")
    assert request.decoding.temperature == 0.0
    assert request.decoding.max_tokens == 3072, "other options keep the method's defaults"


def test_the_published_figures() -> None:
    own, alpaca = SelfInstruct(), Alpaca()
    assert (own.num_shots, own.max_generated_shots, own.list_until) == (8, 2, 16)
    assert (own.temperature, own.top_p, own.presence_penalty) == (0.7, 0.5, 2.0)
    assert alpaca.instruction_filter is not None
    assert set(alpaca.instruction_filter.banned_keywords) - set(KEYWORDS) == {
        *("video", "audio", "music", "flowchart", "diagram"),
    }
    assert alpaca.list_end == 20


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_recipe_needs_no_more_than_the_name(method: Method) -> None:
    raw: Any = method.name
    if isinstance(method, EnsembleInstruct):
        raw = {"name": method.name, "inputs": "with"}
    assert problems("generate.self_instruct", num_rows=9, method=raw) == []
    assert {"journal", "nearest_rouge_l"} <= set(added_columns(method))


def test_answers_keep_their_method_s_defaults() -> None:
    assert LaMini().instances == ZeroShotAnswered()
    medical = AlpaCare()
    assert isinstance(medical.instances, ZeroShotAnswered)
    answers, tasks = medical.instances, medical
    assert (tasks.max_tokens, tasks.temperature, tasks.presence_penalty) == (500, 1.0, 1.5)
    assert (answers.max_tokens[0], answers.temperature, answers.presence_penalty) == (300, 1.0, 1.5)
    assert Unnatural().instances == SelfGuide().instances == Answered()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ensemble-instruct"}, "the option 'method.inputs' is missing"),
        (
            {"method": {"name": "alpaca", "list_until": 4}},
            "method.list_until must be at least 5 (as 3 tasks are shown and one must be written),"
            " got 4",
        ),
        (
            {"method": {"name": "self-instruct", "max_generated_shots": 9}},
            "method.max_generated_shots must be at most num_shots (8), got 9",
        ),
        (
            {"method": {"name": "ensemble-instruct", "inputs": "without", "list_until": 11}},
            "method.list_until must be at least 12 (as 10 tasks are shown and one must be "
            "written), got 11",
        ),
        (
            {"method": {"name": "alpaca", "domain": "law"}},
            "method (alpaca) has no option 'domain'",
        ),
        (
            {"method": {"name": "alpaca", "instances": {"name": "written", "num_shots": 3}}},
            "method.instances (written) has no option 'num_shots'",
        ),
        (
            {"method": {"name": "unnatural", "instances": {"name": "examples"}}},
            "method.instances.name must be 'answered', got 'examples'",
        ),
        (
            {"topics": ["tides"]},
            "topics must be left out, got ['tides']",
        ),
        (
            {"method": "lamini", "topics": ["tides"]},
            "method.topics_per_request must be at most 1, the number of topics, got 3",
        ),
        ({"num_rows": 0}, "num_rows must be at least 1, got 0"),
    ],
)
def test_a_recipe_s_mistakes(options: dict[str, Any], message: str) -> None:
    assert problems("generate.self_instruct", **{"num_rows": 9} | options) == [message]


def test_self_guide_shows_all_of_a_few_demonstrations(ctx: Context) -> None:
    inputs = iter([f"review number {i}" for i in range(40)])

    def script(prompt: str) -> Answer:
        return (f" {next(inputs)}" if prompt.endswith(". Input:") else " no"), "stop"

    method = SelfGuide(num_shots=13, max_generated_shots=10, max_length_deviations=None)
    options = {"max_requests": 12, "requests_per_round": 4}
    rows, engine = play(ctx, EXAMPLES.head(3), script, method, **options)
    assert len(kept(rows)) == 12
    prompts = [text_of(request) for call in engine.calls[:3] for request in call]
    shown = [prompt.count("###") - 1 for prompt in prompts]
    assert shown == [3] * 4 + [7] * 4 + [11] * 4
    assert all(
        prompt.endswith(f"{n + 1}. Input:") for n, prompt in zip(shown, prompts, strict=True)
    )


def test_lengths_are_measured_against_what_was_written_or_the_demonstrations(ctx: Context) -> None:
    """Of demonstrations of one length only that length is usual, as in the authors' code."""
    inputs = iter(["review 17", "a review of more than nine letters"])

    def script(prompt: str) -> Answer:
        return (f" {next(inputs)}" if prompt.endswith("7. Input:") else " yes"), "stop"

    limits = {"max_requests": 2, "requests_per_round": 2}
    rows, _ = play(ctx, EXAMPLES, script, SelfGuide(), **limits)
    assert rows["drop_reason"].to_list() == [None, None]
    inputs = iter(["review 8", "a review of more than nine letters"])
    rows, _ = play(ctx, EXAMPLES, script, SelfGuide(length_reference="seeds"), **limits)
    assert rows["drop_reason"].to_list() == [None, "length_outlier"]
    evidence = json.loads(rows["evidence"][1])
    assert (evidence["least"], evidence["most"]) == (8, 8)


def test_fields_are_written_one_by_one_for_weak_models(ctx: Context, seeds: pl.DataFrame) -> None:
    def script(prompt: str) -> Answer:
        last = prompt.rsplit("\n", 1)[1]
        return {"6. Instruction:": " Name a river of gold.", "6. Input:": " in Asia"}[last], "stop"

    method = SelfSpecialization(field_by_field=True)
    rows, engine = play(ctx, seeds, script, method)
    assert kept(rows) == [("Name a river of gold.\n\nin Asia",)]
    assert all(request.decoding.stop == ("\n",) for call in engine.calls for request in call)
    one = SelfGuide(field_by_field=True, instances=None)
    rows, _ = play(ctx, EXAMPLES, lambda _: (" a review", "stop"), one)
    assert kept(rows) == [("Say if it is good.\n\na review",)]
    for name in ("self-guide", "self-specialization"):
        raw = {"name": name, "field_by_field": True, "prompting": "chat"}
        (message,) = problems("generate.self_instruct", num_rows=9, method=raw)
        assert "field_by_field must be left out with prompting: chat" in message
