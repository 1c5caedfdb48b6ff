"""Personas: out of texts and of one another, without end where they repeat, and what they bring."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.models import LanguageModel
from pipeline.recipe.recipe import Recipe
from schemas.records import digest
from stages.generate.personas import FromText, Relations, Tasks, personas
from stages.generate.personas.descriptions import parse_description
from tests.support.options import problems
from tests.support.rows import DATA, conversations, documents, json_lines
from tests.support.scripted import Answer, scripted

MODEL = LanguageModel(model="none")
PEOPLE = conversations(
    [("A sailor who mends nets.",), ("A nurse at sea.",), ("A cook in a port.",)]
)
EXAMPLES = conversations([(f"How many nets are {n} and {n} nets?", str(2 * n)) for n in range(8)])


def first(frame: pl.DataFrame) -> list[str]:
    """The user's turn of each row."""
    return [messages[0]["content"] for messages in frame["messages"].to_list()]


def asked(context: Any) -> list[str]:
    return [r.prompt[-1][1] for call in context.engine.calls for r in call]


def reader(text: str) -> Answer:
    """Somebody who is known by what the prompt asks for and shows."""
    bonds = ("read it to the end", "be its author", "enjoy it", "be put off by it")
    (bond,) = (bond for bond in bonds if f"{bond}. In one" in text)
    return f"A person number {digest(text)} who might {bond}.", "stop"


def test_each_text_brings_those_who_would_read_or_write_it(ctx: Context) -> None:
    texts = documents(["Nets are mended by night.", "A keel is laid."], license="CC0-1.0")
    context = scripted(ctx, reader)
    method = FromText(per_text=4, stances=("read", "write", "like", "dislike"))
    rows = personas(context, documents=texts, model=MODEL, method=method)
    assert len(rows) == 8
    for id_, text in texts.select("id", "text").iter_rows():
        own = rows.filter(pl.col("parents").list.first() == id_)
        assert {json.loads(extra)["stance"] for extra in own["extra"]} == {*method.stances}
        assert sum(text in prompt for prompt in asked(context)) == 4
    assert first(rows) == rows["persona"].to_list()
    assert {origin[0]["license"] for origin in rows["origins"]} == {"CC0-1.0"}
    ((request, *_),) = context.engine.calls
    assert (request.decoding.temperature, request.decoding.top_p) == (0.6, 0.95)


def test_a_texts_personas_depend_on_that_text_alone(ctx: Context) -> None:
    texts = documents([f"Text number {n} about the sea." for n in range(12)])
    rows = personas(scripted(ctx, reader), documents=texts, model=MODEL)
    fewer = personas(scripted(ctx, reader), documents=texts[3:8], model=MODEL)
    assert len({json.loads(extra)["stance"] for extra in rows["extra"]}) == 2
    assert fewer.drop("origins").equals(rows[3:8].drop("origins"))


def test_a_sample_of_the_texts_is_drawn_by_the_seed(ctx: Context) -> None:
    texts = documents([f"Text number {n} about the sea." for n in range(12)])
    drawn = []
    stances = []
    for seed in (0, 0, 1):
        method = FromText(max_texts=4)
        context = scripted(ctx, reader)
        rows = personas(context, documents=texts, model=MODEL, method=method, seed=seed)
        assert (rows["drop_reason"] == "not_sampled").sum() == 8
        assert len(asked(context)) == 4
        drawn.append(rows.filter(pl.col("drop_reason").is_null())["parents"].to_list())
        stances.append([json.loads(extra)["stance"] for extra in rows["extra"]])
    assert drawn[0] == drawn[1] != drawn[2]
    assert stances[0] == stances[1] != stances[2]


@pytest.mark.parametrize(
    ("answer", "persona"),
    [
        ("A nurse who sails.", "A nurse who sails."),
        ("  A nurse\nwho sails.\n", "A nurse who sails."),
        ("Sure! Here is a description:\n\nA nurse who sails.", "A nurse who sails."),
        ("**Persona:** A nurse who sails.", "A nurse who sails."),
        ("Description: A nurse who **sails**.", "A nurse who sails."),
        ("A nurse: she sails.", "A nurse: she sails."),
        (" \n", None),
        ("Persona:", None),
    ],
)
def test_a_description_is_one_line(answer: str, persona: str | None) -> None:
    assert parse_description(answer) == persona


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("Nobody.", "stop"), "persona_length"),
        (("word " * 200, "stop"), "persona_length"),
        (("A nurse who", "length"), "persona_cut"),
        (("", "stop"), "persona_unparsed"),
    ],
)
def test_what_describes_nobody_is_dropped(ctx: Context, answer: Answer, reason: str) -> None:
    rows = personas(scripted(ctx, lambda _: answer), documents=documents(["The sea."]), model=MODEL)
    assert rows["drop_reason"].to_list() == [reason]
    assert rows["evidence"].null_count() == 0


def test_relations_go_from_person_to_person(ctx: Context) -> None:
    def friend(text: str) -> Answer:
        return f"A friend of {text.split('.')[0].removeprefix('A person: ')} indeed.", "stop"

    method = Relations(iterations=3, per_persona=2)
    rows = personas(scripted(ctx, friend), personas=PEOPLE[:1], model=MODEL, method=method)
    kept = rows.filter(pl.col("drop_reason").is_null())
    # Both samples of a round say the same: one row, from which the next round goes on.
    assert kept["relation_step"].to_list() == [1, 2, 3]
    assert rows["relation_step"].to_list() == [1, 1, 2, 2, 3, 3]
    ids = [PEOPLE["id"][0], *kept["id"]]
    assert kept["parents"].to_list() == [[id_] for id_ in ids[:-1]]
    assert all(line.count("friend of") == n for n, line in enumerate(kept["persona"], 1))


def test_those_who_know_each_other_bring_nobody_new(ctx: Context) -> None:
    one, other = "A sailor who mends nets.", "A nurse at sea."

    def neighbor(text: str) -> Answer:
        return (one if other in text else other), "stop"

    context = scripted(ctx, neighbor)
    start = PEOPLE.filter(pl.Series(first(PEOPLE)) == one)
    rows = personas(context, personas=start, model=MODEL, method=Relations(iterations=6))
    assert rows["persona"].to_list() == [other, one]
    assert len(asked(context)) == 2


@pytest.mark.parametrize("kind", ["math", "reasoning", "instruction"])
def test_a_problem_waits_for_its_answer(ctx: Context, kind: Any) -> None:
    context = scripted(ctx, lambda _: ("**Problem:** How many nets?", "stop"))
    method = Tasks(kind=kind, per_persona=2)
    rows = personas(context, personas=PEOPLE, model=MODEL, method=method)
    assert len(rows) == 6
    assert all(person in prompt for person, prompt in zip(
        [p for p in first(PEOPLE) for _ in range(2)], asked(context), strict=True
    ))  # fmt: skip
    assert [[m["role"] for m in row] for row in rows["messages"].to_list()] == [["user"]] * 6
    assert {*rows["persona_task"]} == {kind}
    assert rows["parents"].to_list() == [[id_] for id_ in PEOPLE["id"] for _ in range(2)]
    assert [r.sample for r in context.engine.calls[0]] == [0, 1] * 3


@pytest.mark.parametrize("kind", ["knowledge", "npc", "tool"])
def test_a_text_is_the_answer_to_the_request_without_the_examples(ctx: Context, kind: Any) -> None:
    context = scripted(ctx, lambda text: (f"Written for {len(text)} characters.", "stop"))
    method = Tasks(kind=kind, prompting="few_shot", num_examples=2)
    rows = personas(context, personas=PEOPLE, examples=EXAMPLES, model=MODEL, method=method)
    for messages, persona, prompt in zip(
        rows["messages"].to_list(), first(PEOPLE), asked(context), strict=True
    ):
        assert [m["role"] for m in messages] == ["user", "assistant"]
        assert persona in messages[0]["content"]
        assert "nets and" not in messages[0]["content"]
        assert prompt.endswith(messages[0]["content"])
        assert prompt.count("How many nets are") == 2
        assert messages[1]["content"] == f"Written for {len(prompt)} characters."


def test_a_character_belongs_to_the_world_that_is_described(ctx: Context) -> None:
    context = scripted(ctx, lambda _: ("Name: Ada.", "stop"))
    method = Tasks(kind="npc", world="A city under the sea.")
    personas(context, personas=PEOPLE, model=MODEL, method=method)
    assert all("A city under the sea." in prompt for prompt in asked(context))


def test_persona_enhanced_examples_stand_under_somebody_who_brings_them(ctx: Context) -> None:
    def script(text: str) -> Answer:
        if text.startswith("Who would bring this"):
            return f"A fisher of {text.split('are ')[1][0]} nets.", "stop"
        return f"How many boats? {digest(text)}", "stop"

    context = scripted(ctx, script)
    method = Tasks(kind="math", prompting="persona_few_shot", num_examples=2)
    options: dict[str, Any] = {"examples": EXAMPLES, "model": MODEL, "method": method}
    rows = personas(context, personas=PEOPLE, **options)
    inferred, written = context.engine.calls
    assert len(inferred) <= 6, "only of the examples that are shown"
    for request in written:
        shown = request.prompt[-1][1]
        for number in range(8):
            assert (f"A fisher of {number} nets." in shown) == (f"{number} and {number}" in shown)
        assert shown.count("Person: A fisher") == 2
    assert all(len(keys) == 3 for keys in rows["journal"].to_list())
    alone = personas(scripted(ctx, script), personas=PEOPLE[1:2], **options)
    assert alone.drop("origins").equals(rows[1:2].drop("origins"))


@pytest.mark.parametrize("answer", [("no server", "error"), ("", "stop")])
def test_without_the_examples_persona_nothing_else_is_shown(ctx: Context, answer: Answer) -> None:
    def script(text: str) -> Answer:
        return answer if text.startswith("Who would bring this") else ("How many?", "stop")

    method = Tasks(kind="math", prompting="persona_few_shot")
    context = scripted(ctx, script)
    rows = personas(context, personas=PEOPLE, examples=EXAMPLES, model=MODEL, method=method)
    assert len(context.engine.calls) == 1 or not context.engine.calls[1]
    if answer[1] == "error":
        assert rows["error"].to_list() == ["no server"] * 3
    else:
        assert rows["drop_reason"].to_list() == ["persona_unparsed"] * 3


def test_rows_without_a_text_are_dropped(ctx: Context) -> None:
    blank = conversations([(" ", "x"), ("A cook in a port.",)])
    for method in (Relations(), Tasks(kind="tool")):
        rows = personas(
            scripted(ctx, lambda _: ("A cook who bakes.", "stop")),
            personas=blank,
            model=MODEL,
            method=method,
        )
        assert sorted(rows["drop_reason"], key=str) == [None, "no_persona"]
    rows = personas(scripted(ctx, reader), documents=documents([" ", "The sea."]), model=MODEL)
    assert sorted(rows["drop_reason"], key=str) == [None, "no_text"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "tasks", "world": "x"}, "world must be left out"),
        ({"name": "tasks", "num_examples": 5}, "num_examples must be left out for zero_shot"),
        ({"name": "text", "stances": []}, "stances"),
        ({"name": "relations", "iterations": 0}, "iterations must be"),
        ({"name": "hub"}, "hub"),
    ],
)
def test_a_recipes_mistakes(method: dict[str, Any], message: str) -> None:
    assert message in problems("generate.personas", method=method)[0]


@pytest.mark.parametrize(
    ("needs", "method", "message"),
    [
        ({}, "text", "must have an input for 'documents'"),
        ({"personas": "pool"}, "text", "must have an input for 'documents'"),
        ({"documents": "pages"}, "relations", "relations does not read 'documents'"),
        ({}, "tasks", "must have an input for 'personas'"),
        ({"personas": "pool", "examples": "pool"}, "tasks", "zero_shot does not read 'examples'"),
        (
            {"personas": "pool"},
            {"name": "tasks", "prompting": "few_shot"},
            "few_shot must have an input for 'examples'",
        ),
    ],
)
def test_each_method_has_its_inputs(needs: dict[str, str], method: Any, message: str) -> None:
    book = {"path": str(DATA / "samples/rust_book.jsonl.gz"), "source": "s", "license": "x"}
    pool = {**book, "path": str(DATA / "samples/user_oriented_252.jsonl")}
    stages = {
        "pages": {"uses": "load.documents", "with": book},
        "pool": {"uses": "load.records", "with": pool},
        "new": {
            "uses": "generate.personas", "needs": needs, "with": {"model": "m", "method": method},
        },
    }  # fmt: skip
    with pytest.raises(Exception, match=message):
        Recipe.of("people", stages, {"m": {"model": str(DATA / "models/tinylm")}})


@pytest.mark.proof
def test_a_live_model_accounts_for_every_text(ctx: Context, tinylm: LanguageModel) -> None:
    pages = [row["text"][:200] for row in json_lines(DATA / "samples/rust_book.jsonl.gz")[:3]]
    method = FromText(words=(1, 99))
    rows = personas(ctx, documents=documents(pages), model=tinylm, method=method, max_tokens=24)
    assert len(rows) == 3
    assert {*rows["drop_reason"]} <= {None, "persona_cut", "duplicate"}
    assert rows["error"].null_count() == 3
